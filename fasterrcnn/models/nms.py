"""Non-maximum suppression of many lists at once, as one operator with a fixed-shape result.

Exact greedy NMS, equal to `torchvision.ops.batched_nms` without its coordinate offsets (which move
boxes of the last classes by up to 0.01 px).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("fasterrcnn::nms", mutates_args=())
def nms_lists(boxes: Tensor, group: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes survive: bool ``(M, K)``.

    boxes: float32 ``(M, K, 4)``, M lists, each sorted by score, best first. group: int64
    ``(M, K)``; only boxes of one group suppress each other. valid: bool ``(M, K)``; others neither
    survive nor suppress.
    """
    keep = torch.zeros_like(valid)
    for kept, box, own, usable in zip(keep, boxes, group, valid, strict=True):
        for g in own[usable].unique().tolist():
            rows = torch.nonzero(usable & (own == g)).squeeze(1)
            rank = torch.arange(len(rows), 0, -1, dtype=torch.float32, device=box.device)
            kept[rows[nms(box[rows], rank, iou_threshold)]] = True
    return keep


@nms_lists.register_fake
def _(boxes: Tensor, group: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(valid)
