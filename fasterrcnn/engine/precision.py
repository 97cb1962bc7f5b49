"""Losses and gradients of one batch on a device against those of the CPU in float32.

Weights and samples are the same: what one device samples, the other does not draw again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fasterrcnn import recipes
from fasterrcnn.data.loader import Batch
from fasterrcnn.engine import trials
from fasterrcnn.engine.patching import Change, methods_changed
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.models.build import Detector, build
from fasterrcnn.recipes import Recipe

_SMALL = dict(min_size=256, max_size=320, train_min_sizes=())  # for a step on the CPU
_SCALE = {"fp16": 2.0**12}  # of the loss, so that gradients do not underflow
_SAMPLERS = ("rpn.sample", "roi_heads.sample", "roi_heads.rois_of")  # a detector's methods


class Difference(NamedTuple):
    """How far losses and gradient are from those expected; infinite where one is not finite."""

    loss: float  # the largest, as a fraction of the loss
    gradient: float  # norm of the difference of all gradients, as a fraction of their norm


def compare(
    recipe: Recipe, num_classes: int, rt: Runtime, precisions: tuple[str, ...]
) -> dict[str, Difference]:
    """The difference in each of `precisions` ("off", "fp16", "bf16"), by its name.

    Fresh weights, two small images of noise; dropout and augmentation are left out.
    """
    recipe = recipes.change(recipe, input=_SMALL, augment=recipes.Augment())
    torch.manual_seed(0)
    detector = build(recipe, num_classes).train()
    for module in detector.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = trials.make_batch(2, trials.largest_shape(recipe), 8)
    samples: list[Any] = []

    def record(method: Callable) -> Callable:
        def run(*args: Any) -> Any:
            samples.append(method(*args))
            return samples[-1]

        return run

    with _samplers(detector, record):
        expected = _gradients(detector, batch, "off", Runtime(torch.device("cpu")))
    found = {}
    for amp in precisions:
        own = rt.place(copy.deepcopy(detector))
        with _samplers(own, _replay(samples, rt.device)), _exact_float32():
            found[amp] = _difference(expected, _gradients(own, batch, amp, rt))
    return found


def _replay(samples: list[Any], device: torch.device) -> Change:
    """For `_samplers`: methods that return `samples` in their order."""
    left = iter(tree_map_only(Tensor, lambda tensor: tensor.to(device), samples))
    return lambda method: lambda *args: next(left)


def _exact_float32() -> Any:
    """Inside, convolutions in float32 are not rounded to TF32."""
    own = torch.backends.cudnn
    return own.flags(own.enabled, benchmark=False, deterministic=False, allow_tf32=False)


def _samplers(detector: nn.Module, change: Change) -> AbstractContextManager:
    """Inside, the methods that sample are what `change` makes of them."""
    return methods_changed(detector, dict.fromkeys(_SAMPLERS, change))


def _gradients(
    detector: Detector, batch: Batch, amp: str, rt: Runtime
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The losses of a batch, and the gradients of the trained parameters, on the host."""
    scale = _SCALE.get(amp, 1.0)
    batch = batch.to(rt.device)
    detector.zero_grad()
    with rt.precision(amp):
        padded = detector.transform(batch.images(), batch.targets())
        losses, _ = detector.training_losses(padded)
    total = torch.stack([*losses.values()]).sum()
    (total * scale).backward()
    named = detector.named_parameters()
    gradients = {name: p.grad.cpu() / scale for name, p in named if p.grad is not None}
    return {name: float(loss.detach()) for name, loss in losses.items()}, gradients


def _difference(
    expected: tuple[dict[str, float], dict[str, Tensor]],
    found: tuple[dict[str, float], dict[str, Tensor]],
) -> Difference:
    losses, gradients = expected
    if losses.keys() != found[0].keys() or gradients.keys() != found[1].keys():
        return Difference(math.inf, math.inf)
    worst = max(_finite(abs(found[0][name] / loss - 1)) for name, loss in losses.items())
    square = sum(float((found[1][name] - g).square().sum()) for name, g in gradients.items())
    ratio = math.sqrt(square / sum(float(g.square().sum()) for g in gradients.values()))
    return Difference(worst, _finite(ratio))


def _finite(difference: float) -> float:
    """A difference; infinite for NaN, which no comparison finds."""
    return difference if math.isfinite(difference) else math.inf
