"""Losses of decoded boxes against gt boxes, float32 ``(...)`` of boxes ``(..., 4)``.

As MMDetection's `IoULoss`, `GIoULoss` and `BoundedIoULoss` compute them, with its defaults.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss

_EPSILON = 1e-6


def of(kind: str, box: Tensor, gt: Tensor) -> Tensor:
    """The loss called `kind` in recipes."""
    if kind == "giou":
        return generalized_box_iou_loss(box, gt, eps=_EPSILON)
    return iou(box, gt) if kind == "iou" else bounded_iou(box, gt)


def iou(box: Tensor, gt: Tensor) -> Tensor:
    """``-log(IoU)``: Yu et al., "UnitBox", arXiv 1608.01471."""
    low, high = torch.maximum(box[..., :2], gt[..., :2]), torch.minimum(box[..., 2:], gt[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (box, gt)]
    union = (areas[0] + areas[1] - overlap).clamp(min=_EPSILON)
    return -(overlap / union).clamp(min=_EPSILON).log()


def bounded_iou(box: Tensor, gt: Tensor, beta: float = 0.2, epsilon: float = 1e-3) -> Tensor:
    """Bounds of the IoU along each coordinate: Tychsen-Smith and Petersson, arXiv 1711.00164."""
    center, gt_center = ((b[..., :2] + b[..., 2:]) / 2 for b in (box, gt))
    side, gt_side = (b[..., 2:] - b[..., :2] for b in (box, gt))
    off = 2 * (gt_center - center).abs()
    of_center = 1 - ((gt_side - off) / (gt_side + off + epsilon)).clamp(min=0)
    of_side = 1 - torch.minimum(gt_side / (side + epsilon), side / (gt_side + epsilon))
    both = torch.cat([of_center, of_side], dim=-1)
    return functional.smooth_l1_loss(both, torch.zeros_like(both), beta=beta, reduction="none").sum(
        -1
    )
