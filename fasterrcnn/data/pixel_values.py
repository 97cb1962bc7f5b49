"""Brings values of more than 8 bits to the scale of 8-bit ones, without rounding them to it.

Values of 8 bits stay as they are, uint8. Others become float32 on a scale where 0 and 255 are the
ends of the range: the mean, std and divisor of a recipe mean the same for both.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fasterrcnn import value_range

BYTE, INTEGER, FLOAT = 8, 16, 32  # depths: bits of a value; INTEGER: of integers of any more bits
PERCENTILES = (0.1, 99.9)  # the ends of a range that is measured
_BEYOND = 255.0  # a value is followed so far outside of 0 to 255: one dead pixel must not rule
_SAMPLED = 1_000_000  # values of an image from which its percentiles are taken


def scaled(
    pixels: Tensor, depth: int, wanted: str, own: tuple[float, float] | None = None
) -> Tensor:
    """Pixels as stored to pixels as the network takes them, by `recipes.Input.value_range`. `own`:
    the `own_range` of the whole image, where they are a part of one.

    uint8 is returned as it is. float32 becomes float32, of which 0 to 255 is the range and nothing
    lies outside of -255 to 510; or with "full" (and "dataset", where nothing was measured) uint8:
    a 256th, rounded down. Raises ValueError with a phrase.
    """
    limits = value_range.limits(wanted)
    if pixels.dtype == torch.uint8:
        if limits is not None:
            raise ValueError(f"8-bit values, but the range of values is {wanted}")
        return pixels
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
    return percentiles(sample(pixels, _SAMPLED))


def sample(pixels: Tensor, count: int) -> np.ndarray:
    """About `count` values of an image ``(H, W, C)`` on a regular grid of pixels, flat."""
    step = sample_step(pixels.numel(), count)
    return pixels[step // 2 :: step, step // 2 :: step].reshape(-1).numpy()


def sample_step(values: int, count: int) -> int:
    """The px between those that `sample` takes of an image of so many `values`."""
    return max(1, round((values / count) ** 0.5))


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The ends of the range of these values."""
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
