"""TIFF files of more bands, or of more bits in several bands, than Pillow takes.

Such a file's strips or tiles are handed to Pillow, whose decoders are libtiff's, as those of a gray
image of its bytes; of each plane, where the bands are stored one after the other. What cannot be
decoded so is left to tifffile, which is an extra. Sources of the layout: TIFF Revision 6.0 (Adobe,
1992), sections 2, 8, 14 and 15; TIFF Technical Note 3 (2005), for predictor 3.

Shapes: H W pixels, N bands.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from fasterrcnn.data import nodata_tags
from fasterrcnn.data.bands import REVERSED, Layout, MissingExtra, Stored, Window, check_bytes

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS = 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS = (
    284, 317, 322, 323, 324, 325,
)  # fmt: skip
_EXTRA, _FORMAT, _SUBFILE, _FILL_ORDER = 338, 339, 254, 266
_KINDS = {1: "u", 2: "i", 3: "f"}  # of numpy, by sample format
_TYPES = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")
_BY_PILLOW = (np.uint8, np.uint16, np.float32)  # of one band, whose values it leaves as they are
_NOT_BY_PILLOW = (np.int8, np.uint32, np.float16, np.float64)  # taken for others, or no image
_LONG = 4  # the type of a tag
_JPEG = (6, 7)


class _Page(NamedTuple):
    """A directory of the file."""

    place: int  # among all directories
    tags: dict[int, Any]

    def get(self, tag: int, default: Any = None) -> Any:
        """The value of a tag, the first one of several."""
        value = self.tags.get(tag, default)
        return value[0] if isinstance(value, tuple) and value else value

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as stored."""
        return int(self.get(_LENGTH, 0)), int(self.get(_WIDTH, 0))

    @property
    def dtype(self) -> np.dtype | None:
        """The type of its values; None if they are not alike, or of a type that is not read."""
        bits = self.tags.get(_BITS, (1,))
        kind = _KINDS.get(self.get(_FORMAT, 1))
        name = f"{kind}{bits[0] // 8}"
        return np.dtype(name) if {*bits} == {bits[0]} and name in _TYPES else None

    @property
    def is_unknown(self) -> bool:
        """Whether its values are of more bits than Pillow unpacks, and of none of `_TYPES`."""
        return self.dtype is None and self.get(_BITS, 1) >= 16

    @property
    def undecodable(self) -> str:
        """A phrase saying why its pixels are not decoded here; empty if they are."""
        if self.dtype is None or self.get(_FILL_ORDER, 1) != 1:
            return f"bands of {self.tags.get(_BITS)} bits"
        compression, predictor = self.get(_COMPRESSION, 1), self.get(_PREDICTOR, 1)
        if compression in _JPEG or predictor not in (1, 2, 3):
            return f"TIFF compression {compression} with predictor {predictor}"
        return ""


def open_tiff(file: IO[bytes], *, in_windows: bool = False) -> Stored | None:
    """The image in a file, whose directories are read; None for those that are left to Pillow.
    `in_windows`: of these, too, those that can be read in windows, to the values that Pillow gives.
    Raises what Pillow raises if directories are damaged."""
    pages = [*_pages(file)]
    if not pages:
        return None
    first, samples = pages[0], int(pages[0].get(_SAMPLES, 1))
    photometric = first.get(_PHOTOMETRIC)
    if photometric not in (1, 2):
        return None
    if samples == 1:
        if len(pages) == 1 or first.dtype is None or {*map(_kind, pages)} != {_kind(first)}:
            kinds = _BY_PILLOW if in_windows else ()
            own = first.dtype in (*_NOT_BY_PILLOW, *kinds) or first.is_unknown
            return _stored(first, 1, Layout.PLAIN, pages[:1]) if own and photometric == 1 else None
        return _stored(first, len(pages), Layout.PAGES, pages)
    extra = first.tags.get(_EXTRA, ())
    alpha = bool(extra) and extra[-1] in (1, 2)
    colors = 3 if photometric == 2 else 1
    together = first.get(_PLANAR, 1) == 1 or first.get(_COMPRESSION) in _JPEG
    divided = alpha and extra[-1] == 1  # Pillow divides colors by such alpha
    if samples == colors + alpha and first.dtype == np.uint8 and together:  # noqa: SIM102
        if divided or not in_windows:
            return None
    return _stored(first, samples, Layout.ALPHA if alpha else Layout.PLAIN, pages[:1])


