"""Reads image files: sizes from headers, pixels as uint8 RGB. No other module opens images to train
on.

Life of a batch, step 3. `read_header` returns the stored size and the EXIF orientation; `decode`
applies the orientation only if asked to, because annotations may refer to the image before or after
rotation.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_image, read_file

from fasterrcnn.data.image_files import SUFFIXES, images_in
from fasterrcnn.errors import DataError, UsageError

_FORMATS = (  # never EPS or PDF; JPEG opens MPO too
    "JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF",
)  # fmt: skip
_ORIENTATION = 0x0112


class Header(NamedTuple):
    """Size as stored in the file (px) and EXIF orientation (1 to 8; 5 to 8 swap the axes)."""

    height: int
    width: int
    orientation: int

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width of the pixels in the file."""
        return self.height, self.width

    @property
    def displayed(self) -> tuple[int, int]:
        """Height and width after the orientation is applied."""
        swapped = self.orientation >= 5
        return (self.width, self.height) if swapped else self.stored


def read_header(path: Path) -> Header | str:
    """Header of an image file, or a phrase saying why it cannot be read. Decodes no pixels."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a FIFO would block forever
            return "not a regular file"
        with Image.open(path, formats=_FORMATS) as image:
            orientation = image.getexif().get(_ORIENTATION, 1) if "exif" in image.info else 1
            width, height = image.size
    except FileNotFoundError:
        return "missing"
    except UnidentifiedImageError:
        return "not an image" if path.stat().st_size else "empty file"
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        return f"unreadable header ({error})"
    return Header(height, width, orientation if orientation in range(1, 9) else 1)


def read_headers(paths: list[Path]) -> list[Header | str]:
    """`read_header` of many files, in threads to hide the latency of cold disks."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(read_header, paths, chunksize=64))


def decode(path: Path | str, *, apply_orientation: bool) -> torch.Tensor:
    """Pixels of an image file: uint8 RGB ``(3, H, W)`` (a view of H W 3 in memory).

    Gray is repeated, alpha dropped, 16-bit values are divided by 256; an animation gives its first
    frame. Raises ValueError with a phrase if the file cannot be decoded.
    """
    try:
        image = _decode_with_torchvision(path, apply_orientation)
    except RuntimeError:  # damaged: Pillow's message says how
        image = None
    return _decode_with_pillow(path, apply_orientation) if image is None else image


def _decode_with_torchvision(path: Path | str, apply_orientation: bool) -> torch.Tensor | None:
    """JPEG and PNG, to the same pixels as Pillow but faster; None for other formats."""
    data = read_file(str(path))
    if bytes(data[:2].tolist()) not in (b"\xff\xd8", b"\x89P"):
        return None
    image = decode_image(data, mode=ImageReadMode.RGB, apply_exif_orientation=apply_orientation)
    if image.dtype == torch.uint16:
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return image


def _decode_with_pillow(path: Path | str, apply_orientation: bool) -> torch.Tensor:
    """All formats. Raises ValueError."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if apply_orientation:
                image = ImageOps.exif_transpose(image)
            if image.mode == "F":
                raise ValueError("floating-point pixels have no known range")
            if image.mode.startswith("I"):  # convert("RGB") would clip 16 bits at 255
                gray = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                pixels = np.repeat(gray[:, :, None], 3, axis=2)
            else:
                pixels = np.array(image.convert("RGB"))
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise ValueError(f"cannot be decoded ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def find(paths: tuple[Path, ...]) -> list[tuple[Path, str]]:
    """Every image in `paths`, as (file, name in the results): the file name, or for an image in a
    given folder its path in there. Raises UsageError for a path without images, and if two images
    have the same name."""
    found = []
    for path in paths:
        if path.is_dir():
            inside = images_in(path)
            if not inside:
                raise UsageError(f"{path}: no image in this folder ({' '.join(SUFFIXES)})")
            found += [(path / name, name) for name in inside]
        elif path.is_file():
            found.append((path, path.name))
        else:
            raise UsageError(f"{path}: no such image or folder")
    names = [name for _, name in found]
    for file, name in found:
        if names.count(name) > 1:
            raise UsageError(
                f"{file}: another image is called {name} too; give the folder that holds both"
            )
    return found


def check_not_replaced(files: list[tuple[Path, str]], folder: Path, names: list[str]) -> None:
    """Raise UsageError if writing one of `names` into `folder` would overwrite one of `files`."""
    sources = {file.resolve() for file, _ in files}
    for name in names:
        if (folder / name).resolve() in sources:
            raise UsageError(
                f"--output-dir: {folder}: {name} is one of the images; give another folder"
            )


def decoded(files: list[tuple[Path, str]]) -> Iterator[tuple[Path, str, torch.Tensor]]:
    """Decodes the images that `find` returned, as displayed: (file, name, uint8 ``(3, H, W)``).

    Raises DataError.
    """
    for file, name in files:
        try:
            yield file, name, decode(file, apply_orientation=True)
        except ValueError as error:
            raise DataError(f"{file}: {error}; give another image") from None
