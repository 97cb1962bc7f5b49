"""What a training step costs on a GPU, counted by part of the detector, not measured.

The step is that of every run, on a fake GPU. Operators, dtypes and sizes are those of a real one;
seconds are not known. A Triton kernel that is an operator counts as one.
"""

from __future__ import annotations

import weakref
from bisect import bisect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fasterrcnn.engine import trials
from fasterrcnn.engine.fake_gpu import fake_training
from fasterrcnn.engine.patching import methods_changed
from fasterrcnn.engine.step import train_step
from fasterrcnn.recipes import Recipe

PARTS = (
    "input", "backbone", "FPN", "RPN", "matching", "RoIAlign", "box head", "losses", "optimizer",
)  # fmt: skip
_METHODS = {  # of the detector: which part they and their backward pass belong to
    "transform.forward": "input",
    "backbone.forward": "FPN",
    "backbone.pyramid": "FPN",
    "backbone.body.forward": "backbone",
    "rpn.proposals": "RPN",
    "rpn.head_at": "RPN",
    "rpn.sample": "matching",
    "roi_heads.sample": "matching",
    "roi_heads.rois_of": "matching",
    "roi_heads.pool": "RoIAlign",
    "roi_heads.head": "box head",
    "roi_heads.head_of": "box head",
}
_ACCUMULATE = 2**64 - 1  # sequence number of nodes that add to a parameter's gradient


@dataclass
class Cost:
    """What some operators cost. Views and uninitialized memory cost nothing."""

    operators: int = 0  # about as many kernels are launched
    read: int = 0  # bytes: every tensor that an operator takes, once
    written: int = 0  # bytes: every tensor that an operator returns or changes, once
    flops: int = 0  # of convolutions and matrix products


def count_step(
    recipe: Recipe, num_classes: int, images: int, size: tuple[int, int], boxes: int
) -> tuple[dict[str, Cost], int]:
    """The cost of each part of a training step, and the peak of live bytes.

    The step's one batch has so many `images` of `size` (H, W; px) with so many `boxes` each.
    `recipe.amp` must be resolved.
    """
    counter = _Counter()
    with fake_training(recipe, num_classes, counter.enter_part_of) as (training, rt):
        batch, lr = trials.make_batch(images, size, boxes), recipe.schedule.lr
        for tensor in _tensors([training.detector.state_dict(), training.optimizer.state_dict()]):
            counter.remember(tensor)
        with counter, _parts_told(training.detector, counter):
            for _ in range(2):  # the first fills what is kept per shape
                counter.start()
                train_step(training, [batch], recipe, lr, rt, micro_batches=1)
    return counter.costs, counter.peak


def peak_memory(recipe: Recipe) -> int | None:
    """The peak of live bytes of a training step of the recipe on its own number of images per GPU,
    of the largest shape, with COCO's 80 classes and 8 boxes each.

    None for a network that cannot be made of tensors without values, as RegNet, which reads numbers
    that it computes.
    """
    images, shape = recipe.schedule.images_per_gpu, trials.largest_shape(recipe)
    try:
        return count_step(recipe, 81, images, shape, 8)[1]
    except (DynamicOutputShapeException, DataDependentOutputException):
        return None


def total(parts: dict[str, Cost]) -> Cost:
    """The cost of all parts together."""
    return Cost(*(sum(column) for column in zip(*map(astuple, parts.values()), strict=True)))


class _Counter(TorchDispatchMode):
    """Counts operators by part, and the bytes of the tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self._storages: set[int] = set()
        self.start()

    def start(self) -> None:
        """Count from here on, a forward pass."""
        self.costs, self.peak = {part: Cost() for part in PARTS}, self.live
        self._starts: list[int] = []  # sequence number of the first node of each stretch
        self._parts: list[str] = []  # and the part that it belongs to
        self.enter("losses")

    def enter(self, part: str) -> None:
        """What is computed from here on belongs to `part`."""
        self.part = part
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self._parts.append(part)

    def enter_part_of(self, node: Any) -> None:
        """What is computed from here on belongs to the part whose forward pass made `node`; to the
        optimizer if that is None."""
        if node is None:
            self.part = "optimizer"
        elif (number := node._sequence_nr()) != _ACCUMULATE:
            self.part = self._parts[bisect(self._starts, number) - 1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        taken, given = _tensors((args, kwargs)), _tensors(out)
        changed = given or _tensors([
            value
            for argument, value in zip(func._schema.arguments, args, strict=False)
            if argument.is_write
        ])  # fmt: skip
        for tensor in given:
            self.remember(tensor)
        old = {tensor.untyped_storage()._cdata for tensor in taken}
        is_new = any(tensor.untyped_storage()._cdata not in old for tensor in given)
        computes = (is_new and "empty" not in func.__name__) or func._schema.is_mutable
        if computes and any(tensor.device.type != "cpu" for tensor in (*taken, *given)):
            cost = self.costs[self.part]
            cost.operators += 1
            cost.read += sum(map(_bytes, taken))
            cost.written += sum(map(_bytes, changed))
            if func is torch.ops.aten.convolution.default and args[2] is not None:
                cost.operators += 1  # torch adds cuDNN's bias in a pass of its own
                cost.read += _bytes(out)
                cost.written += _bytes(out)
            if count := flop_registry.get(func._overloadpacket):
                cost.flops += count(*args, **kwargs, out_val=out)
        return out

    def remember(self, tensor: Tensor) -> None:
        """Count the tensor's memory as live for as long as it exists."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages or tensor.device.type == "cpu":
            return

        def free() -> None:
            self._storages.discard(key)
            self.live -= size

        weakref.finalize(storage, free)
        self._storages.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """Bytes of a tensor; what is expanded counts once."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count


def _parts_told(detector: nn.Module, counter: _Counter) -> AbstractContextManager:
    """Inside, the counter is told which part of the detector computes."""

    def tell(part: str, method: Callable) -> Callable:
        def run(*args: Any, **named: Any) -> Any:
            before = counter.part
            counter.enter(part)
            try:
                return method(*args, **named)
            finally:
                counter.enter(before)

        return run

    return methods_changed(detector, {path: partial(tell, part) for path, part in _METHODS.items()})
