"""Boxes of a whole batch at once: IoU, deltas, matching, sampling.

The mathematics of torchvision's `box_iou`, `BoxCoder`, `Matcher` and
`BalancedPositiveNegativeSampler` on padded tensors, so that nothing depends on how many boxes an
image has and nothing waits for the device. Everything is float32.

Shapes: N images, G ground-truth boxes (padding included), B boxes, S samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_MOST_LOG_SCALE = math.log(1000.0 / 16)  # exp() of a larger delta would overflow


def iou(truth: Tensor, boxes: Tensor) -> Tensor:
    """``(N, G, 4)`` and ``(N or 1, B, 4)`` x1 y1 x2 y2 -> ``(N, G, B)``."""
    a, b = (x.unbind(-1) for x in (truth[:, :, None], boxes[:, None]))
    width = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp_(min=0)
    height = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp_(min=0)
    intersection = width.mul_(height)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return intersection.div_(areas.sub_(intersection))


def encode(target: Tensor, boxes: Tensor, weights: tuple[float, ...]) -> Tensor:
    """The deltas ``(..., 4)`` that turn `boxes` into `target`, times `weights`."""
    (x, y, w, h), (tx, ty, tw, th) = _centre(boxes), _centre(target)
    wx, wy, ww, wh = weights
    deltas = (wx * (tx - x) / w, wy * (ty - y) / h, ww * torch.log(tw / w), wh * torch.log(th / h))
    return torch.stack(deltas, dim=-1)


def decode(deltas: Tensor, boxes: Tensor, weights: tuple[float, ...], clamp: str = "max") -> Tensor:
    """The inverse of `encode`: boxes ``(..., 4)``, grown by at most 1000 / 16.

    `clamp`: "max" as torchvision and Detectron2; "both" bounds shrinking too, as MMDetection.
    """
    x, y, w, h = _centre(boxes)
    dx, dy, dw, dh = (d / weight for d, weight in zip(deltas.unbind(-1), weights, strict=True))
    least = -_MOST_LOG_SCALE if clamp == "both" else None
    dw, dh = (d.clamp(min=least, max=_MOST_LOG_SCALE) for d in (dw, dh))
    x, y = dx * w + x, dy * h + y
    half_w, half_h = 0.5 * (torch.exp(dw) * w), 0.5 * (torch.exp(dh) * h)
    return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), dim=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes ``(N, ..., 4)`` inside images of `sizes` float32 ``(N, 2)`` (H, W)."""
    limit = sizes.flip(-1).repeat(1, 2).reshape(len(sizes), *[1] * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limit)


def rescale(boxes: Tensor, scale: Tensor) -> Tensor:
    """Boxes ``(N, ..., 4)`` times `scale` ``(N, 2)`` of (y, x)."""
    return boxes * scale.flip(-1).repeat(1, 2).reshape(len(scale), *[1] * (boxes.dim() - 2), 4)


def at_least(boxes: Tensor, side: float) -> Tensor:
    """bool ``(...)``: which boxes ``(..., 4)`` have no side shorter than `side`."""
    return (boxes[..., 2:] - boxes[..., :2] >= side).all(dim=-1)


def has_area(boxes: Tensor) -> Tensor:
    """bool ``(...)``: which boxes ``(..., 4)`` are not empty."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


class Detections(NamedTuple):
    """The D best of each image, best first; label 0 marks places left empty."""

    boxes: Tensor  # float32 (N, D, 4), px of the images as given
    scores: Tensor  # float32 (N, D)
    labels: Tensor  # int64 (N, D)


class Proposals(NamedTuple):
    """The P best of each image, best first."""

    boxes: Tensor  # float32 (N, P, 4), px of the padded input
    real: Tensor  # bool (N, P): False in places left empty
    scores: Tensor | None = None  # float32 (N, P), 0..1; box heads need none


class Match(NamedTuple):
    """For each of B boxes of N images."""

    label: Tensor  # int8 (N, B): 1 matched, 0 background, -1 neither
    truth: Tensor  # int64 (N, B): the ground-truth box matched; where none is, the nearest


class LowQuality(NamedTuple):
    """Boxes that match although their IoU is low, because no box fits a truth better."""

    least: float = 0.0  # IoU they need all the same
    truth: str = (
        "own"  # which truth such a box matches: its "own" nearest, or the one it is "best" for
    )


def match(
    quality: Tensor,
    valid: Tensor,
    *,
    foreground: float,
    background: float,
    low_quality: LowQuality | None,
) -> Match:
    """Match boxes to ground truth by `quality` ``(N, G, B)``; `valid` ``(N, G)`` marks real truth.

    A box matches its best truth from IoU `foreground` on and is background below `background`.
    With `low_quality`, the boxes that are the best any truth gets (ties included) match too.
    """
    quality = quality.masked_fill(~valid[:, :, None], -1.0)
    best, truth = quality.max(dim=1)
    label = (best >= foreground).to(torch.int8) - ((best >= background) & (best < foreground)).to(
        torch.int8
    )
    if low_quality:
        highest = quality.max(dim=2, keepdim=True).values
        wanted = (quality == highest) & (valid[:, :, None] & (highest >= low_quality.least))
        label = label.masked_fill(wanted.any(dim=1), 1)
        if low_quality.truth == "best":  # of several truths, the last one
            rank = torch.arange(1, quality.shape[1] + 1, device=quality.device)[:, None]
            last = (wanted * rank).amax(dim=1)
            truth = torch.where(last > 0, last - 1, truth)
    return Match(label, truth)


class Sample(NamedTuple):
    """S slots per image: positives first, then negatives, then slots left empty."""

    index: Tensor  # int64 (N, S): position among the B boxes; of empty slots anything
    positive: Tensor  # bool (N, S)
    valid: Tensor  # bool (N, S): not empty


def sample(label: Tensor, size: int, positive_fraction: float) -> Sample:
    """At random `size` boxes per image, at most that fraction positive, the rest negative.

    `label` ``(N, B)`` as `Match.label`. The smallest of one random key per box are taken, which is
    a uniform draw without replacement. Draws from torch's global generator of the device.
    """
    most = min(int(size * positive_fraction), label.shape[1])
    slots = min(size, label.shape[1])
    positive, negative = label == 1, label == 0
    key = torch.rand(label.shape, device=label.device)
    first_positive = key.masked_fill(~positive, 2.0).topk(most, largest=False).indices
    first_negative = key.masked_fill(~negative, 2.0).topk(slots, largest=False).indices
    positives = positive.sum(dim=1, keepdim=True).clamp(max=most)
    negatives = torch.minimum(negative.sum(dim=1, keepdim=True), size - positives)

    slot = torch.arange(slots, device=label.device).expand(len(label), slots)
    is_positive = slot < positives
    source = torch.where(is_positive, slot, most + slot - positives)
    index = torch.cat([first_positive, first_negative], dim=1).gather(1, source)
    return Sample(index, is_positive, slot < positives + negatives)


def take(boxes: Tensor, index: Tensor) -> Tensor:
    """Rows `index` ``(N, S)`` of ``(N or 1, B, C)``: ``(N, S, C)``."""
    boxes = boxes.expand(len(index), -1, -1)
    return boxes.gather(1, index[:, :, None].expand(-1, -1, boxes.shape[2]))


def _centre(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x, y and width, height."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1, y2 - y1
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h
