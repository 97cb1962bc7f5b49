"""Non-maximum suppression of many lists of boxes at once, as one operator of fixed output shape.

Exact greedy NMS, equal to `torchvision.ops.batched_nms` without its coordinate offsets (which move
boxes of the last classes by up to 0.01 px). Triton kernels compute it on GPUs where they work;
elsewhere torchvision does, one list at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from fasterrcnn.models import kernels


@torch.library.custom_op("fasterrcnn::nms", mutates_args=())
def nms_lists(boxes: Tensor, group: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes are kept: bool ``(M, K)``.

    boxes: float32 ``(M, K, 4)`` x1 y1 x2 y2, M lists, each sorted by descending score. group: int64
    ``(M, K)``, not negative; only boxes of the same group suppress each other. valid: bool
    ``(M, K)``; other boxes are neither kept nor suppress any.
    """
    found = kernels.load("nms_kernels", boxes.device)
    compute = one_list_at_a_time if isinstance(found, str) else found.nms_lists
    return compute(boxes, group, valid, iou_threshold)


@nms_lists.register_fake
def _(boxes: Tensor, group: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(valid)


def one_list_at_a_time(boxes: Tensor, group: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """`nms_lists` by torchvision's NMS; on a GPU it synchronizes for every list and group."""
    keep = torch.zeros_like(valid)
    for kept, box, own, usable in zip(keep, boxes, group, valid, strict=True):
        for g in own[usable].unique().tolist():
            rows = torch.nonzero(usable & (own == g)).squeeze(1)
            rank = torch.arange(len(rows), 0, -1, dtype=torch.float32, device=box.device)
            kept[rows[nms(box[rows], rank, iou_threshold)]] = True
    return keep
