"""Reads windows of image files to the pixels that `images.decode` gives, without decoding the rest.

Of tiled TIFF the tiles that the window meets are decoded, arrays are mapped into memory. Of other
files there can be raw copies in a folder of the user's cache, which are mapped likewise; without
one the whole file is decoded.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fasterrcnn import value_range
from fasterrcnn.data import array_files, bands, images, pixel_values, tiff_files, user_cache
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.bands import Layout, Stored, Unsettled, Window
from fasterrcnn.data.pixel_values import BYTE, INTEGER
from fasterrcnn.errors import StorageError
from fasterrcnn.nodata import FILE, NONE
from fasterrcnn.pixel_format import AS_STORED, PixelFormat
from fasterrcnn.progress import Progress

NO_COPIES = "none"
_ROWS = 512  # read at once where all of a file is wanted
_PREPARED_ROWS = 64  # of these, brought to pixels at once: values of one byte become four
_BYTES = {BYTE: 1, INTEGER: 2}  # of a value in a copy
_THREADS = 4  # that make copies: each has a whole image in memory
_LIMITS_KEPT = 4096  # images whose own range of values a process remembers


class Image(NamedTuple):
    """An image file, and how it is read."""

    path: str
    rotate: bool  # apply its EXIF orientation
    pixel_format: PixelFormat
    copies: str | None = None  # folder of raw copies

    @property
    def as_stored(self) -> Image:
        """The same, with values as stored, NaN where there is no data."""
        return self._replace(pixel_format=self.pixel_format._replace(value_range=None, fill=()))


def folder(given: str | None = None) -> Path | None:
    """Where raw copies are: the folder `given`, by default one of the user's cache; None for
    `NO_COPIES`."""
    if given == NO_COPIES:
        return None
    return Path(given) if given else user_cache.folder() / "tiles"


def image_of(data: Annotations, i: int) -> Image:
    """The file that image i of a split is in, or is a tile of."""
    return Image(data.path(i), bool(data.rotate[i]), data.pixel_format, data.copies)


def read(image: Image, window: Window, size: np.ndarray) -> Tensor:
    """The pixels ``(C, h, w)`` of a window: a part of what `images.decode` gives.

    `size` ``(2,)``: H, W that the whole image has to have. Raises ValueError with a phrase,
    Unsettled if that may be different next time.
    """
    with images.opened(image.path) as file:
        stored = _in_windows(file)
        if stored is not None:
            images.check_size((stored.height, stored.width), size)
            return _prepared(_values(stored, file, window), stored, image)
    if (copy := _copy_of(image)) is not None:
        chosen = image._replace(pixel_format=_of_copy(image.pixel_format))
        try:
            with images.opened(copy) as file:
                stored = array_files.open_array(file)
                return _prepared(_values(stored, file, window), stored, chosen, of=image)
        except ValueError:  # it is not there, or not as it was: that is no fault of the image
            pass
    whole = _decoded(image, Path(image.path).stat().st_mtime_ns)
    images.check_size((whole.shape[1], whole.shape[2]), size)
    return whole[:, window.top : window.bottom, window.left : window.right]


def _in_windows(file: IO[bytes]) -> Stored | None:
    """The image in a file that can be read in windows as it is; None: it cannot. Raises ValueError
    with a phrase."""
    start = file.read(6)
    file.seek(0)
    try:
        if start == array_files.MAGIC:
            stored: Stored | None = array_files.open_array(file)
        elif start[:4] in tiff_files.MAGIC:
            stored = tiff_files.open_tiff(file, in_windows=True)
        else:
            return None
    except ValueError:
        raise
    except Exception as error:  # Pillow's parser raises many kinds on damaged files
        raise images.explained(error, "unreadable header") from error
    if stored is None or stored.read_part is None:
        return None
    header = images.within_limit(images.header_of(stored))
    if isinstance(header, str):
        raise Unsettled(header)
    return stored


def _values(stored: Stored, file: IO[bytes], window: Window) -> np.ndarray:
    """All bands ``(h, w, N)`` of a window."""
    assert stored.read_part is not None
    try:
        return stored.read_part(file, window)
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise images.explained(error, "cannot be decoded") from error


def _prepared(values: np.ndarray, stored: Stored, image: Image, of: Image | None = None) -> Tensor:
    """Pixels ``(C, h, w)`` of the bands in a window; `of`: the image that `image` is a copy of.
    Raises ValueError with a phrase."""
    wanted = image.pixel_format
    pixels = bands.chosen(bands.as_tensor(values), stored.layout, wanted)
    own = None
    if wanted.value_range == value_range.IMAGE and pixels.dtype != torch.uint8:
        own = _own_range(of or image, Path(image.path).stat().st_mtime_ns)
    return _as_wanted(pixels, stored, wanted, own).permute(2, 0, 1)


def _as_wanted(
    pixels: Tensor, stored: Stored, wanted: PixelFormat, own: tuple[float, float] | None = None
) -> Tensor:
    """`pixel_values.as_wanted` with what the file says of itself."""
    header = images.header_of(stored)
    return pixel_values.as_wanted(pixels, header.depth, wanted, header.nodata, header.window, own)


@functools.lru_cache(maxsize=1)
def _decoded(image: Image, _mtime_ns: int) -> Tensor:
    """A whole image, kept for its next tile."""
    return images.decode(
        image.path, apply_orientation=image.rotate, pixel_format=image.pixel_format
    )


@functools.lru_cache(maxsize=_LIMITS_KEPT)
def _own_range(image: Image, mtime_ns: int) -> tuple[float, float]:
    """The ends of the range of an image's own values."""
    with images.opened(image.path) as file:
        in_windows = _in_windows(file) is not None
    if in_windows:
        form = image.as_stored.pixel_format
        return pixel_values.percentiles(grid(image.path, form, pixel_values.SAMPLED))
    pixels = _decoded(image.as_stored, mtime_ns).permute(1, 2, 0)
    return pixel_values.own_range(pixels)


