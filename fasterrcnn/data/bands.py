"""The bands of an image file: how many there are, and which of them become channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from typing import IO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fasterrcnn.pixel_format import PixelFormat

_BYTES_PER_PIXEL = 32  # 16 bands of 16 bits
# by EXIF orientation: the axes to reverse, after 5 to 8 were exchanged
REVERSED = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}


class Layout(IntEnum):
    """What the bands of a file are."""

    PLAIN = 0
    ALPHA = 1  # the last one is alpha
    PAGES = 2  # each is a page of its own


class Window(NamedTuple):
    """A part of an image (px)."""

    top: int
    left: int
    bottom: int
    right: int


class Stored(NamedTuple):
    """An image of any number of bands."""

    height: int
    width: int
    bands: int
    layout: Layout
    dtype: np.dtype
    read: Callable[[bytes], np.ndarray]  # content of the file -> (H, W, N)
    nodata: str = ""  # these two: of `images.Header`
    window: str = ""
    read_part: Callable[[IO[bytes], Window], np.ndarray] | None = None  # of a file: some of that


class Unsettled(ValueError):
    """An image cannot be used, for a reason that does not lie in the content of its file."""


class MissingExtra(Unsettled):
    """A file can be decoded where packages are installed that are not."""


def check_bytes(count: int) -> None:
    """Raise Unsettled for an image of so many bytes, if it is larger than one of the most pixels
    may be: a few bytes of a file can stand for any number of bands."""
    if count > _BYTES_PER_PIXEL * (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Unsettled(
            f"{count / 2**30:.1f} GiB of pixels; if the file is what it should be, raise the limit "
            "with --max-image-pixels"
        )


def mismatch(count: int, layout: int, wanted: PixelFormat) -> str | None:
    """Why a file of so many bands cannot be read as `wanted`; None if it can."""
    if wanted.is_rgb:
        pictured = 1 if layout == Layout.PAGES else count - (layout == Layout.ALPHA)
        return None if pictured in (1, 3, 4) else f"{count} bands, where RGB or gray is expected"
    if wanted.bands:
        last = max(wanted.bands)
        return None if last <= count else f"{_bands(count)}, and band {last} is expected"
    if wanted.channels in (0, count):
        return None
    return f"{_bands(count)}, where {wanted.channels} are expected"


def chosen(pixels: Tensor, layout: int, wanted: PixelFormat) -> Tensor:
    """The channels ``(H, W, C)`` of all bands ``(H, W, N)``. Raises ValueError with a phrase."""
    count = pixels.shape[2]
    if phrase := mismatch(count, layout, wanted):
        raise ValueError(phrase)
    if wanted.is_rgb and (count != 3 or layout == Layout.PAGES):
        gray = count < 3 or layout == Layout.PAGES
        return pixels[:, :, :1].repeat(1, 1, 3) if gray else pixels[:, :, :3].contiguous()
    if wanted.bands:
        return pixels[:, :, [band - 1 for band in wanted.bands]]
    return pixels


def as_tensor(values: np.ndarray) -> Tensor:
    """An array as pixels: uint8, or of other types float32."""
    kind = np.uint8 if values.dtype == np.uint8 else np.float32
    return torch.from_numpy(np.require(values, kind, ["C", "W"]))  # not to share what is read-only


def _bands(count: int) -> str:
    return "1 band" if count == 1 else f"{count} bands"
