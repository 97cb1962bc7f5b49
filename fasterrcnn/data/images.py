"""Reads image files: sizes from headers, pixels as RGB or in the bands that a recipe chooses.

No other module opens images to train on.

Life of a batch, step 3. `inspect` finds the stored size and the EXIF orientation; `decode` applies
the orientation only if asked to, because annotations may refer to the image before or after
rotation. Both take it from one place, so training and prediction turn an image the same way.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torchvision.io import ImageReadMode, decode_image

from fasterrcnn.data import (
    array_files,
    bands,
    dicom_files,
    jpeg_end,
    nodata_tags,
    pixel_values,
    tiff_files,
)
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.bands import REVERSED, Layout, Stored, Unsettled
from fasterrcnn.data.pixel_values import BYTE, FLOAT, INTEGER
from fasterrcnn.errors import DataError
from fasterrcnn.pixel_format import PixelFormat

MAX_PIXELS = 178_956_970  # where Pillow itself takes a file for a decompression bomb
_FORMATS = (  # never EPS or PDF; JPEG opens MPO too
    "JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF",
)  # fmt: skip
_ENDS = {"JPEG": jpeg_end.MARKER, "PNG": b"IEND\xaeB`\x82"}  # the last bytes of a whole file
_ORIENTATION = 0x0112
# Bands of Pillow's modes; of others 3, as which their colors are read.
_BANDS = {"1": 1, "L": 1, "I": 1, "F": 1, "LA": 2, "La": 2, "PA": 4, "RGBA": 4, "RGBa": 4}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # as which bands are read
_READ_AS = {
    1: ImageReadMode.GRAY,
    2: ImageReadMode.GRAY_ALPHA,
    3: ImageReadMode.RGB,
    4: ImageReadMode.RGB_ALPHA,
}

_AS_RGB = PixelFormat()
_max_pixels = MAX_PIXELS
warnings.filterwarnings("ignore", module=r"PIL\.")  # they do not say of which file


class Header(NamedTuple):
    """What a file says of its image."""

    height: int  # as stored (px)
    width: int
    orientation: int  # EXIF's, 1 to 8; 5 to 8 swap the axes
    depth: int = BYTE  # `pixel_values.BYTE`, `INTEGER` or `FLOAT`; 0: not known
    bands: int = 3  # 0: not known
    layout: int = Layout.PLAIN
    nodata: str = ""  # the value of pixels without data that it states, as `nodata.as_text`
    window: str = ""  # the values that become black and white, as `value_range.as_text`

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width of the pixels in the file."""
        return self.height, self.width

    @property
    def displayed(self) -> tuple[int, int]:
        """Height and width after the orientation is applied."""
        swapped = self.orientation >= 5
        return (self.width, self.height) if swapped else self.stored


class Seen(IntEnum):
    """How much of a file a `Verdict` rests on."""

    NOTHING = 0  # it could not be read, which may be different next time
    HEADER = 1
    END = 2  # the header, and its format's end mark if it has one
    PIXELS = 3  # all of it


class Verdict(NamedTuple):
    """What is known of a file."""

    header: Header | str  # or a phrase saying why it cannot be used
    seen: Seen
    damage: str = ""  # a phrase saying why the pixels behind a good header cannot be used

    @property
    def fault(self) -> str:
        """Why the file cannot be used; empty if nothing is known to be wrong."""
        return self.header if isinstance(self.header, str) else self.damage


def limit_pixels(count: int) -> None:
    """Refuse images of more pixels than `count` in this process and those that it forks."""
    global _max_pixels
    _max_pixels = count
    Image.MAX_IMAGE_PIXELS = count  # Pillow refuses twice as many, in frames and tiles too


def within_limit(header: Header | str) -> Header | str:
    """`header`, or a phrase if the image has more pixels than `limit_pixels` allows."""
    if isinstance(header, str) or header.height * header.width <= _max_pixels:
        return header
    return _too_large()


def _too_large() -> str:
    return (
        f"more than {_max_pixels} pixels; if the file is what it should be, raise the limit with "
        "--max-image-pixels"
    )


def inspect(path: Path | str) -> Verdict:
    """What the header and the last bytes of a file say, before `within_limit`."""
    try:
        with opened(path) as file:
            image = _open_image(file)
            ended = isinstance(image, Image.Image) and _has_end(image, file)
            return Verdict(header_of(image), Seen.END if ended else Seen.HEADER)
    except Unsettled as error:
        return Verdict(str(error), Seen.NOTHING)
    except ValueError as error:
        return Verdict(str(error), Seen.PIXELS)


