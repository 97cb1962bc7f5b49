"""Non-maximum suppression of many lists of boxes at once, as one operator of fixed output shape.

Exact greedy NMS, equal to `torchvision.ops.batched_nms` without its coordinate offsets (which move
boxes of the last classes by up to 0.01 px). Triton kernels compute it on GPUs where they work;
elsewhere torchvision does, one list at a time.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("fasterrcnn::nms", mutates_args=())
def nms_lists(boxes: Tensor, group: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes are kept: bool ``(M, K)``.

    boxes: float32 ``(M, K, 4)`` x1 y1 x2 y2, M lists, each sorted by descending score. group: int64
    ``(M, K)``, not negative; only boxes of the same group suppress each other. valid: bool
    ``(M, K)``; other boxes are neither kept nor suppress any.
    """
    found = kernels(boxes.device)
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


def describe(device: torch.device) -> str:
    """How NMS is computed on `device`, for the log."""
    found = kernels(device)
    if isinstance(found, str):
        return f"torchvision's, one list at a time ({found})"
    return "Triton kernels"


@cache
def kernels(device: torch.device) -> ModuleType | str:
    """The Triton kernels if they run on `device` and agree with torchvision, else why not.

    The first call compiles them and synchronizes.
    """
    if device.type == "cpu":
        return "no GPU"
    try:
        from fasterrcnn.models import nms_kernels

        corner = torch.arange(200.0, device=device)[None, :, None] * 3 % 97
        example = (
            torch.cat([corner, corner, corner + 10, corner + 12], dim=-1),
            torch.arange(200, device=device)[None] % 2,
            torch.arange(200, device=device)[None] % 7 > 0,
            0.5,
        )
        if nms_kernels.nms_lists(*example).equal(one_list_at_a_time(*example)):
            return nms_kernels
    except Exception as error:  # no Triton, no C compiler, unknown GPU: each raises other errors
        reason = str(error).strip().partition("\n")[0]
        return f"Triton kernels: {type(error).__name__}: {reason}"
    return "Triton kernels: other boxes are kept than by torchvision"
