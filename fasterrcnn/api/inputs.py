"""What a caller gives as an image, to pixels as `predict` has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fasterrcnn.data import images
from fasterrcnn.data.frames import Frame
from fasterrcnn.data.pixel_values import BYTE, FLOAT, INTEGER, scaled
from fasterrcnn.data.sources import Source
from fasterrcnn.errors import UsageError

ImageLike: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor"
_DEPTHS = {np.dtype(np.uint8): BYTE, np.dtype(np.uint16): INTEGER, np.dtype(np.float32): FLOAT}
KINDS = (str, os.PathLike, Image.Image, np.ndarray, Tensor)


def read(image: ImageLike, number: int, value_range: str) -> Frame:
    """The image with its pixels ``(3, H, W)``; `number`, from 1, names it in errors.

    Raises UsageError.
    """
    name = str(image) if isinstance(image, (str, os.PathLike)) else f"image {number}"
    try:
        return Frame(Source(name, name), name, _pixels(image, value_range))
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def _pixels(image: ImageLike, value_range: str) -> Tensor:
    """RGB as displayed. Raises ValueError with a phrase."""
    if isinstance(image, (str, os.PathLike)):
        return images.decode(Path(image), apply_orientation=True, value_range=value_range)
    if isinstance(image, Image.Image):
        return images.from_pillow(image, value_range)
    if isinstance(image, np.ndarray):
        return _of_array(image, value_range)
    if isinstance(image, Tensor):
        return scaled(_of_tensor(image), BYTE, value_range)
    raise ValueError(
        f"{type(image).__name__}: not an image; give a path, a PIL image, an array or a tensor"
    )


def _of_array(array: np.ndarray, value_range: str) -> Tensor:
    """uint8 ``(H, W, 3)`` in RGB, as PIL and most of Python have it; uint16 or float32 where the
    run's range of values takes them."""
    depth = _DEPTHS.get(array.dtype)
    if depth is None:
        raise ValueError(
            f"an array of {array.dtype}; give uint8 (H, W, 3), 0 to 255, in RGB, or uint16 or "
            "float32 to a run on such values"
        )
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(f"an array of shape {array.shape}; give uint8 (H, W, 3) in RGB")
    if depth != BYTE:
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{(~np.isfinite(array)).sum()} of its values are NaN or infinite")
    elif not array.flags.writeable:  # as np.asarray of a PIL image; torch would warn
        array = array.copy()
    pixels = torch.from_numpy(np.ascontiguousarray(array))
    return scaled(pixels, depth, value_range).permute(2, 0, 1)


def _of_tensor(tensor: Tensor) -> Tensor:
    """uint8 ``(3, H, W)``, or float from 0 to 1 as torchvision's detectors take it.

    Floats are rounded to 8 bits, which gives back what ``to_tensor`` of an 8-bit image was made of.
    """
    if tensor.ndim != 3 or tensor.shape[0] != 3 or not tensor.numel():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)}; give (3, H, W) in RGB")
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