def decode(
    path: Path | str, *, apply_orientation: bool, pixel_format: PixelFormat = _AS_RGB
) -> torch.Tensor:
    """Pixels of an image file: ``(C, H, W)`` (a view of H W C in memory), of 8 bits uint8.

    Channels are those of the `pixel_format`: RGB, where gray is repeated and alpha dropped, or
    bands. Values of more bits are float32: as stored, or as `pixel_values.scaled` makes them where
    the format has a value range. An animation gives its first frame. A JPEG file may lack its end
    marker, but no pixels. Raises ValueError with a phrase if the file cannot be decoded or lacks
    these bands, Unsettled if that may be different next time.
    """
    with opened(path) as file:
        data = file.read()
    image = _open_image(io.BytesIO(data))
    header = within_limit(header_of(image))
    if isinstance(header, str):
        raise Unsettled(header)
    pixels = _pixels(image, data, header, pixel_format)
    height, width = pixels.shape[:2]
    if (height, width) != header.stored:
        raise ValueError(
            f"height {header.height}, width {header.width} in its header, but height {height}, "
            f"width {width} when decoded"
        )
    pixels = pixel_values.as_wanted(
        pixels, header.depth, pixel_format, header.nodata, header.window
    )
    if apply_orientation:
        pixels = _turned(pixels, header.orientation)
    return pixels.permute(2, 0, 1)


def decode_of(data: Annotations, i: int) -> torch.Tensor:
    """Image i of a split ``(C, H, W)``, as its boxes are meant. Raises DataError."""
    try:
        return decode(
            data.path(i), apply_orientation=bool(data.rotate[i]), pixel_format=data.pixel_format
        )
    except ValueError as error:
        raise DataError(f"{data.path(i)}: {error}") from None


def check_size(found: tuple[int, int], expected: np.ndarray) -> None:
    """Raise ValueError unless an image is of the size (H, W) that its boxes refer to."""
    if found != tuple(expected.tolist()):
        (h, w), (height, width) = found, expected.tolist()
        raise ValueError(f"height {h}, width {w}, but it had height {height}, width {width}")


def from_pillow(image: Image.Image, pixel_format: PixelFormat) -> torch.Tensor:
    """Pixels of a Pillow image as `decode` gives those of a file, its EXIF orientation applied.

    Raises ValueError with a phrase.
    """
    header = within_limit(header_of(image))
    if isinstance(header, str):
        raise ValueError(header)
    pixels = _pixels_by_pillow(image, header, pixel_format)
    pixels = pixel_values.as_wanted(pixels, header.depth, pixel_format, header.nodata)
    return _turned(pixels, header.orientation).permute(2, 0, 1)


def of_array(pixels: torch.Tensor, depth: int, pixel_format: PixelFormat) -> torch.Tensor:
    """Values as stored, ``(H, W, N)``, to pixels ``(C, H, W)`` as `decode` gives those of a file.

    Raises ValueError with a phrase.
    """
    pixels = bands.chosen(pixels, Layout.PLAIN, pixel_format)
    return pixel_values.as_wanted(pixels, depth, pixel_format).permute(2, 0, 1)


def odd_page(path: Path | str) -> str | None:
    """Why the pages of a TIFF file are not the bands of one image; None if it is none or they
    are."""
    with opened(path) as file:
        is_tiff = file.read(4) in tiff_files.MAGIC
        return tiff_files.odd_page(file) if is_tiff else None


@contextmanager
def opened(path: Path | str) -> Iterator[IO[bytes]]:
    """A regular file to read from. Raises Unsettled."""
    try:
        # a Path would cost as much as the rest
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 # a FIFO would block forever
            raise Unsettled("not a regular file")
        with open(path, "rb") as file:  # noqa: PTH123 # as above
            yield file
    except FileNotFoundError:
        raise Unsettled("missing") from None
    except OSError as error:
        raise Unsettled(f"cannot be read ({error.strerror})") from None


def _open_image(file: IO[bytes]) -> Image.Image | Stored:
    """The image with its header read. Raises ValueError with a phrase."""
    start = file.read(dicom_files.MAGIC_END)
    file.seek(0)
    if start.startswith(array_files.MAGIC):
        return array_files.open_array(file)
    if dicom_files.is_dicom(start):
        return dicom_files.open_dicom(file)
    try:
        if start.startswith(b"\xff\xd8\xff"):
            return JpegImageFile(file)  # takes half the time of Image.open
        if start[:4] in tiff_files.MAGIC and (stored := tiff_files.open_tiff(file)):
            return stored
        file.seek(0)
        return Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
        raise ValueError("not an image" if start else "empty file") from None
    except Image.DecompressionBombError:
        raise Unsettled(_too_large()) from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise explained(error, "unreadable header") from error


def explained(error: Exception, what: str) -> ValueError:
    """The exception to raise for one of Pillow's: the file's fault, or that of the system."""
    if isinstance(error, MemoryError):
        return Unsettled("not enough memory to decode it")
    if isinstance(error, Unsettled):
        return error
    if isinstance(error, OSError) and error.errno:
        return Unsettled(f"cannot be read ({error.strerror})")
    return ValueError(f"{what} ({error})")


