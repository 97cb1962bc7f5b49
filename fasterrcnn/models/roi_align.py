"""RoIAlign over all levels of a pyramid at once, without reading values on the host; RoIPool.

The same samples and weights as torchvision's `MultiScaleRoIAlign` and `roi_align`. On GPUs, a
Triton kernel computes it where it works. Else, with a fixed number of samples, every output bin is
a weighted sum of pyramid cells. With all levels in one table of rows of C channels, that is what
`embedding_bag` computes, forward and backward, channels last and without copies per level.

Shapes: N images, R rois per image, C channels, L levels, P bins per side, T samples per side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align, roi_pool

from fasterrcnn import recipes
from fasterrcnn.models import kernels


def pyramid_roi_align(
    features: list[Tensor], rois: Tensor, strides: tuple[int, ...], config: recipes.RoIHeads
) -> Tensor:
    """L x ``(N, C, H_l, W_l)`` and ``(N, R, 4)`` px -> ``(N * R, C, P, P)``, float32; by the kernel
    in autocast's precision, to which autocast would round it next.

    Gradients flow to the features only.
    """
    rois = rois.detach()
    level = level_of(rois, strides, config.level_map)
    if torch.compiler.is_exporting() or not kernels.usable("roi_align_kernels", rois.device):
        return by_torch(features, rois, level, strides, config)
    kind = rois.device.type
    half = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if half else torch.float32
    bins, samples, aligned = config.pool_size, config.sampling_ratio, config.aligned
    return by_kernel(features, rois, level, [*strides], bins, samples, aligned, dtype)


def by_torch(
    features: list[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: tuple[int, ...],
    config: recipes.RoIHeads,
) -> Tensor:
    """As `pyramid_roi_align`, each roi pooled from its level, int64 ``(N, R)``; always float32."""
    if config.sampling_ratio == 0 or torch.compiler.is_exporting():
        return _by_operator(features, rois, level, strides, config)
    table = torch.cat([f.permute(0, 2, 3, 1).flatten(0, 2) for f in features]).float()
    rows, weights = _taps(features, rois, level, strides, config)
    pooled = functional.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
    bins = config.pool_size
    return pooled.view(-1, bins, bins, table.shape[1]).permute(0, 3, 1, 2)


@torch.library.custom_op("fasterrcnn::roi_align", mutates_args=())
def by_kernel(
    features: list[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: list[int],
    bins: int,
    samples: int,
    aligned: bool,
    dtype: torch.dtype,
) -> Tensor:
    """As `by_torch`, of P `bins` and T `samples` per side (0: one per cell of a bin), summed in
    float32 and rounded to `dtype`. Rois that are not finite give zeros."""
    from fasterrcnn.models import roi_align_kernels

    return roi_align_kernels.align(features, rois, level, strides, bins, samples, aligned, dtype)


@by_kernel.register_fake
def _(
    features: list[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: list[int],
    bins: int,
    samples: int,
    aligned: bool,
    dtype: torch.dtype,
) -> Tensor:
    n, r = level.shape
    shape = n * r, bins, bins, features[0].shape[1]
    return features[0].new_empty(shape, dtype=dtype).permute(0, 3, 1, 2)


@torch.library.custom_op("fasterrcnn::roi_align_gradients", mutates_args=())
def gradients_by_kernel(
    gradient: Tensor,
    sizes: list[int],
    rois: Tensor,
    level: Tensor,
    strides: list[int],
    samples: int,
    aligned: bool,
) -> list[Tensor]:
    """The gradients of the features of `by_kernel`, float32, of `sizes` H_0 W_0 H_1 ..., from that
    of its result."""
    from fasterrcnn.models import roi_align_kernels

    return roi_align_kernels.gradients(gradient, sizes, rois, level, strides, samples, aligned)


@gradients_by_kernel.register_fake
def _(
    gradient: Tensor,
    sizes: list[int],
    rois: Tensor,
    level: Tensor,
    strides: list[int],
    samples: int,
    aligned: bool,
) -> list[Tensor]:
    n, channels = len(rois), gradient.shape[1]
    return [
        rois.new_empty(n, height, width, channels).permute(0, 3, 1, 2)
        for height, width in zip(sizes[::2], sizes[1::2], strict=True)
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """What the backward pass needs: no features, only their sizes."""
    features, rois, level, strides, _, samples, aligned, _ = inputs
    ctx.save_for_backward(rois, level)
    ctx.sizes = [side for feature in features for side in feature.shape[2:]]
    ctx.sampling = strides, samples, aligned


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    found = gradients_by_kernel(gradient, ctx.sizes, *ctx.saved_tensors, *ctx.sampling)
    return found, *(None,) * 7  # autograd rounds them to the features' dtype


by_kernel.register_autograd(_backward, setup_context=_keep)


def level_of(rois: Tensor, strides: tuple[int, ...], level_map: str = "torchvision") -> Tensor:
    """The level, int64 ``(N, R)`` from 0, each roi is pooled from: equation 1 of the FPN paper.

    Frameworks add the epsilon in different places, which only matters for sides of 224 times a
    power of two.
    """
    side = ((rois[..., 2] - rois[..., 0]) * (rois[..., 3] - rois[..., 1])).sqrt()
    if level_map == "torchvision":
        level = torch.floor(4 + torch.log2(side / 224) + 1e-6)
    elif level_map == "detectron2":
        level = torch.floor(4 + torch.log2(side / 224 + 1e-8))
    else:
        level = torch.floor(torch.log2(side / 56 + 1e-6)) + 2
    first, last = (int(math.log2(strides[i])) for i in (0, -1))
    return level.clamp(first, last).long() - first


def _by_operator(
    features: list[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: tuple[int, ...],
    config: recipes.RoIHeads,
) -> Tensor:
    """RoIAlign by torchvision's operator: where there is one sample per cell of a bin, and in
    exported programs, whose runtimes have the operator.

    One call per level with all rois, those of other levels made empty: shapes do not depend on the
    data, and an empty roi costs little.
    """
    pooled = rois.new_zeros(())
    for i, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        here = (level == i)[..., None]
        out = roi_align(
            feature.float(),
            _with_image(rois * here),
            config.pool_size,
            1.0 / stride,
            config.sampling_ratio,
            aligned=config.aligned,
        )
        pooled = pooled + out * here.reshape(-1, 1, 1, 1)
    return pooled


def pool_cells(feature: Tensor, rois: Tensor, stride: int, bins: int) -> Tensor:
    """RoIPool of Fast R-CNN on one level, by torchvision's operator: the maximum of whole cells.

    ``(N, C, H, W)`` and ``(N, R, 4)`` px -> ``(N * R, C, P, P)`` float32.
    """
    return roi_pool(feature.float(), _with_image(rois.detach()), bins, 1.0 / stride)


def _with_image(rois: Tensor) -> Tensor:
    """``(N, R, 4)`` -> ``(N * R, 5)``, image index first, as torchvision's operators take."""
    n, r = rois.shape[:2]
    image = torch.arange(n, device=rois.device, dtype=rois.dtype)[:, None, None].expand(n, r, 1)
    return torch.cat([image, rois], dim=-1).flatten(0, 1)


