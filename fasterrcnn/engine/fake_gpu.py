"""Training steps on a GPU that need not be there: tensors of its device, but without values.

torch's fake tensors have the dtypes, shapes and devices that a step would have on a GPU whose
Triton kernels all work. What in torch needs a real one is replaced: autocast and the gradient
scaler, which switch themselves off in silence, and the autograd engine, which asks for the driver.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.amp.grad_scaler import GradScaler
from torch.utils._foreach_utils import _foreach_supported_types
from torch.utils._python_dispatch import TorchDispatchMode

from fasterrcnn.engine.runtime import Module, Runtime
from fasterrcnn.engine.step import Training, make_training
from fasterrcnn.models import kernels, resize
from fasterrcnn.models.build import build
from fasterrcnn.recipes import Recipe

Node = Any  # of an autograd graph


class FakeGpu(Runtime):
    """The runtime of a GPU of fake tensors."""

    def __init__(self) -> None:
        super().__init__(torch.device("cuda", 0))

    @contextmanager
    def autocast(self, amp: str) -> Iterator[None]:  # type: ignore[override]
        """As of `Runtime`, but on without a GPU too."""
        kind, dtype = self.device.type, {"fp16": torch.float16, "bf16": torch.bfloat16}.get(amp)
        before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        torch.set_autocast_enabled(kind, dtype is not None)
        torch.set_autocast_dtype(kind, dtype or before[1])
        torch.autocast_increment_nesting()
        try:
            yield
        finally:
            if torch.autocast_decrement_nesting() == 0:
                torch.clear_autocast_cache()
            torch.set_autocast_enabled(kind, before[0])
            torch.set_autocast_dtype(kind, before[1])

    def place(self, model: Module) -> Module:
        """As of `Runtime`; `nn.Module.to` cannot exchange fake parameters."""
        for module in model.modules():
            for name, value in module.named_parameters(recurse=False):
                placed = nn.Parameter(self._placed(value.detach()), value.requires_grad)
                setattr(module, name, placed)
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, self._placed(buffer))
        return model

    def _placed(self, tensor: Tensor) -> Tensor:
        last, kept = torch.channels_last, torch.preserve_format
        return tensor.to(self.device, memory_format=last if tensor.dim() == 4 else kept)

    def scaler(self, amp: str) -> GradScaler:
        """As of `Runtime`, but enabled without a GPU too."""
        scaler = GradScaler("cpu", enabled=amp == "fp16")
        scaler._device = self.device.type
        return scaler


class _FusedOptimizers(TorchDispatchMode):
    """Leaves out torch's fused SGD, which returns nothing and has no fake implementation."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        is_fused = func._schema.name == "aten::_fused_sgd_"
        return None if is_fused else func(*args, **(kwargs or {}))


@contextmanager
def _foreach_supported() -> Iterator[None]:
    """Inside, torch treats lists of fake tensors like lists of tensors: by one operator."""
    _foreach_supported_types.append(FakeTensor)
    try:
        yield
    finally:
        _foreach_supported_types.remove(FakeTensor)


@contextmanager
def fake_training(
    recipe: Recipe, num_classes: int, on_node: Callable[[Node], None] = lambda node: None
) -> Iterator[tuple[Training, FakeGpu]]:
    """A training on a fake GPU, whose steps are made inside. `recipe.amp` must be resolved.

    `on_node` is called with every node of a backward pass, before the node is, and with None after
    the last one.
    """
    rt = FakeGpu()
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=False),
            _backward_without_engine(on_node),
            _FusedOptimizers(),
            _foreach_supported(),
            replaced(Tensor, "pin_memory", lambda tensor: tensor),
            replaced(kernels, "load", lambda name, device: kernels),  # all of them are used
        ):
            yield make_training(rt.place(build(recipe, num_classes)), recipe, rt), rt
    finally:  # what resizing keeps must not be fake afterwards
        resize._pillow_axis.cache_clear()
        resize._opencv_axis.cache_clear()


@contextmanager
def _backward_without_engine(on_node: Callable[[Node], None]) -> Iterator[None]:
    """Inside, ``Tensor.backward`` is `_backward`. What a node has saved is freed when it has been
    called, as by the engine."""
    used: list[list[Tensor]] = []

    def unpack(saved: list[Tensor]) -> Tensor:
        used.append(saved)
        return saved[0]

    def call(node: Node, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
        on_node(node)
        if hasattr(node, "variable") and _may_keep(node.variable, gradients[0]):
            node.variable.grad = gradients[0]
            return ()
        run: Any = getattr(node, "apply", node)  # nodes of an autograd.Function have it
        results = run(*gradients)
        for saved in used:
            saved.clear()
        used.clear()
        return results if isinstance(results, tuple) else (results,)

    def backward(root: Tensor) -> None:
        _backward(root, call)
        on_node(None)

    hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: [tensor], unpack)
    with replaced(Tensor, "backward", backward), hooks:
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, a class or module has another `value` of that name."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@torch.no_grad()
def _backward(root: Tensor, call: Callable[[Node, list[Tensor | None]], tuple]) -> None:
    """The gradients of a scalar. Of the nodes whose own gradients are complete, the one made last
    is called first, as by the engine."""
    first: Any = root.grad_fn
    waits_for = _uses(first)
    gradients: dict[Any, dict[int, Tensor]] = {first: {0: torch.ones_like(root)}}
    number = itertools.count()  # nodes themselves cannot be compared
    ready = [(0, next(number), first)]
    while ready:
        node = heapq.heappop(ready)[-1]
        own = gradients.pop(node, {})
        results = call(node, [own.get(i) for i in range(len(node._input_metadata))])
        del own
        for (target, slot), gradient in zip(node.next_functions, results, strict=False):
            if target is None:
                continue
            if gradient is not None:
                gradient = _as_expected(gradient, target._input_metadata[slot])
                sums = gradients.setdefault(target, {})
                sums[slot] = sums[slot] + gradient if slot in sums else gradient
            waits_for[target] -= 1
            if waits_for[target] == 0:
                del waits_for[target]  # whose key would keep alive what the node has saved
                heapq.heappush(ready, (-target._sequence_nr(), next(number), target))


def _may_keep(parameter: Tensor, gradient: Tensor | None) -> bool:
    """Whether the engine would keep this first gradient of a parameter without a copy."""
    if gradient is None or parameter.grad is not None:
        return False
    sides = zip(gradient.shape, gradient.stride(), parameter.stride(), strict=True)
    return all(size == 1 or own == wanted for size, own, wanted in sides)


def _uses(root: Node) -> dict[Node, int]:
    """How often each node of a graph occurs among the next ones of another."""
    uses: Counter[Node] = Counter()
    found = [root]
    while found:
        for node, _ in found.pop().next_functions:
            if node is not None:
                if node not in uses:
                    found.append(node)
                uses[node] += 1
    return uses


def _as_expected(gradient: Tensor, expected: Any) -> Tensor:
    """A gradient in the shape and dtype of what it is of, as the engine hands it on."""
    return gradient.sum_to_size(expected.shape).to(expected.dtype)