def header_of(image: Image.Image | Stored) -> Header:
    """What an opened image says of itself: the only place that reads an orientation."""
    if isinstance(image, Stored):
        depth = FLOAT if image.dtype.kind == "f" else INTEGER
        depth = BYTE if image.dtype == np.uint8 else depth
        size = image.height, image.width
        return Header(*size, 1, depth, image.bands, image.layout, image.nodata, image.window)
    orientation = 1
    if "exif" in image.info:
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
        except Exception:  # of many kinds; a damaged EXIF block says nothing
            pass
    turned = int(orientation) if orientation in range(1, 9) else 1
    bands = 1 if image.mode.startswith("I;") else _BANDS.get(image.mode, 3)
    layout = Layout.ALPHA if bands in (2, 4) else Layout.PLAIN
    tag = image.tag_v2.get(nodata_tags.TAG, "") if isinstance(image, TiffImageFile) else ""
    depth, nodata = _depth(image), nodata_tags.stated(tag)
    return Header(image.height, image.width, turned, depth, bands, layout, nodata)


def stored_type(path: Path | str) -> np.dtype:
    """The type of the values in a file. Raises ValueError with a phrase."""
    with opened(path) as file:
        image = _open_image(file)
        if isinstance(image, Stored):
            return image.dtype
        kinds = {BYTE: np.uint8, FLOAT: np.float32, INTEGER: np.uint16}
        return np.dtype(np.int32 if image.mode == "I" else kinds[_depth(image)])


def _depth(image: Image.Image) -> int:
    """The depth of an opened image; Pillow's mode of a 16-bit RGB PNG is that of 8 bits."""
    if image.mode.startswith("I"):
        return INTEGER
    if image.mode == "F":
        return FLOAT
    if isinstance(image, PngImageFile) and image.tile and ";16" in str(image.tile[0][3]):
        return INTEGER
    return BYTE


def _has_end(image: Image.Image, file: IO[bytes]) -> bool:
    """Whether the file ends as its format says it must."""
    end = _ENDS.get(image.format or "", b"")
    file.seek(-len(end), os.SEEK_END)
    return file.read() == end


def _pixels(
    image: Image.Image | Stored, data: bytes, header: Header, wanted: PixelFormat
) -> torch.Tensor:
    """Pixels ``(H, W, C)`` with values as stored, uint8 or float32, of an opened image, whose file
    holds `data`. Raises ValueError.

    JPEG and PNG are decoded by torchvision, to the same pixels as by Pillow but faster.
    """
    if isinstance(image, Stored):
        return _chosen(_all_bands(image, data), header, wanted)
    if image.format not in ("JPEG", "PNG"):
        return _pixels_by_pillow(image, header, wanted)
    if image.format == "JPEG":
        jpeg_end.check_scans(data)
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    read_as = ImageReadMode.RGB if wanted.is_rgb else _READ_AS[header.bands]
    try:
        pixels = decode_image(encoded, mode=read_as)
    except RuntimeError:  # damaged: Pillow's message says how
        if image.format == "JPEG":
            return _pixels_of_damaged_jpeg(data, header, wanted)
        return _pixels_by_pillow(image, header, wanted)
    if pixels.dtype == torch.uint16:
        pixels = pixels.to(torch.float32)
    pixels = pixels.permute(1, 2, 0)
    return pixels if wanted.is_rgb else _chosen(pixels, header, wanted)


def _chosen(pixels: torch.Tensor, header: Header, wanted: PixelFormat) -> torch.Tensor:
    """The channels ``(H, W, C)`` of all bands. Raises ValueError."""
    return bands.chosen(pixels, header.layout, wanted)


def _all_bands(image: Stored, data: bytes) -> torch.Tensor:
    """All bands ``(H, W, N)``."""
    try:
        values = image.read(data)
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise explained(error, "cannot be decoded") from error
    return bands.as_tensor(values)


def _pixels_by_pillow(image: Image.Image, header: Header, wanted: PixelFormat) -> torch.Tensor:
    """`_pixels` of an image in any format of Pillow's."""
    try:
        if image.mode.startswith(("I", "F")):  # convert("RGB") would clip at 255
            values = np.asarray(image).astype(np.float32)
        else:
            values = np.array(image.convert("RGB" if wanted.is_rgb else _MODES[header.bands]))
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise explained(error, "cannot be decoded") from error
    pixels = bands.as_tensor(values[:, :, None] if values.ndim == 2 else values)
    if wanted.is_rgb and pixels.shape[2] == 3:
        return pixels
    return _chosen(pixels, header, wanted)


def _pixels_of_damaged_jpeg(data: bytes, header: Header, wanted: PixelFormat) -> torch.Tensor:
    """`_pixels` of a JPEG file if it lacks nothing but its end. Raises ValueError."""
    first, *others = (
        _pixels_by_pillow(JpegImageFile(io.BytesIO(ended)), header, wanted)
        for ended in jpeg_end.endings(data)
    )
    if not all(first.equal(other) for other in others):
        raise ValueError("cannot be decoded (the file is truncated)")
    return first


def _turned(pixels: torch.Tensor, orientation: int) -> torch.Tensor:
    """``(H, W, C)`` as displayed; the axes are exchanged before they are reversed."""
    if orientation >= 5:
        pixels = pixels.transpose(0, 1)
    return pixels.flip(REVERSED[orientation]).contiguous()
