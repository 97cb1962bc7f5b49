"""Boxes of a whole batch at once: IoU, deltas, sampling.

The mathematics of torchvision's `box_iou`, `BoxCoder` and `BalancedPositiveNegativeSampler` on
padded tensors, so that nothing depends on how many boxes an image has and nothing waits for the
device. Everything is float32.

Shapes: N images, G ground-truth (gt) boxes with padding, B boxes, S samples. In every padded tensor
a bool mask `valid` tells entries from padding; where it is False the entry means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_MAX_LOG_SCALE = math.log(1000.0 / 16)  # exp() of a larger delta would overflow


def iou(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    """``(N, G, 4)`` and ``(N or 1, B, 4)`` x1 y1 x2 y2 -> ``(N, G, B)``."""
    a, b = (x.unbind(-1) for x in (gt_boxes[:, :, None], boxes[:, None]))
    width = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp_(min=0)
    height = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp_(min=0)
    intersection = width.mul_(height)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return intersection.div_(areas.sub_(intersection))


def encode(target: Tensor, boxes: Tensor, weights: tuple[float, ...]) -> Tensor:
    """The deltas ``(..., 4)`` that turn `boxes` into `target`, times `weights`."""
    (center, side), (new_center, new_side) = _center(boxes), _center(target)
    shift = _by_axis(torch.mul, new_center - center, weights[:2]) / side
    growth = _by_axis(torch.mul, torch.log(new_side / side), weights[2:])
    return torch.cat([shift, growth], dim=-1)


def decode(deltas: Tensor, boxes: Tensor, weights: tuple[float, ...], clamp: str = "max") -> Tensor:
    """The inverse of `encode`: boxes ``(..., 4)``, grown by at most 1000 / 16.

    `clamp`: "max" as torchvision and Detectron2; "both" bounds shrinking too, as MMDetection.
    """
    center, side = _center(boxes)
    shift, growth = deltas.split(2, dim=-1)
    shift = _by_axis(torch.div, shift, weights[:2])
    growth = _by_axis(torch.div, growth, weights[2:])
    growth = growth.clamp(min=-_MAX_LOG_SCALE if clamp == "both" else None, max=_MAX_LOG_SCALE)
    center, half = shift * side + center, 0.5 * (torch.exp(growth) * side)
    return torch.cat([center - half, center + half], dim=-1)


def _by_axis(operator: Callable, values: Tensor, factors: tuple[float, ...]) -> Tensor:
    """`operator` of values ``(..., 2)`` of x and y and the factors for x and y."""
    if factors[0] == factors[1]:  # by far the most usual: one operator
        return operator(values, factors[0])
    pairs = zip(values.unbind(-1), factors, strict=True)
    return torch.stack([operator(value, factor) for value, factor in pairs], dim=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes ``(N, ..., 4)`` inside images of `sizes` float32 ``(N, 2)`` (H, W)."""
    limit = sizes.flip(-1).repeat(1, 2).reshape(sizes.shape[0], *[1] * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limit)


def rescale(boxes: Tensor, scale: Tensor) -> Tensor:
    """Boxes ``(N, ..., 4)`` times `scale` ``(N, 2)`` of (y, x)."""
    return boxes * scale.flip(-1).repeat(1, 2).reshape(-1, *[1] * (boxes.dim() - 2), 4)


def at_least(boxes: Tensor, side: float) -> Tensor:
    """bool ``(...)``: which boxes ``(..., 4)`` have no side shorter than `side`."""
    return (boxes[..., 2:] - boxes[..., :2] >= side).all(dim=-1)


def has_area(boxes: Tensor) -> Tensor:
    """bool ``(...)``: which boxes ``(..., 4)`` are not empty."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


class Detections(NamedTuple):
    """Up to D detections per image, by descending score."""

    boxes: Tensor  # float32 (N, D, 4): x1 y1 x2 y2 in px of the images as given
    scores: Tensor  # float32 (N, D)
    labels: Tensor  # int64 (N, D) in 1..K
    valid: Tensor  # bool (N, D)


class Proposals(NamedTuple):
    """Up to P proposals per image, by descending score."""

    boxes: Tensor  # float32 (N, P, 4): x1 y1 x2 y2 in px of the padded input
    valid: Tensor  # bool (N, P)
    scores: Tensor | None = None  # float32 (N, P) in 0..1; box heads need none


class Sample(NamedTuple):
    """S sampled boxes per image: positives, then negatives, then padding."""

    index: Tensor  # type: ignore[assignment]  # int64 (N, S) among the B boxes; hides tuple.index
    positive: Tensor  # bool (N, S)
    valid: Tensor  # bool (N, S)


def sample(label: Tensor, size: int, positive_fraction: float, key: Tensor | None = None) -> Sample:
    """Sample `size` boxes per image, at most `positive_fraction` of them positive.

    `label` ``(N, B)`` as `Match.label`. Takes the boxes with the smallest `key` ``(N, B)``; None: a
    random one each, a uniform draw without replacement, from torch's global generator of the
    device.
    """
    max_positives = min(int(size * positive_fraction), label.shape[1])
    slots = min(size, label.shape[1])
    positive, negative = label == 1, label == 0
    if key is None:
        key = torch.rand(label.shape, device=label.device)
    first_positive = (
        key.masked_fill(~positive, torch.inf).topk(max_positives, largest=False).indices
    )
    first_negative = key.masked_fill(~negative, torch.inf).topk(slots, largest=False).indices
    positives = positive.sum(dim=1, keepdim=True).clamp(max=max_positives)
    negatives = torch.minimum(negative.sum(dim=1, keepdim=True), size - positives)

    slot = torch.arange(slots, device=label.device).expand(len(label), slots)
    is_positive = slot < positives
    source = torch.where(is_positive, slot, max_positives + slot - positives)
    index = torch.cat([first_positive, first_negative], dim=1).gather(1, source)
    return Sample(index, is_positive, slot < positives + negatives)


def take(boxes: Tensor, index: Tensor) -> Tensor:
    """Rows `index` ``(N, S)`` of ``(N or 1, B, C)``: ``(N, S, C)``."""
    boxes = boxes.expand(index.shape[0], -1, -1)
    return boxes.gather(1, index[:, :, None].expand(-1, -1, boxes.shape[2]))


def _center(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centers and sides ``(..., 2)`` in x and y."""
    low, high = boxes.split(2, dim=-1)
    side = high - low
    return low + 0.5 * side, side
