"""What a training step costs: waits of the host, floating-point operations, seconds by part."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fasterrcnn.models import nms
from fasterrcnn.models.build import FasterRCNN
from fasterrcnn.models.cpu import fast_layers
from fasterrcnn.runtime import Runtime


class _Waits(TorchDispatchMode):
    """Counts operators that make the host wait for a GPU because it needs their values."""

    count = 0

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.names = {
            "_local_scalar_dense",
            "nonzero",
            "masked_select",
            "equal",
            "torchvision::nms",
        }
        if nms.kernels(device) is None:
            self.names.add("fasterrcnn::nms")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put_") else ()
        by_mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
        self.count += name in self.names or by_mask
        return func(*args, **(kwargs or {}))


def count_waits(step: Callable[[], object], device: torch.device) -> int:
    """Operators of `step` that a GPU's host would wait for, by name, on any device."""
    with torch.compiler.set_stance("force_eager"), _Waits(device) as waits:
        step()
    return waits.count


def count_flops(step: Callable[[], object]) -> int:
    """Floating-point operations of convolutions and matrix products of `step`."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def matmul_peak(amp: str, rt: Runtime) -> float:
    """TFLOP/s of a large square matrix product in the precision of the step."""
    n = 8192 if rt.device.type != "cpu" else 2048
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(amp, torch.float32)
    a = torch.ones(n, n, dtype=dtype, device=rt.device)
    seconds = []
    with rt.autocast(amp), fast_layers(rt.device):
        for _ in range(5):
            rt.synchronize()
            started = time.perf_counter()
            functional.linear(a, a)
            rt.synchronize()
            seconds.append(time.perf_counter() - started)
    return 2 * n**3 / min(seconds) / 1e12


def time_parts(
    model: nn.Module, steps: list[Callable[[], object]], rt: Runtime
) -> dict[str, float]:
    """Seconds per step of the parts of `model` in `steps`, waiting for the device between them;
    never compiled."""
    spent: dict[str, float] = defaultdict(float)
    parts = {
        "transform": (model.transform, "forward"),
        "backbone": (model.backbone, "forward" if isinstance(model, FasterRCNN) else "pyramid"),
        "rpn losses": (model.rpn, "losses"),
    }
    if isinstance(model, FasterRCNN):
        parts["proposals"] = (model.rpn, "proposals")
        parts["roi heads"] = (model.roi_heads, "losses")
    with torch.compiler.set_stance("force_eager"), _timed(parts, spent, rt):
        started = time.perf_counter()
        for step in steps:
            step()
            rt.synchronize()
        total = time.perf_counter() - started
    spent["backward and optimizer"] = total - sum(spent.values())
    return {name: seconds / len(steps) for name, seconds in spent.items()}


@contextmanager
def _timed(
    parts: dict[str, tuple[nn.Module, str]], spent: dict[str, float], rt: Runtime
) -> Iterator[None]:
    """Inside, calls of these methods add their seconds to `spent`."""

    def watch(name: str, method: Callable) -> Callable:
        def run(*arguments, **named):
            rt.synchronize()
            started = time.perf_counter()
            result = method(*arguments, **named)
            rt.synchronize()
            spent[name] += time.perf_counter() - started
            return result

        return run

    for name, (module, method) in parts.items():
        setattr(module, method, watch(name, getattr(module, method)))
    try:
        yield
    finally:
        for module, method in parts.values():
            delattr(module, method)
