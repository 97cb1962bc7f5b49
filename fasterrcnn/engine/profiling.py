"""The cost of a training step: host synchronizations, floating-point operations, seconds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fasterrcnn.engine.patching import methods_changed
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.models import kernels
from fasterrcnn.models.build import Detector, FasterRCNN


class _Synchronizations(TorchDispatchMode):
    """Counts operators that block the host until a GPU has computed values that it needs."""

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
        if isinstance(kernels.load("nms_kernels", device), str):
            self.names.add("fasterrcnn::nms")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put_") else ()
        by_mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
        self.count += name in self.names or by_mask
        return func(*args, **(kwargs or {}))


def count_synchronizations(step: Callable[[], object], device: torch.device) -> int:
    """Operators in `step` that would block a GPU's host. Told by their names, on any device."""
    with torch.compiler.set_stance("force_eager"), _Synchronizations(device) as found:
        step()
    return found.count


def count_flops(step: Callable[[], object]) -> int:
    """Floating-point operations of convolutions and matrix products of `step`."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def matmul_peak(amp: str, rt: Runtime) -> float:
    """TFLOP/s of a large square matrix product in the precision of the step."""
    n = 8192 if rt.device.type != "cpu" else 2048
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(amp, torch.float32)
    a = torch.randn(n, n, device=rt.device).to(dtype)  # GPUs multiply zeros and ones faster
    seconds = []
    with rt.precision(amp):
        for _ in range(5):
            rt.synchronize()
            started = time.perf_counter()
            functional.linear(a, a)
            rt.synchronize()
            seconds.append(time.perf_counter() - started)
    return 2 * n**3 / min(seconds) / 1e12


def time_parts(model: Detector, steps: list[Callable[[], object]], rt: Runtime) -> dict[str, float]:
    """Seconds per step that each part of `model` takes in `steps`, with the device idle between
    parts; never compiled."""
    spent: dict[str, float] = defaultdict(float)
    parts = {
        "transform.forward": "transform",
        "backbone.forward" if isinstance(model, FasterRCNN) else "backbone.pyramid": "backbone",
        "rpn.losses": "rpn losses",
    }
    if isinstance(model, FasterRCNN):
        parts |= {"rpn.proposals": "proposals", "roi_heads.losses": "roi heads"}
    with torch.compiler.set_stance("force_eager"), _timed(model, parts, spent, rt):
        started = time.perf_counter()
        for step in steps:
            step()
            rt.synchronize()
        total = time.perf_counter() - started
    spent["backward and optimizer"] = total - sum(spent.values())
    return {name: seconds / len(steps) for name, seconds in spent.items()}


def _timed(
    model: Detector, parts: dict[str, str], spent: dict[str, float], rt: Runtime
) -> AbstractContextManager:
    """Inside, calls of these methods of `model` add their seconds to those of their part."""

    def watch(name: str, method: Callable) -> Callable:
        def run(*arguments: Any, **named: Any) -> Any:
            rt.synchronize()
            started = time.perf_counter()
            result = method(*arguments, **named)
            rt.synchronize()
            spent[name] += time.perf_counter() - started
            return result

        return run

    return methods_changed(model, {path: partial(watch, name) for path, name in parts.items()})
