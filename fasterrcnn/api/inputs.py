"""What a caller gives as an image, to pixels as `predict` has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fasterrcnn.data import bands, images, windows
from fasterrcnn.data.frames import Frame
from fasterrcnn.data.pixel_values import BYTE, FLOAT, INTEGER
from fasterrcnn.data.sources import Source
from fasterrcnn.errors import UsageError
from fasterrcnn.pixel_format import PixelFormat

ImageLike: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor"
_DEPTHS = {np.dtype(np.uint8): BYTE, np.dtype(np.uint16): INTEGER, np.dtype(np.float32): FLOAT}
KINDS = (str, os.PathLike, Image.Image, np.ndarray, Tensor)


def read(image: ImageLike, number: int, pixel_format: PixelFormat, side: int = 0) -> Frame:
    """The image with its pixels ``(C, H, W)``; `number`, from 1, names it in errors. `side`: as of
    `frames.read`.

    Raises UsageError.
    """
    name = str(image) if isinstance(image, (str, os.PathLike)) else f"image {number}"
    try:
        is_file = isinstance(image, (str, os.PathLike))
        left = windows.in_file(str(image), pixel_format, side) if is_file else None
        return Frame(Source(name, name), name, left or _pixels(image, pixel_format))
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def _pixels(image: ImageLike, pixel_format: PixelFormat) -> Tensor:
    """The channels of a run, as displayed. Raises ValueError with a phrase."""
    if isinstance(image, (str, os.PathLike)):
        return images.decode(Path(image), apply_orientation=True, pixel_format=pixel_format)
    if isinstance(image, Image.Image):
        return images.from_pillow(image, pixel_format)
    if isinstance(image, np.ndarray):
        return _of_array(image, pixel_format)
    if isinstance(image, Tensor):
        return images.of_array(
            _of_tensor(image, is_rgb=pixel_format.is_rgb).permute(1, 2, 0), BYTE, pixel_format
        )
    raise ValueError(
        f"{type(image).__name__}: not an image; give a path, a PIL image, an array or a tensor"
    )


def _of_array(array: np.ndarray, pixel_format: PixelFormat) -> Tensor:
    """uint8 ``(H, W, 3)`` in RGB, as PIL and most of Python have it, or the bands ``(H, W, N)`` of
    a run on others; uint16 or float32 where the run's range of values takes them."""
    depth = _DEPTHS.get(array.dtype)
    if depth is None:
        raise ValueError(
            f"an array of {array.dtype}; give uint8 (H, W, 3), 0 to 255, in RGB, or uint16 or "
            "float32 to a run on such values"
        )
    if pixel_format.is_rgb and (array.ndim != 3 or array.shape[2] != 3 or not array.size):
        raise ValueError(f"an array of shape {array.shape}; give uint8 (H, W, 3) in RGB")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or not array.size:
        raise ValueError(f"an array of shape {array.shape}; give (H, W, bands)")
    return images.of_array(bands.as_tensor(array), depth, pixel_format)


def _of_tensor(tensor: Tensor, *, is_rgb: bool) -> Tensor:
    """uint8 ``(C, H, W)``, or float from 0 to 1 as torchvision's detectors take it.

    Floats are rounded to 8 bits, which gives back what ``to_tensor`` of an 8-bit image was made of.
    """
    if tensor.ndim != 3 or not tensor.numel() or (is_rgb and tensor.shape[0] != 3):
        wanted = "(3, H, W) in RGB" if is_rgb else "(bands, H, W)"
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)}; give {wanted}")
    if tensor.dtype == torch.uint8:
        return tensor
    if tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"a tensor of {tensor.dtype}; give torch.uint8, or torch.float32 in 0..1")
    low, high = (value.item() for value in tensor.aminmax())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(
            f"a float tensor with values from {low:g} to {high:g}; floats must be in 0..1 and not "
            "normalized; give torch.uint8 for 0 to 255"
        )
    return (tensor * 255).round().to(torch.uint8)
