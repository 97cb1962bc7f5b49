"""Triton kernel of `roi_align.by_kernel`: RoIAlign straight from the levels, forward and backward.

A bin's samples weigh cells by products of a weight per row and a weight per column, so that a
program adds up every cell of a bin once, however many samples touch it. It takes a row of bins of
one roi. Sums are float32. The backward pass adds atomically, in no fixed order. Imported only with
Triton.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fasterrcnn import recipes

_LEVELS = 4  # at most
_BLOCK = 256  # channels of a program, of one warp


@triton.jit
def _pick(level, a, b, c, d):  # type: ignore[no-untyped-def]  # Triton has its own types
    """The value of `level`."""
    return tl.where(level == 0, a, tl.where(level == 1, b, tl.where(level == 2, c, d)))


@triton.jit
def _samples(  # type: ignore[no-untyped-def]  # see above
    low, high, SAMPLES: tl.constexpr, ALIGNED: tl.constexpr, BINS: tl.constexpr
):
    """Of a roi's bins on one axis: their size in cells, their number of samples, the spacing."""
    length = high - low
    if not ALIGNED:
        length = tl.maximum(length, 1.0)
    size = tl.div_rn(length, BINS * 1.0)
    count = tl.full((), SAMPLES, tl.int32)
    if SAMPLES == 0:  # one for each cell of the bin; none where the roi has no length
        count = tl.maximum(tl.ceil(size), 0.0).to(tl.int32)
    return size, count, tl.div_rn(size, tl.maximum(count, 1).to(tl.float32))


@triton.jit
def _corner(at, scale, shift):  # type: ignore[no-untyped-def]  # see above
    """A coordinate of a roi in cells."""
    return tl.load(at) * scale - shift


@triton.jit
def _cells(start, step, count, cells):  # type: ignore[no-untyped-def]  # see above
    """The range of cells that a bin's samples may touch; the bin starts at `start`."""
    first = start + 0.5 * step
    last = start + (count - 0.5) * step
    low, high = tl.minimum(first, last), tl.maximum(first, last)  # rois may be inside out
    end = cells - 1.0
    low = tl.minimum(tl.maximum(low, 0.0), end).to(tl.int32)
    high = tl.minimum(tl.maximum(high, 0.0), end).to(tl.int32)
    return low, tl.minimum(high + 2, cells)


@triton.jit
def _weight(cell, start, step, count, cells):  # type: ignore[no-untyped-def]  # see above
    """The weight of a cell in the sum of a bin's samples; those more than one cell outside have
    none."""
    total, i = 0.0, 0
    while i < count:  # Triton's interpreter takes no `range` of a length that was computed
        at = start + (i + 0.5) * step
        held = tl.minimum(tl.maximum(at, 0.0), cells - 1.0)
        part = tl.maximum(1.0 - tl.abs(held - cell), 0.0)
        total += tl.where((at >= -1.0) & (at <= cells), part, 0.0)
        i += 1
    return total


