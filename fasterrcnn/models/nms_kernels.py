"""Triton kernels of `nms.nms_lists`: exact greedy NMS on a GPU without a synchronization.

The bitmask method of torchvision's CUDA kernel, with its second half on the device too. Boxes are
in blocks of 64, the bits of a word: for every box, `_overlaps` writes one word per block, whose
bits are the later boxes that it would suppress; `_sweep` goes through the blocks of a list by
descending score and ORs the words of the boxes that are kept. Blocks without a valid box cost next
to nothing, so a list may be as long as it could ever have to be. Imported only with Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = tl.constexpr(64)
ROWS = tl.constexpr(32)  # read at a time: of 512 words more would spill


@triton.jit
def _corners(boxes, rows, inside):  # type: ignore[no-untyped-def]  # Triton has its own types
    """x1 y1 x2 y2 of `rows`, 0 where not `inside`."""
    at = boxes + rows * 4
    return (
        tl.load(at, mask=inside, other=0.0),
        tl.load(at + 1, mask=inside, other=0.0),
        tl.load(at + 2, mask=inside, other=0.0),
        tl.load(at + 3, mask=inside, other=0.0),
    )


@triton.jit
def _overlaps(  # type: ignore[no-untyped-def]  # see above
    boxes, group, valid, words, count, blocks, threshold
):
    """words[list, i, block]: bit j is set if box i suppresses the later box 64 * block + j; not
    written where no box of either block is valid."""
    which, row_block, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    if block < row_block:
        return
    boxes += which * count * 4
    group += which * count
    valid += which * count
    i = row_block * BLOCK + tl.arange(0, BLOCK)
    j = block * BLOCK + tl.arange(0, BLOCK)
    usable_i = tl.max(tl.load(valid + i, mask=i < count, other=0))
    usable_j = tl.max(tl.load(valid + j, mask=j < count, other=0))
    if (usable_i == 0) | (usable_j == 0):
        return
    x1, y1, x2, y2 = _corners(boxes, i, i < count)
    u1, v1, u2, v2 = _corners(boxes, j, j < count)
    width = tl.minimum(x2[:, None], u2[None, :]) - tl.maximum(x1[:, None], u1[None, :])
    height = tl.minimum(y2[:, None], v2[None, :]) - tl.maximum(y1[:, None], v1[None, :])
    shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
    areas = ((x2 - x1) * (y2 - y1))[:, None] + ((u2 - u1) * (v2 - v1))[None, :]
    of_i = tl.load(group + i, mask=i < count, other=-1)
    of_j = tl.load(group + j, mask=j < count, other=-2)
    # Rounded as torchvision's; plain division on a GPU is approximate.
    hit = (tl.div_rn(shared, areas - shared) > threshold) & (of_i[:, None] == of_j[None, :])
    hit = hit & (i[:, None] < j[None, :])
    bits = tl.sum(hit.to(tl.int64) << tl.arange(0, BLOCK).to(tl.int64)[None, :], axis=1)
    tl.store(words + (which * count + i) * blocks + block, bits, mask=i < count)


@triton.jit
def _or(a, b):  # type: ignore[no-untyped-def]  # see above
    return a | b


@triton.jit
def _sweep(  # type: ignore[no-untyped-def]  # see above
    words, valid, keep, count, blocks, WORDS: tl.constexpr
):
    """keep[list, i], block by block. WORDS: the next power of two of `blocks`."""
    which = tl.program_id(0).to(tl.int64)  # offsets exceed 32 bits
    words += which * count * blocks
    valid += which * count
    keep += which * count
    lane = tl.arange(0, BLOCK)
    word = tl.arange(0, WORDS)
    removed = tl.zeros((WORDS,), dtype=tl.int64)
    for block in range(WORDS):  # a constant: the code is the same for many numbers of blocks
        if block < blocks:
            i = block * BLOCK + lane
            own = tl.load(words + i.to(tl.int64) * blocks + block, mask=i < count, other=0)
            usable = tl.load(valid + i, mask=i < count, other=0).to(tl.int64)
            usable = tl.sum(usable << lane.to(tl.int64))
            if usable != 0:
                gone = tl.sum(tl.where(word == block, removed, 0))
                alive = tl.zeros((), dtype=tl.int64)
                for k in range(BLOCK):
                    one = usable & ~gone & (tl.full((), 1, tl.int64) << k)
                    if one != 0:
                        gone |= tl.sum(tl.where(lane == k, own, 0))
                        alive |= one
                kept = (alive >> lane.to(tl.int64)) & 1
                tl.store(keep + i, kept.to(tl.int8), mask=i < count)
                for part in range(0, BLOCK, ROWS):
                    some = tl.arange(0, ROWS) + part
                    of_kept = ((alive >> some.to(tl.int64)) & 1) != 0
                    later = of_kept[:, None] & (word[None, :] > block) & (word[None, :] < blocks)
                    at = words + (some + block * BLOCK).to(tl.int64) * blocks
                    rows = tl.load(at[:, None] + word[None, :], mask=later, other=0)
                    removed = removed | tl.reduce(rows, 0, _or)


def sweep_warps(words: int) -> int:
    """Of `_sweep` with WORDS `words`: as few as its registers allow, and one for up to 2,048 boxes,
    because every serial step of several warps has a barrier."""
    return min(max(words // 32, 1), 16)


def nms_lists(boxes: Tensor, group: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """See `nms.nms_lists`."""
    lists, count = valid.shape
    keep = torch.zeros(lists, count, dtype=torch.int8, device=boxes.device)
    if keep.numel() == 0:
        return keep.bool()
    blocks = triton.cdiv(count, 64)
    words = torch.empty(lists, count, blocks, dtype=torch.int64, device=boxes.device)
    grid = (lists, blocks, blocks)
    usable = valid.to(torch.int8).contiguous()
    inputs = boxes.contiguous(), group.contiguous(), usable
    _overlaps[grid](*inputs, words, count, blocks, iou_threshold, num_warps=8)  # no spills
    width = triton.next_power_of_2(blocks)
    _sweep[(lists,)](words, usable, keep, count, blocks, WORDS=width, num_warps=sweep_warps(width))
    return keep.bool()


def agrees(device: torch.device) -> bool:
    """Do the kernels keep the boxes that torchvision keeps, in an example?"""
    from fasterrcnn.models.nms import one_list_at_a_time

    corner = torch.arange(200.0, device=device)[None, :, None] * 3 % 97
    boxes = torch.cat([corner, corner, corner + 10, corner + 12], dim=-1)
    number = torch.arange(200, device=device)[None]
    example = boxes, number % 2, number % 7 > 0, 0.5
    return nms_lists(*example).equal(one_list_at_a_time(*example))
