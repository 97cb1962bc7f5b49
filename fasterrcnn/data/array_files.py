"""Images of numpy's format: arrays ``(H, W)`` or ``(H, W, N)`` of uint8, uint16 or float32."""

from __future__ import annotations

import io
from functools import partial
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from fasterrcnn.data.bands import Layout, Stored, Window

MAGIC = b"\x93NUMPY"
_TYPES = ("u1", "u2", "f4")


def open_array(file: IO[bytes]) -> Stored:
    """The image in a file, whose header is read. Raises ValueError with a phrase."""
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError("an array of records; give uint8, uint16 or float32")
    try:
        shape, by_column, dtype = read(file)
    except Exception as error:  # of many kinds, of several lines
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(f"an array whose header is damaged ({first[:200]})") from None
    if dtype.str[1:] not in _TYPES:
        raise ValueError(f"an array of {dtype}; give uint8, uint16 or float32")
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"an array of shape {shape}; give (height, width) or (height, width, bands)"
        )
    height, width, bands = (*shape, 1)[:3]
    if bands > height and height < width:
        raise ValueError(
            f"an array of shape {shape}, which looks like (bands, height, width); give (height, "
            "width, bands): np.moveaxis(a, 0, -1)"
        )
    window = partial(_window, shape, dtype, "F" if by_column else "C", file.tell())
    whole = partial(_read, shape)
    return Stored(height, width, bands, Layout.PLAIN, dtype, whole, read_part=window)


def _read(shape: tuple[int, ...], data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False).reshape(*shape[:2], -1)


def _window(
    shape: tuple[int, ...], dtype: np.dtype, order: Any, start: int, file: IO[bytes], part: Window
) -> np.ndarray:
    """A part of the array, of which nothing is read before it is used."""
    whole = np.memmap(file, dtype, "r", start, shape, order)
    found = whole[part.top : part.bottom, part.left : part.right]
    return found if found.ndim == 3 else found[:, :, None]