def _taps(
    features: list[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: tuple[int, ...],
    config: recipes.RoIHeads,
) -> tuple[Tensor, Tensor]:
    """Table rows int64 and weights float32 of every bin, both ``(N * R * P * P, 4 * T * T)``."""
    n, r = rois.shape[:2]
    bins, samples = config.pool_size, config.sampling_ratio
    heights, widths = zip(*(f.shape[2:] for f in features), strict=True)
    starts = [n * sum(h * w for h, w in zip(heights[:i], widths[:i], strict=True))
              for i in range(len(features))]  # fmt: skip
    height, width, start = (_by_level(level, v) for v in (heights, widths, starts))
    scaled = rois / _by_level(level, strides)[..., None]
    if config.aligned:
        scaled = scaled - 0.5
    low_y, high_y, weight_y = _axis(scaled[..., 1], scaled[..., 3], height, config)
    low_x, high_x, weight_x = _axis(scaled[..., 0], scaled[..., 2], width, config)
    ys = torch.stack([low_y, high_y], dim=-1)[:, :, :, None, :, None, :, None]
    xs = torch.stack([low_x, high_x], dim=-1)[:, :, None, :, None, :, None, :]
    image = torch.arange(n, device=rois.device)[:, None]
    first = (start + image * height * width).view(n, r, 1, 1, 1, 1, 1, 1)
    rows = first + ys * width.view(n, r, 1, 1, 1, 1, 1, 1) + xs
    weights = weight_y[:, :, :, None, :, None, :, None] * weight_x[:, :, None, :, None, :, None, :]
    taps = n * r * bins * bins, 4 * samples * samples
    return rows.reshape(taps), (weights / samples**2).reshape(taps)


def _axis(
    low: Tensor, high: Tensor, cells: Tensor, config: recipes.RoIHeads
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells below and above each sample, int64 ``(N, R, P, T)``, and their weights ``(..., 2)``.

    `low`, `high` ``(N, R)``: the roi's ends in cells. Samples more than one cell outside weigh 0.
    """
    device, bins, samples = low.device, config.pool_size, config.sampling_ratio
    length = high - low if config.aligned else (high - low).clamp(min=1.0)
    bin_size = (length / bins)[..., None, None]
    bin_start = torch.arange(bins, device=device)[:, None]
    offset = (torch.arange(samples, device=device) + 0.5) / samples
    at = low[..., None, None] + bin_start * bin_size + offset * bin_size
    last = (cells - 1)[..., None, None]
    inside = (at >= -1) & (at <= last + 1)
    at = at.clamp(min=0)
    below = torch.minimum(at.long(), last)
    above = torch.minimum(below + 1, last)
    part = torch.where(below == last, 0.0, at - below)
    return below, above, torch.stack([1 - part, part], dim=-1) * inside[..., None]


def _by_level(level: Tensor, values: Sequence[int]) -> Tensor:
    """``values[level]``, without copying a table to the device."""
    out = torch.full_like(level, values[0])
    for i, value in enumerate(values[1:], start=1):
        out = out.masked_fill(level == i, value)
    return out