def odd_page(file: IO[bytes]) -> str | None:
    """A phrase about the first page that is unlike the first one, for which pages are no bands."""
    pages = [*_pages(file)]
    for number, page in enumerate(pages, start=1):
        if _kind(page) != _kind(pages[0]):
            (height, width), (h, w) = page.size, pages[0].size
            return f"page {number} has height {height}, width {width}, and the first {h}, {w}"
    return None


def first_tags(file: IO[bytes]) -> dict[int, Any]:
    """The tags of the first image. Raises what Pillow raises if they are damaged."""
    return next((page.tags for page in _pages(file)), {})


def _kind(page: _Page) -> tuple:
    """What is the same for pages that can be bands of one image."""
    return page.size, page.dtype, page.get(_SAMPLES, 1), page.get(_ORIENTATION, 1)


def _stored(first: _Page, bands: int, layout: Layout, pages: list[_Page]) -> Stored:
    height, width = first.size
    turned = int(first.get(_ORIENTATION, 1))
    turned = turned if turned in REVERSED else 1
    if turned >= 5:
        height, width = width, height
    dtype = first.dtype or np.dtype("f4" if first.get(_FORMAT) == 3 else "u2")

    def read(data: bytes) -> np.ndarray:
        try:
            parts = [_decoded(data, page) for page in pages]
        except _Unsupported as error:
            parts = [_by_tifffile(data, page.place, str(error)) for page in pages]
        pixels = np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]
        return _turned(pixels, turned)

    def read_part(file: IO[bytes], part: Window) -> np.ndarray:
        return np.concatenate([_part(file, page, part) for page in pages], axis=2)

    in_windows = turned == 1 and all(
        _TILE_OFFSETS in page.tags and not page.undecodable for page in pages
    )
    return Stored(
        height,
        width,
        bands,
        layout,
        dtype,
        read,
        nodata=nodata_tags.stated(first.get(nodata_tags.TAG, "")),
        read_part=read_part if in_windows else None,
    )


class _Unsupported(Exception):
    """What this module does not decode."""


def _pages(file: IO[bytes]) -> Iterator[_Page]:
    """The directories of the file in their order, without those of thumbnails and masks."""
    file.seek(0)
    head = file.read(8)
    if head[2] == 43 or head[3] == 43:  # BigTIFF
        head += file.read(8)
    offset, seen = ImageFileDirectory_v2(head).next, list[int]()
    while offset and offset not in seen:
        seen.append(offset)
        directory = ImageFileDirectory_v2(head)
        file.seek(offset)
        directory.load(file)
        page = _Page(len(seen) - 1, dict(directory))
        if not int(page.get(_SUBFILE, 0)) & 5:
            yield page
        offset = directory.next


def _decoded(data: bytes, page: _Page) -> np.ndarray:
    """The pixels of a page ``(H, W, N)``."""
    return _part(io.BytesIO(data), page, Window(0, 0, *page.size))


