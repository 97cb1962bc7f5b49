"""Triton kernels of `matching.best`: IoUs are used where they are computed, and never stored.

Stored, the IoUs of a batch's anchors are the largest tensor of a training step. Here a program
holds a block of boxes and goes through the gt boxes of its image. Each IoU is rounded like torch's,
operation by operation, so that both find the same ties. Imported only with Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512  # boxes of a program


@triton.jit
def _ious(gt, valid, boxes, rows, usable):  # type: ignore[no-untyped-def]  # Triton has its own types
    """IoU of one gt box with the boxes `rows`; -1 where the gt box is not valid or the other not
    `usable`."""
    x1, y1 = tl.load(boxes + rows * 4, mask=usable), tl.load(boxes + rows * 4 + 1, mask=usable)
    x2, y2 = tl.load(boxes + rows * 4 + 2, mask=usable), tl.load(boxes + rows * 4 + 3, mask=usable)
    u1, v1, u2, v2 = tl.load(gt), tl.load(gt + 1), tl.load(gt + 2), tl.load(gt + 3)
    width = tl.maximum(tl.minimum(u2, x2) - tl.maximum(u1, x1), 0.0)
    height = tl.maximum(tl.minimum(v2, y2) - tl.maximum(v1, y1), 0.0)
    shared = width * height
    areas = (u2 - u1) * (v2 - v1) + (x2 - x1) * (y2 - y1)
    iou = tl.div_rn(shared, areas - shared)
    return tl.where(usable & (tl.load(valid) != 0), iou, -1.0)


@triton.jit
def _best(  # type: ignore[no-untyped-def]  # see above
    gt, valid, boxes, usable, stride, gts, count, iou, index, highest,
    GTS: tl.constexpr, BLOCK: tl.constexpr, RANKED: tl.constexpr,
):  # fmt: skip
    """iou[image, box] and index[image, box] of the best gt box, and highest[image, gt]."""
    image = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < count
    good = tl.load(usable + image * count + rows, mask=inside, other=0) != 0
    top = tl.full((BLOCK,), -2.0, tl.float32)
    which = tl.zeros((BLOCK,), tl.int64)
    for g in range(GTS):  # a constant: the code is the same for many numbers of gt boxes
        if g < gts:
            at = image * gts + g
            found = _ious(gt + at * 4, valid + at, boxes + image * stride, rows, good)
            better = found > top  # false where it is NaN
            which = tl.where(better, g, which)
            top = tl.where(better, found, top)
            if RANKED:
                tl.atomic_max(highest + at, tl.max(found))
    tl.store(iou + image * count + rows, top, mask=inside)
    tl.store(index + image * count + rows, which, mask=inside)


@triton.jit
def _rank(  # type: ignore[no-untyped-def]  # see above
    gt, valid, boxes, usable, stride, gts, count, highest, rank, min_iou,
    GTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """rank[image, box]: 1 + the last gt box that no other box fits better; 0: none."""
    image = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < count
    good = tl.load(usable + image * count + rows, mask=inside, other=0) != 0
    last = tl.zeros((BLOCK,), tl.int64)
    for g in range(GTS):
        if g < gts:
            at = image * gts + g
            most = tl.load(highest + at)
            if most >= min_iou:
                found = _ious(gt + at * 4, valid + at, boxes + image * stride, rows, good)
                last = tl.where(found == most, g + 1, last)
    tl.store(rank + image * count + rows, last, mask=inside)


def best(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    candidates: Tensor,
    usable: Tensor | None,
    min_iou: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `matching.best`."""
    (n, gts), count, device = gt_valid.shape, candidates.shape[1], candidates.device
    iou = torch.empty(n, count, device=device)
    index = torch.zeros(n, count, dtype=torch.int64, device=device)
    rank = torch.zeros_like(index)
    if index.numel() == 0 or gts == 0:
        return iou.fill_(-1.0), index, rank
    if usable is None:
        usable = torch.ones(n, count, dtype=torch.bool, device=device)
    highest = torch.full((n, gts), -1.0, device=device)
    stride = 0 if len(candidates) == 1 else count * 4
    inputs = (
        gt_boxes.contiguous(),
        gt_valid.to(torch.int8).contiguous(),
        candidates.contiguous(),
        usable.to(torch.int8).contiguous(),
    )
    grid, sizes = (n, triton.cdiv(count, BLOCK)), (stride, gts, count)
    options = dict(
        GTS=triton.next_power_of_2(gts),
        BLOCK=BLOCK,
        enable_fp_fusion=False,  # a fused product and sum would be rounded once
    )
    ranked = min_iou is not None
    _best[grid](*inputs, *sizes, iou, index, highest, RANKED=ranked, **options)
    if min_iou is not None:
        _rank[grid](*inputs, *sizes, highest, rank, min_iou, **options)
    return iou, index, rank


def agrees(device: torch.device) -> bool:
    """Do the kernels give what `matching.best` of torch's operators gives, on an example?"""
    from fasterrcnn.models.matching import best as plain

    corner = torch.arange(1200.0, device=device).view(1, 600, 2) * 7 % 61
    candidates = torch.cat([corner, corner + 9 + corner.flip(-1) / 8], dim=-1)
    gt_boxes = torch.cat([candidates[:, 5:580:25], candidates[:, 5:6] + 3], dim=1)
    gt_valid = torch.arange(gt_boxes.shape[1], device=device)[None] % 5 > 0
    usable = torch.arange(600, device=device)[None] % 7 > 0
    example = gt_boxes, gt_valid, candidates, usable, 0.0
    return all(a.equal(b) for a, b in zip(best(*example), plain(*example), strict=True))
