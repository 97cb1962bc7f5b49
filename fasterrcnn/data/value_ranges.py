"""The range of values of a data set: measured once, then numbers in the run's recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fasterrcnn import value_range
from fasterrcnn.data import image_cache, image_check, images, windows
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.pixel_values import BYTE, FLOAT, INTEGER, PERCENTILES, percentiles
from fasterrcnn.data.statistics import Bin
from fasterrcnn.errors import DataError
from fasterrcnn.pixel_format import PixelFormat

MEASURED = 500  # images, chosen by a hash of their ids
_VALUES = 20_000  # of each
_BARS = 40
_KINDS = {BYTE: "8-bit", INTEGER: "integer", FLOAT: "floating-point"}


def resolve(
    splits: Sequence[Annotations], pixel_format: PixelFormat, saved: str | None = None
) -> tuple[str, list[str]]:
    """The value range of a run's recipe, and lines for the log; the first split is trained on.

    `pixel_format`: what was asked for. `saved`: what the run that is continued has. "dataset"
    becomes what the run has, or numbers measured over the training images; it stays as it is where
    all values are of 8 bits. Raises DataError.
    """
    wanted = pixel_format.value_range
    assert wanted is not None
    if wanted != value_range.DATASET:
        return wanted, []
    if saved is not None and saved not in {*value_range.NAMES} - {value_range.DATASET}:
        return saved, []
    if len(examples := _examples(splits)) > 1:
        raise _mixed(examples)
    as_stored = pixel_format._replace(value_range=None, fill=())
    return _measured(splits[0], as_stored) if examples.keys() - {BYTE} else (wanted, [])


def check(data: Annotations, wanted: str) -> None:
    """Raise DataError if the depth of the files does not go with the value range of a recipe."""
    examples = _examples([data])
    if wanted == value_range.WINDOW:
        _check_windows(data)
    if value_range.limits(wanted) is not None:
        if len(examples) > 1:
            raise _mixed(examples)
        if BYTE in examples:
            raise DataError(
                f"{examples[BYTE]}: 8-bit values, but the range of values is {wanted}; give images "
                "like those of the run, or start a run without --input.value-range"
            )
    elif wanted not in (value_range.IMAGE, value_range.WINDOW) and FLOAT in examples:
        raise DataError(
            f"{examples[FLOAT]}: floating-point values, of which the run has no range; start a "
            "run on such images, or with --input.value-range LOW,HIGH"
        )


def _check_windows(data: Annotations) -> None:
    """Raise DataError for a file of more than 8 bits that states no window."""
    paths = [data.path(i) for i in range(len(data))]
    for path, verdict in zip(paths, image_check.read_headers(paths), strict=True):
        header = verdict.header
        if isinstance(header, images.Header) and header.depth != BYTE and not header.window:
            raise DataError(f"{path}: states no window; give --input.value-range LOW,HIGH")


def _examples(splits: Sequence[Annotations]) -> dict[int, str]:
    """The first file of each depth."""
    found: dict[int, str] = {}
    for data in splits:
        if data.depths is not None:
            depths, first = np.unique(data.depths, return_index=True)
            for depth, i in zip(depths.tolist(), first.tolist(), strict=True):
                if depth:
                    found.setdefault(depth, data.path(i))
    return found


def _mixed(examples: dict[int, str]) -> DataError:
    """The error for files of several depths."""
    files = " and ".join(f"{file} ({_KINDS[depth]})" for depth, file in examples.items())
    return DataError(
        f"images of different depths: {files}; convert some, or give --input.value-range image or "
        "full"
    )


def undecodable(train: Annotations) -> DataError:
    """The error where nothing can be measured."""
    return DataError(
        f"{train.folder}: no training image can be decoded; --check-images all says why"
    )


def _measured(train: Annotations, as_stored: PixelFormat) -> tuple[str, list[str]]:
    """The percentiles of the training images as text, and a line for the log.

    Images that cannot be decoded are left out here; the training says what is wrong with them.
    """

    def measure() -> tuple[list[float], int]:
        parts = [*_samples(train, as_stored)]
        values = np.concatenate([np.empty(0, np.float32), *parts])
        low, high = percentiles(values)
        outside = ((values < low) | (values > high)).sum()
        return [low, high, float(outside), len(values), len(parts)], len(parts)

    paths = [train.path(i) for i in in_order_of_hash(train)[:MEASURED]]
    what = f"range {PERCENTILES} {_VALUES} {as_stored}"
    low, high, outside, count, used = image_cache.measured(what, paths, measure)
    if not used:
        raise undecodable(train)
    if not count:
        raise DataError(
            f"{train.folder}: no pixel of the training images holds data (--input.nodata "
            f"{as_stored.nodata}); give another value, or none"
        )
    if low == high:
        raise DataError(
            f"{train.folder}: the values of the training images are all {low:g}, but for at most "
            "0.1% on either side; give --input.value-range LOW,HIGH"
        )
    text = value_range.as_text(low, high)
    return text, [
        f"data: values of more than 8 bits: --input.value-range {text} ({PERCENTILES[0]} and "
        f"{PERCENTILES[1]} percentiles of {used:.0f} training images) becomes 0 to 255; "
        f"{outside / count:.2%} of the values lie outside"
    ]


def histogram(train: Annotations, pixel_format: PixelFormat) -> list[Bin]:
    """The values of the training images as stored, those of which `resolve` measures the range.

    The bars cover the range of `pixel_format`, or the percentiles, and up to half of its width on
    either side; what lies beyond is counted in the last bars. Empty where all values are of 8 bits.
    """
    if not _examples([train]).keys() - {BYTE}:
        return []
    parts = _samples(train, pixel_format._replace(value_range=None, fill=()))
    values = np.concatenate([np.empty(0, np.float32), *parts])
    if not len(values):
        return []
    wanted = pixel_format.value_range
    low, high = (wanted and value_range.limits(wanted)) or percentiles(values)
    half = (high - low) / 2 or 1.0
    least = max(low - half, min(low, float(values.min())))
    most = min(high + half, max(high, float(values.max())))
    counts, edges = np.histogram(values.clip(least, most), _BARS, (least, most))
    ends = edges.tolist()
    return [Bin(ends[i], ends[i + 1], count) for i, count in enumerate(counts.tolist())]


def in_order_of_hash(data: Annotations) -> list[int]:
    """The positions of the images, in the order of a hash of their ids."""
    return sorted(range(len(data)), key=lambda i: _hash(data.ids[i]))


def _samples(train: Annotations, as_stored: PixelFormat) -> Iterator[np.ndarray]:
    """Values of the chosen images that can be decoded, in an order that does not depend on the
    threads."""
    chosen = in_order_of_hash(train)[:MEASURED]

    def values(i: int) -> np.ndarray | None:
        try:
            found = windows.grid(train.path(i), as_stored, _VALUES)
        except ValueError:
            return None
        return found[np.isfinite(found)]

    with ThreadPoolExecutor() as pool:  # decoders release Python's lock
        yield from (part for part in pool.map(values, chosen) if part is not None)


def _hash(id: str) -> bytes:
    return hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
