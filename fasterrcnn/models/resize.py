"""Resizes images bilinearly on any device, bit-equal to Pillow and to OpenCV.

Both compute in fixed point, one axis after the other: every output row or column is a weighted sum
of a few input ones. Sources of method and constants: Pillow's `Resample.c` (BILINEAR, 22 fractional
bits, rounded to pixels between the axes) and OpenCV's `resize.cpp` (INTER_LINEAR of 8-bit pixels,
11 fractional bits, the low 4 dropped between the axes).

Pillow resizes the width first, unless an image shrinks in height and grows in width, which no
recipe does.

Shapes: C channels, H W input pixels, M output pixels along an axis, T weights of each.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fasterrcnn.models.transfer import to_device

Axis = tuple[Tensor, Tensor]  # input pixels of each output pixel, and their weights

_PILLOW_BITS = 22
_OPENCV_BITS = 11


def pillow(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 ``(..., H, W)`` -> int32 ``(..., *size)`` as ``Image.resize(..., BILINEAR)``."""
    half = 1 << (_PILLOW_BITS - 1)
    pixels = images.int()
    for axis in (-1, -2):
        index, weight = _axis(_pillow_axis, pixels.shape[axis], size[axis], images.device)
        pixels = (_weighted(pixels, axis, index, weight) + half) >> _PILLOW_BITS
    return pixels


def opencv(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 ``(..., H, W)`` -> int32 ``(..., *size)`` as ``cv2.resize(..., INTER_LINEAR)``."""
    index, weight = _axis(_opencv_axis, images.shape[-1], size[1], True, images.device)
    wide = _weighted(images.int(), -1, index, weight) >> 4
    index, weight = _axis(_opencv_axis, images.shape[-2], size[0], False, images.device)
    above, below = (
        (wide.index_select(-2, index[:, t]) * weight[:, t, None]) >> 16 for t in range(2)
    )
    return (above + below + 2) >> 2


def _weighted(pixels: Tensor, axis: int, index: Tensor, weight: Tensor) -> Tensor:
    """Sums along `axis` of the input pixels `index` ``(M, T)`` times `weight` ``(M, T)`` int32."""
    if torch.compiler.is_exporting():  # then T is a symbol
        taps = pixels.index_select(axis, index.flatten()).unflatten(axis, index.shape)
        weight = weight if axis == -1 else weight[:, :, None]
        return (taps * weight).sum(dim=axis, dtype=torch.int32)
    if axis == -2:
        weight = weight[:, :, None]
    total = pixels.new_zeros(())
    for t in range(index.shape[1]):
        total = total + pixels.index_select(axis, index[:, t]) * weight[:, t]
    return total


def _axis(weights: Any, *sizes: Any) -> Axis:
    """The `weights` of one axis, kept; not for torch.export, whose sizes are symbols."""
    return (weights.__wrapped__ if torch.compiler.is_exporting() else weights)(*sizes)


@lru_cache(1024)
def _pillow_axis(old: int, new: int, device: torch.device) -> Axis:
    """Input pixels and weights ``(M, T)`` of a triangle filter. To each side it reaches one output
    pixel, but at least one input pixel."""
    scale = old / new
    reach = torch.sym_max(old, new) / new  # at least 1
    center = (torch.arange(new, dtype=torch.float64) + 0.5) * scale
    first = (center - reach + 0.5).floor().clamp(min=0).long()
    last = (center + reach + 0.5).floor().clamp(max=old).long()
    index = first[:, None] + torch.arange(2 * math.ceil(reach) + 1)
    weight = (1 - ((index - center[:, None] + 0.5) * (1.0 / reach)).abs()).clamp(min=0)
    weight = weight * (index < last[:, None])
    weight = weight / weight.sum(dim=1, keepdim=True)
    fixed = (weight * (1 << _PILLOW_BITS) + 0.5).floor()
    return to_device(index.clamp(max=old - 1), device), to_device(fixed.int(), device)


@lru_cache(1024)
def _opencv_axis(old: int, new: int, ends: bool, device: torch.device) -> Axis:
    """Input pixels before and after each output pixel, and their weights, ``(M, 2)`` each. `ends`:
    beyond the first and last input pixel, the other one has no weight."""
    scale = 1.0 / (new / old)
    place = ((torch.arange(new, dtype=torch.float64) + 0.5) * scale - 0.5).float()
    low = place.floor()
    part = place - low
    if ends:
        part = part.masked_fill((low < 0) | (low >= old - 1), 0.0)
    low = low.long()
    weight = torch.stack([1 - part, part], dim=1) * (1 << _OPENCV_BITS)
    index = torch.stack([low, low + 1], dim=1).clamp(0, old - 1)
    return to_device(index, device), to_device(weight.round().int(), device)