@triton.jit(do_not_specialize=["h0", "h1", "h2", "h3", "w0", "w1", "w2", "w3", "rois_per_image"])
def _align(  # type: ignore[no-untyped-def]  # see above
    f0, f1, f2, f3, h0, h1, h2, h3, w0, w1, w2, w3, s0, s1, s2, s3,
    rois, levels, pooled, rois_per_image, channels,
    LEVELS: tl.constexpr, BINS: tl.constexpr, SAMPLES: tl.constexpr, ALIGNED: tl.constexpr,
    BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """pooled[roi, row, column, channel] from the levels f[image, y, x, channel], scaled by s; with
    BACKWARD, its gradient is added to those of the levels."""
    roi, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    level = tl.minimum(tl.maximum(tl.load(levels + roi), 0), LEVELS - 1)
    cells = _pick(level, f0, f1, f2, f3)
    height, width = _pick(level, h0, h1, h2, h3), _pick(level, w0, w1, w2, w3)
    scale, shift = _pick(level, s0, s1, s2, s3), 0.5 if ALIGNED else 0.0
    box = rois + roi * 4
    x1, y1 = _corner(box, scale, shift), _corner(box + 1, scale, shift)
    x2, y2 = _corner(box + 2, scale, shift), _corner(box + 3, scale, shift)
    if not (tl.abs(x1) + tl.abs(y1) + tl.abs(x2) + tl.abs(y2) < float("inf")):
        x1, y1, x2, y2 = -9.0, -9.0, -9.0, -9.0  # where no sample has a weight
    size_y, count_y, step_y = _samples(y1, y2, SAMPLES, ALIGNED, BINS)
    size_x, count_x, step_x = _samples(x1, x2, SAMPLES, ALIGNED, BINS)
    share = tl.div_rn(1.0, tl.maximum(count_y.to(tl.float32) * count_x.to(tl.float32), 1.0))
    start_y = y1 + row * size_y
    top, bottom = _cells(start_y, step_y, count_y, height)
    image = roi // rois_per_image
    for column in range(BINS):
        start_x = x1 + column * size_x
        left, right = _cells(start_x, step_x, count_x, width)
        place = pooled + ((roi * BINS + row) * BINS + column) * channels + channel
        total = tl.zeros((BLOCK,), tl.float32)
        gradient = tl.zeros((BLOCK,), tl.float32)
        if BACKWARD:
            gradient = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        y = top
        while y < bottom:
            weight_y = _weight(y, start_y, step_y, count_y, height) * share
            x = left
            while (x < right) & (weight_y != 0.0):
                weight = weight_y * _weight(x, start_x, step_x, count_x, width)
                if weight != 0.0:
                    at = cells + ((image * height + y) * width + x) * channels + channel
                    if BACKWARD:
                        tl.atomic_add(at, weight * gradient, mask=inside, sem="relaxed")
                    else:
                        value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
                        total += weight * value
                x += 1
            y += 1
        if not BACKWARD:
            tl.store(place, total.to(pooled.dtype.element_ty), mask=inside)


def align(
    features: list[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: list[int],
    bins: int,
    samples: int,
    aligned: bool,
    dtype: torch.dtype,
) -> Tensor:
    """See `roi_align.by_kernel`."""
    features = [each.contiguous(memory_format=torch.channels_last) for each in features]
    n, r = level.shape
    pooled = torch.empty(n * r, bins, bins, features[0].shape[1], dtype=dtype, device=rois.device)
    _launch(features, rois, level, strides, pooled, samples, aligned, backward=False)
    return pooled.permute(0, 3, 1, 2)


def gradients(
    gradient: Tensor,
    sizes: list[int],
    rois: Tensor,
    level: Tensor,
    strides: list[int],
    samples: int,
    aligned: bool,
) -> list[Tensor]:
    """The gradient of each level, float32 ``(N, C, H_l, W_l)``, of `sizes` H_0 W_0 H_1 ..., from
    that of the pooled bins, ``(N * R, C, P, P)``."""
    n, channels = len(rois), gradient.shape[1]
    found = [
        torch.zeros(n, height, width, channels, device=rois.device).permute(0, 3, 1, 2)
        for height, width in zip(sizes[::2], sizes[1::2], strict=True)
    ]
    pooled = gradient.permute(0, 2, 3, 1).contiguous()
    _launch(found, rois, level, strides, pooled, samples, aligned, backward=True)
    return found


def _launch(
    maps: list[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: list[int],
    pooled: Tensor,
    samples: int,
    aligned: bool,
    *,
    backward: bool,
) -> None:
    """`maps`: features, or the gradients to add to; channels last."""
    (count, bins, _, channels), n = pooled.shape, len(rois)
    if pooled.numel() == 0:
        return
    assert len(maps) <= _LEVELS
    at = [*range(len(maps)), *[0] * (_LEVELS - len(maps))]
    block = min(triton.next_power_of_2(channels), _BLOCK)
    _align[(count, bins, triton.cdiv(channels, block))](
        *(maps[i] for i in at),
        *(maps[i].shape[2] for i in at),
        *(maps[i].shape[3] for i in at),
        *(1 / strides[i] for i in at),
        rois.contiguous(), level.contiguous(), pooled, count // n, channels,
        LEVELS=len(maps), BINS=bins, SAMPLES=samples, ALIGNED=aligned, BACKWARD=backward,
        BLOCK=block, num_warps=1, enable_fp_fusion=False,  # positions are rounded as torch's
    )  # fmt: skip


def agrees(device: torch.device) -> bool:
    """Does the kernel pool what torch's operators pool, and with their gradients, in two examples?

    One of float32 with adaptive sampling, one of float16 with four samples a bin.
    """
    return _agrees(device, torch.float32, 0, True) and _agrees(device, torch.float16, 2, False)


@torch.inference_mode(False)
@torch.enable_grad()
def _agrees(device: torch.device, dtype: torch.dtype, samples: int, aligned: bool) -> bool:
    from fasterrcnn.models.roi_align import by_torch

    config = recipes.RoIHeads(pool_size=2, sampling_ratio=samples, aligned=aligned)
    strides, shapes = (4, 8), ((2, 24, 16, 12), (2, 24, 8, 6))
    features = [
        (torch.arange(math.prod(shape), device=device) % 31 / 8).view(shape).requires_grad_()
        for shape in shapes
    ]
    corner = torch.arange(24.0, device=device).view(2, 6, 2)[:, ::2] * 7 % 61 - 5
    rois = torch.cat([corner, corner + corner.flip(-1) / 2 + 4], dim=-1)
    level = torch.arange(6, device=device).view(2, 3) % 2
    plain = by_torch(features, rois, level, strides, config)
    gradient = (torch.arange(plain.numel(), device=device) % 17 / 8).view(plain.shape)
    at = rois, level, [*strides]
    given = [f.detach().to(dtype) for f in features]
    found = align(given, *at, 2, samples, aligned, torch.float32)
    sizes = [side for shape in shapes for side in shape[2:]]
    pairs = zip(
        [found, *gradients(gradient.to(dtype), sizes, *at, samples, aligned)],
        [plain, *torch.autograd.grad(plain, features, gradient)],
        strict=True,
    )
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in pairs)
