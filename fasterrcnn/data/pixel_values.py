"""Brings values of more than 8 bits to the scale of 8-bit ones, without rounding them to it.

Values of 8 bits stay as they are, uint8. Others become float32 on a scale where 0 and 255 are the
ends of the range: the mean, std and divisor of a recipe mean the same for both.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fasterrcnn import nodata, value_range
from fasterrcnn.pixel_format import PixelFormat

BYTE, INTEGER, FLOAT = 8, 16, 32  # depths: bits of a value; INTEGER: of integers of any more bits
PERCENTILES = (0.1, 99.9)  # the ends of a range that is measured
_BEYOND = 255.0  # a value is followed so far outside of 0 to 255: one dead pixel must not rule
SAMPLED = 1_000_000  # values of an image from which its percentiles are taken


def as_wanted(
    pixels: Tensor,
    depth: int,
    wanted: PixelFormat,
    stated: str = "",
    window: str = "",
    own: tuple[float, float] | None = None,
) -> Tensor:
    """Channels ``(H, W, C)`` with values as stored, uint8 or float32, to pixels as `wanted`.

    `stated` (of nodata) and `window`: what the file says of itself (`images.Header`), or empty.
    `own`: the `own_range` of the whole image, where they are a part of one.
    Where there may be nodata, pixels become float32. Raises ValueError with a phrase.
    """
    missing = _missing(pixels, wanted.nodata, stated)
    if missing is not None and pixels.is_floating_point():
        pixels = pixels.masked_fill(missing, torch.nan)  # not to be measured
    if depth == FLOAT:
        odd = ~pixels.isfinite() if missing is None else ~(pixels.isfinite() | missing)
        if odd.any():
            raise ValueError(f"{int(odd.any(dim=2).sum())} of its pixels are NaN or infinite")
    if wanted.value_range is not None:
        pixels = scaled(pixels, depth, wanted.value_range, window, own)
    if missing is not None:
        return torch.where(missing, torch.tensor(wanted.fill or torch.nan), pixels.float())
    return pixels.float() if wanted.has_nodata and wanted.fill else pixels


def as_stored(pixels: Tensor, wanted: PixelFormat, dtype: torch.dtype) -> Tensor:
    """Pixels ``(C, H, W)`` as `wanted` to values of a file, of `dtype`: what `as_wanted` makes the
    same pixels of.

    `wanted` has a range of numbers or none, and a number as nodata or none.
    """
    values = pixels.double()
    limits = value_range.limits(wanted.value_range or value_range.FULL)
    if limits is not None:
        low, high = limits
        values = values * ((high - low) / 255.0) + low
    if not dtype.is_floating_point:
        values = values.round().clamp(0, torch.iinfo(dtype).max)
    value = nodata.value(wanted.nodata)
    if value is not None:
        filled = pixels == torch.tensor(wanted.fill).view(-1, 1, 1)
        values = values.masked_fill(filled, value)
    return values.to(dtype)


def _missing(pixels: Tensor, wanted: str, stated: str) -> Tensor | None:
    """Where a band holds no data: bool, of the shape of `pixels`. None: nowhere."""
    value = nodata.value(wanted)
    if wanted == nodata.FILE and stated:
        value = float(stated)
    if value is None:
        return None
    same = torch.tensor(value, dtype=torch.float32)
    return pixels.isnan() if same.isnan() else pixels == same


def scaled(
    pixels: Tensor,
    depth: int,
    wanted: str,
    window: str = "",
    own: tuple[float, float] | None = None,
) -> Tensor:
    """Pixels as stored to pixels as the network takes them, by `recipes.Input.value_range`.

    uint8 is returned as it is. float32 becomes float32, of which 0 to 255 is the range and nothing
    lies outside of -255 to 510; or with "full" (and "dataset", where nothing was measured) uint8:
    a 256th, rounded down. Raises ValueError with a phrase.
    """
    limits = value_range.limits(wanted)
    if pixels.dtype == torch.uint8:
        if limits is not None:
            raise ValueError(f"8-bit values, but the range of values is {wanted}")
        return pixels
    if wanted == value_range.WINDOW:
        if not window:
            raise ValueError("states no window; give --input.value-range LOW,HIGH")
        limits = value_range.limits(window)
    if wanted == value_range.IMAGE:
        limits = own or own_range(pixels)
    if limits is None:
        if depth == FLOAT:
            raise ValueError("floating-point pixels have no known range")
        return (pixels.to(torch.int64) >> 8).clamp(0, 255).to(torch.uint8)
    low, high = limits
    if low == high:
        return torch.zeros_like(pixels)
    return ((pixels - low) * (255.0 / (high - low))).clamp(-_BEYOND, 255.0 + _BEYOND)


def own_range(pixels: Tensor) -> tuple[float, float]:
    """The ends of the range of an image ``(H, W, C)`` for itself."""
    return percentiles(sample(pixels, SAMPLED))


def sample(pixels: Tensor, count: int) -> np.ndarray:
    """About `count` values of an image ``(H, W, C)`` on a regular grid of pixels, flat."""
    step = sample_step(pixels.numel(), count)
    return pixels[step // 2 :: step, step // 2 :: step].reshape(-1).numpy()


def sample_step(values: int, count: int) -> int:
    """The px between those that `sample` takes of an image of so many `values`."""
    return max(1, round((values / count) ** 0.5))


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The ends of the range of these values, of which NaN is none."""
    if not len(values := values[np.isfinite(values)]):
        return 0.0, 0.0
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)


def displayable(pixels: Tensor) -> Tensor:
    """uint8 RGB ``(3, H, W)``, to be drawn, of pixels ``(C, H, W)`` as the network takes them: the
    first three channels; of fewer the first, as gray."""
    if len(pixels) != 3:
        pixels = pixels[:3] if len(pixels) > 3 else pixels[:1].expand(3, -1, -1)
    if pixels.dtype == torch.uint8:
        return pixels
    return pixels.round().clamp(0, 255).to(torch.uint8)