def _part(file: IO[bytes], page: _Page, part: Window) -> np.ndarray:
    """A part of the pixels of a page ``(h, w, N)``, of which only the strips or tiles in it are
    decoded."""
    if phrase := page.undecodable:
        raise _Unsupported(phrase)
    assert page.dtype is not None
    (height, width), samples = page.size, int(page.get(_SAMPLES, 1))
    compression, predictor = page.get(_COMPRESSION, 1), page.get(_PREDICTOR, 1)
    tiled = _TILE_OFFSETS in page.tags
    block_width = int(page.get(_TILE_WIDTH)) if tiled else width
    block_height = int(page.get(_TILE_LENGTH)) if tiled else min(height, page.get(_ROWS, height))
    offsets, counts = (
        page.tags.get(tag, ())
        for tag in ((_TILE_OFFSETS, _TILE_COUNTS) if tiled else (_OFFSETS, _COUNTS))
    )
    across, down = math.ceil(width / block_width), math.ceil(height / block_height)
    planar = page.get(_PLANAR, 1) == 2
    planes, together = (samples, 1) if planar else (1, samples)
    if len(offsets) != planes * across * down or len(counts) != len(offsets):
        raise ValueError("cannot be decoded (strips or tiles are missing)")
    first_row, first_column = part.top // block_height, part.left // block_width
    end_row, end_column = -(-part.bottom // block_height), -(-part.right // block_width)
    columns, size = end_column - first_column, page.dtype.itemsize
    end = end_row * block_height
    rows = (end if tiled else min(end, height)) - first_row * block_height
    order = _read(file, 0, 2)
    if rows * columns * block_width > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError("tiles or strips that are much larger than the image")
    check_bytes(rows * columns * block_width * samples * size)
    found = []
    for plane in range(planes):
        own = [
            (plane * down + row) * across + column
            for row in range(first_row, end_row)
            for column in range(first_column, end_column)
        ]
        blocks = [_read(file, offsets[k], counts[k]) for k in own]
        block = block_height, block_width * together * size
        raw = _bytes(blocks, compression, (rows, columns * block[1]), block, tiled)
        raw = raw.reshape(rows, columns, block_width * size, together)
        pixels = _undone(raw, predictor if compression != 1 else 1, page.dtype, order)
        found.append(pixels.reshape(rows, columns * block_width, together))
    pixels = np.concatenate(found, axis=2) if planar else found[0]
    top, left = part.top - first_row * block_height, part.left - first_column * block_width
    return pixels[top : top + part.bottom - part.top, left : left + part.right - part.left]


def _read(file: IO[bytes], start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _undone(raw: np.ndarray, predictor: int, dtype: np.dtype, order: bytes) -> np.ndarray:
    """The values in bytes ``(rows, blocks, width * bytes of a value, N)``, without the prediction
    of each from the one before."""
    rows, across, _, together = raw.shape
    stored = dtype.newbyteorder("<" if order == b"II" else ">")
    if predictor == 3:  # bytes, after those of the same rank were put together, highest first
        ranks = np.cumsum(raw, axis=2, dtype=np.uint8).reshape(rows, across, dtype.itemsize, -1)
        values = np.ascontiguousarray(np.moveaxis(ranks, 2, 3)).view(dtype.newbyteorder(">"))
    else:
        values = raw.reshape(rows, across, -1).view(stored)
    values = values.reshape(rows, across, -1, together).astype(dtype, copy=False)
    if predictor == 2:  # the differences of floating-point values are those of their bits
        bits = np.dtype(f"u{dtype.itemsize}")
        values = np.cumsum(values.view(bits), axis=2, dtype=bits).view(dtype)
    return values


def _bytes(
    blocks: list[bytes],
    compression: int,
    size: tuple[int, int],
    block: tuple[int, int],
    tiled: bool,
) -> np.ndarray:
    """The bytes ``size`` in strips or tiles of the size `block`, decoded as a gray image."""
    lengths = [len(one) for one in blocks]
    starts = np.cumsum([8, *lengths]).tolist()
    tags = {
        _WIDTH: [size[1]], _LENGTH: [size[0]], _BITS: [8], _COMPRESSION: [compression],
        _PHOTOMETRIC: [1], _SAMPLES: [1],
    }  # fmt: skip
    if tiled:
        tags |= {_TILE_WIDTH: [block[1]], _TILE_LENGTH: [block[0]],
                 _TILE_OFFSETS: starts[:-1], _TILE_COUNTS: lengths}  # fmt: skip
    else:
        tags |= {_ROWS: [block[0]], _OFFSETS: starts[:-1], _COUNTS: lengths}
    with TiffImageFile(io.BytesIO(_file(blocks, starts[-1], tags))) as image:
        # Else Pillow counts bytes as pixels.
        image.im = Image.core.new(image.mode, image.size)  # type: ignore[attr-defined]
        return np.asarray(image)


def _file(blocks: list[bytes], end: int, tags: dict[int, list[int]]) -> bytes:
    """A TIFF file of one directory, behind the `blocks`, which end at `end`."""
    pad = b"\0" * (end % 2)
    start = end + len(pad)
    behind = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}L", *numbers)
        if len(numbers) > 1:
            packed, values = struct.pack("<L", behind + len(values)), values + packed
        entries += struct.pack("<HHL", tag, _LONG, len(numbers)) + packed
    head, count = struct.pack("<2sHL", b"II", 42, start), struct.pack("<H", len(tags))
    return b"".join([head, *blocks, pad, count, entries, b"\0" * 4, values])


def _by_tifffile(data: bytes, page: int, reason: str) -> np.ndarray:
    """The pixels of a page ``(H, W, N)``, decoded by the extra. Raises ValueError with a phrase."""
    try:
        import tifffile
    except ModuleNotFoundError:
        raise MissingExtra(
            f"{reason}: needs tifffile and imagecodecs; pip install tifffile imagecodecs (the "
            "extra images of this package)"
        ) from None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        found = file.pages[page]
        pixels = found.asarray()
        if pixels.ndim == 2:
            return pixels[:, :, None]
        return np.moveaxis(pixels, 0, -1) if found.planarconfig == 2 else pixels


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As displayed, which Pillow does for other TIFF files too."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    return np.flip(pixels, REVERSED[orientation])
