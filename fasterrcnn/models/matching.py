"""Matches boxes to ground-truth (gt) boxes by IoU, as torchvision's `Matcher`, a batch at once.

On GPUs, Triton kernels compute it without a matrix of IoUs, where they work.

Shapes: N images, G gt boxes with padding, B boxes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fasterrcnn.models import boxes, kernels


class Match(NamedTuple):
    """The result of matching B boxes per image to its gt boxes."""

    label: Tensor  # int8 (N, B): 1 positive, 0 negative, -1 ignored
    gt: Tensor  # int64 (N, B): index of the gt box with the highest IoU, matched or not


class LowQuality(NamedTuple):
    """Boxes that are positive despite a low IoU, because no other fits a gt box better."""

    min_iou: float = 0.0
    gt: str = "own"  # regression target: "own" gt box of highest IoU, or the one it is "best" for


def match(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    candidates: Tensor,
    usable: Tensor | None = None,
    *,
    foreground: float,
    background: float,
    low_quality: LowQuality | None,
    gt_ignored: Tensor | None = None,
) -> Match:
    """Match `candidates` float32 ``(N or 1, B, 4)`` to `gt_boxes` ``(N, G, 4)``, `gt_valid`
    ``(N, G)``; those that are not `usable`, bool ``(N, B)``, are ignored.

    A box is positive from IoU `foreground` on and negative below `background`. With `low_quality`,
    the boxes of highest IoU with any gt box (ties included) are positive too. Those that
    are positive for a gt box of `gt_ignored`, bool ``(N, G)``, are ignored.
    """
    compute = best if gt_boxes.device.type == "cpu" else best_on_device
    min_iou = None if low_quality is None else low_quality.min_iou
    iou, gt, rank = compute(gt_boxes, gt_valid, candidates, usable, min_iou)
    ignored = (iou >= background) & (iou < foreground)
    label = (iou >= foreground).to(torch.int8) - ignored.to(torch.int8)
    if low_quality is not None:
        label = label.masked_fill(rank > 0, 1)
        if low_quality.gt == "best":  # of several gt boxes, the last one
            gt = torch.where(rank > 0, rank - 1, gt)
    if gt_ignored is not None:
        ignored = gt_ignored.gather(1, gt)
        if low_quality is not None:  # as the best for an ignored gt box, which need not be `gt`
            of_best = gt_ignored.gather(1, (rank - 1).clamp(min=0))
            ignored |= of_best & (rank > 0) & (iou < foreground)
        label = label.masked_fill(ignored & (label == 1), -1)
    return Match(label if usable is None else label.masked_fill(~usable, -1), gt)


def best(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    candidates: Tensor,
    usable: Tensor | None,
    min_iou: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """By torch's operators, of each candidate, ``(N, B)`` each: its highest IoU with a gt box,
    float32, -1 where there is none; the index of the first such gt box, int64; and its rank, int64.

    The rank is 1 + the index of the last gt box that no other candidate fits better, with an IoU of
    at least `min_iou`; 0 where there is none, and with `min_iou` None.
    """
    quality = boxes.iou(gt_boxes, candidates)
    quality = quality.masked_fill(~gt_valid[:, :, None], -1.0)
    if usable is not None:
        quality = quality.masked_fill(~usable[:, None], -1.0)
    iou, gt = quality.max(dim=1)
    if min_iou is None:
        return iou, gt, torch.zeros_like(gt)
    highest = quality.max(dim=2, keepdim=True).values
    wanted = (quality == highest) & (highest >= min_iou)
    # Of 16 bits, because this is the largest tensor of a training step.
    rank = torch.arange(1, quality.shape[1] + 1, dtype=torch.int16, device=quality.device)
    return iou, gt, (wanted * rank[:, None]).amax(dim=1).long()


@torch.library.custom_op("fasterrcnn::best_match", mutates_args=())
def best_on_device(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    candidates: Tensor,
    usable: Tensor | None,
    min_iou: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`best`, by Triton kernels where they work."""
    found = kernels.load("matching_kernels", candidates.device)
    compute = best if isinstance(found, str) else found.best
    return compute(gt_boxes, gt_valid, candidates, usable, min_iou)


@best_on_device.register_fake
def _(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    candidates: Tensor,
    usable: Tensor | None,
    min_iou: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    iou = candidates.new_empty(len(gt_boxes), candidates.shape[1])
    gt = torch.empty_like(iou, dtype=torch.int64)
    return iou, gt, torch.empty_like(gt)