@dataclass(frozen=True)
class InFile:
    """An image that stays in its file: parts ``image[:, y1:y2, x1:x2]`` are read when asked for."""

    image: Image
    shape: tuple[int, int, int]  # C, H, W
    nbytes: int = 0  # in memory

    def __getitem__(self, part: tuple[slice, slice, slice]) -> Tensor:
        _, height, width = self.shape
        (top, bottom, _), (left, right, _) = part[1].indices(height), part[2].indices(width)
        window = Window(top, left, bottom, right)
        return read(self.image, window, np.array([height, width]))

    def reduced(self, longest: int) -> tuple[Tensor, int]:
        """Every k-th pixel of every k-th row, so that no side is longer than `longest` px, and
        k."""
        _, height, width = self.shape
        step = -(-max(height, width) // longest)
        parts = [
            self[:, top : top + _ROWS, :][:, -top % step :: step, ::step].clone()  # not a view
            for top in range(0, height, _ROWS)
        ]
        return torch.cat(parts, dim=1), step


def in_file(path: str, form: PixelFormat, side: int) -> InFile | None:
    """The image of a file that can be read in windows, if it is larger than tiles of `side` px and
    tiles are all that is wanted of it (`side` above 0). Raises ValueError with a phrase."""
    if not side:
        return None
    with images.opened(path) as file:
        stored = _in_windows(file)
        if stored is None or max(stored.height, stored.width) <= side:
            return None
        channels = bands.chosen(torch.zeros(1, 1, stored.bands), stored.layout, form).shape[2]
        image = Image(path, rotate=True, pixel_format=form)
        return InFile(image, (channels, stored.height, stored.width))


def check(path: str) -> bool:
    """Decode all of a file that can be read in windows, some rows at a time; False for others.
    Raises ValueError with a phrase, as `images.decode`."""
    with images.opened(path) as file:
        stored = _in_windows(file)
        if stored is None:
            return False
        for rows in _in_rows(stored):
            _as_wanted(bands.as_tensor(_values(stored, file, rows)), stored, AS_STORED)
    return True


def grid(path: str, form: PixelFormat, count: int) -> np.ndarray:
    """About `count` values of a file, flat: those of `pixel_values.sample`, with no more in memory
    at a time than some rows of a file that can be read in windows. Raises ValueError."""
    with images.opened(path) as file:
        stored = _in_windows(file)
        if stored is None:
            whole = images.decode(path, apply_orientation=False, pixel_format=form)
            return pixel_values.sample(whole.permute(1, 2, 0), count)
        channels = len(bands.chosen(torch.zeros(1, 1, stored.bands), stored.layout, form)[0, 0])
        step = pixel_values.sample_step(stored.height * stored.width * channels, count)
        found = []
        for rows in _in_rows(stored):
            first = step // 2 - rows.top % step
            values = _values(stored, file, rows)[first % step :: step, step // 2 :: step]
            pixels = bands.chosen(bands.as_tensor(values), stored.layout, form)
            found.append(_as_wanted(pixels, stored, form).reshape(-1).numpy())
        return np.concatenate(found)


def pieces(path: str, form: PixelFormat) -> Iterator[Tensor]:
    """The pixels ``(h, W, C)`` of a file from top to bottom, some rows at a time where it can be
    read in windows, else all at once. Raises ValueError with a phrase."""
    with images.opened(path) as file:
        stored = _in_windows(file)
        if stored is None:
            whole = images.decode(path, apply_orientation=False, pixel_format=form)
            yield whole.permute(1, 2, 0)
            return
        image = Image(path, rotate=False, pixel_format=form)
        for rows in _in_rows(stored):
            values = _values(stored, file, rows)
            for top in range(0, len(values), _PREPARED_ROWS):
                part = values[top : top + _PREPARED_ROWS]
                yield _prepared(part, stored, image).permute(1, 2, 0)


def _in_rows(stored: Stored) -> Iterator[Window]:
    """Windows of whole rows that cover an image."""
    for top in range(0, stored.height, _ROWS):
        yield Window(top, 0, min(top + _ROWS, stored.height), stored.width)


# Raw copies


def _of_copy(form: PixelFormat) -> PixelFormat:
    """How a copy is read, which has the channels of `form`, gray once."""
    return form._replace(channels=3 if form.is_rgb else 0, bands=())


def _copy_of(image: Image) -> Path | None:
    """Where the raw copy of an image is: another one for other channels, or if the file changes.
    There is none where it takes the file to say which values hold no data, or which are shown."""
    form = image.pixel_format
    if image.copies is None or form.nodata == FILE or form.value_range == value_range.WINDOW:
        return None
    try:
        found = Path(image.path).stat()
    except OSError:
        return None
    path = os.path.abspath(image.path)  # noqa: PTH100 # keeps symbolic links
    what = path, found.st_size, found.st_mtime_ns, image.rotate, form.channels, form.bands
    name = hashlib.sha256(repr(what).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return Path(image.copies) / f"{name}.npy"


class Copies(NamedTuple):
    """Raw copies that are missing."""

    images: list[Image]
    size: int  # bytes, at most


def missing_copies(splits: Sequence[Annotations]) -> Copies:
    """The copies that tiles of these splits would be read from, and that are not there."""
    found: dict[Image, int] = {}
    for data in splits:
        assert data.tiles is not None
        cut = np.flatnonzero((data.sizes < data.tiles.sizes).any(axis=1))
        _, first = np.unique(data.tiles.position[cut], return_index=True)
        for i in cut[first].tolist():
            image = image_of(data, i)
            copy = _copy_of(image)
            if copy is not None and not copy.exists() and (values := _values_of_copy(image)):
                found[image] = values
    return Copies([*found], sum(found.values()))


def _values_of_copy(image: Image) -> int:
    """The bytes of a raw copy, at most; 0 of a file that needs none, or cannot be read."""
    try:
        with images.opened(image.path) as file:
            if _in_windows(file) is not None:
                return 0
        header = images.inspect(image.path).header
    except ValueError:
        return 0
    if isinstance(header, str):
        return 0
    form = image.pixel_format
    gray = header.bands < 3 or header.layout == Layout.PAGES
    channels = 1 if form.is_rgb and gray else len(form.bands) or form.channels or header.bands
    return header.height * header.width * channels * _BYTES.get(header.depth, 4)


def make_copies(copies: Copies, progress: Progress) -> None:
    """Decode each image once and write it. Images that cannot be decoded are left to the loader,
    which says what is wrong with them. Raises StorageError."""
    if not copies.images:
        return
    target = Path(copies.images[0].copies or "")
    try:
        target.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target).free
        if free < copies.size:
            raise StorageError(
                f"--data.tile-cache: {target}: {free / 2**30:.1f} GiB free, raw copies need up to "
                f"{copies.size / 2**30:.1f} GiB; give another folder, or none, or convert the "
                "images to tiled TIFF"
            )
        with ThreadPoolExecutor(_THREADS) as pool:  # decoders release Python's lock
            for _ in pool.map(_copy, copies.images):
                progress.step()
    except OSError as error:
        raise StorageError(
            f"--data.tile-cache: {target}: cannot be written to ({error.strerror}); give another "
            "folder, or none"
        ) from None
    finally:
        progress.close()


def _copy(image: Image) -> None:
    """Write the raw copy of an image, under its name only when it is complete."""
    copy = _copy_of(image)
    plain = image.as_stored.pixel_format._replace(nodata=NONE)
    assert copy is not None
    try:
        pixels = images.decode(
            image.path, apply_orientation=image.rotate, pixel_format=plain
        ).permute(1, 2, 0)
    except ValueError:
        return
    if plain.is_rgb and pixels[..., :1].expand_as(pixels).equal(pixels):
        pixels = pixels[..., :1]
    values = pixels.numpy()
    if values.dtype != np.uint8 and _depth(image.path) == INTEGER:
        rounded = values.astype(np.uint16)
        if not np.array_equal(rounded, values):
            return  # integers of more bits are decoded for each tile
        values = rounded
    unfinished = copy.with_name(f".{copy.stem}-{os.getpid()}.npy")
    try:
        np.save(unfinished, np.ascontiguousarray(values))
        unfinished.replace(copy)
    finally:
        unfinished.unlink(missing_ok=True)


def _depth(path: str) -> int:
    """The depth of the values in a file whose header is good."""
    header = images.inspect(path).header
    assert isinstance(header, images.Header)
    return header.depth
