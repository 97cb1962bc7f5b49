"""The range of values of a data set: measured once, then numbers in the run's recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fasterrcnn import value_range
from fasterrcnn.data import windows
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.pixel_values import BYTE, FLOAT, INTEGER, PERCENTILES, percentiles
from fasterrcnn.errors import DataError
from fasterrcnn.pixel_format import PixelFormat

MEASURED = 500  # images, chosen by a hash of their ids
_VALUES = 20_000  # of each
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
    if saved is not None and saved not in (value_range.IMAGE, value_range.FULL):
        return saved, []
    if len(examples := _examples(splits)) > 1:
        raise _mixed(examples)
    as_stored = pixel_format._replace(value_range=None)
    return _measured(splits[0], as_stored) if examples.keys() - {BYTE} else (wanted, [])


def check(data: Annotations, wanted: str) -> None:
    """Raise DataError if the depth of the files does not go with the value range of a recipe."""
    examples = _examples([data])
    if value_range.limits(wanted) is not None:
        if len(examples) > 1:
            raise _mixed(examples)
        if BYTE in examples:
            raise DataError(
                f"{examples[BYTE]}: 8-bit values, but the range of values is {wanted}; give images "
                "like those of the run, or start a run without --input.value-range"
            )
    elif wanted != value_range.IMAGE and FLOAT in examples:
        raise DataError(
            f"{examples[FLOAT]}: floating-point values, of which the run has no range; start a "
            "run on such images, or with --input.value-range LOW,HIGH"
        )


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


def _measured(train: Annotations, as_stored: PixelFormat) -> tuple[str, list[str]]:
    """The percentiles of the training images as text, and a line for the log.

    Images that cannot be decoded are left out here; the training says what is wrong with them.
    """
    parts = [part for part in _samples(train, as_stored) if len(part)]
    values = np.concatenate(parts) if parts else np.zeros(1, np.float32)
    low, high = percentiles(values)
    if low == high:
        raise DataError(
            f"{train.folder}: the values of the training images are all {low:g}, but for at most "
            "0.1% on either side; give --input.value-range LOW,HIGH"
        )
    text = value_range.as_text(low, high)
    outside = ((values < low) | (values > high)).mean()
    return text, [
        f"data: values of more than 8 bits: --input.value-range {text} ({PERCENTILES[0]} and "
        f"{PERCENTILES[1]} percentiles of {len(parts)} training images) becomes 0 to 255; "
        f"{outside:.2%} of the values lie outside"
    ]


def in_order_of_hash(data: Annotations) -> list[int]:
    """The positions of the images, in the order of a hash of their ids."""
    return sorted(range(len(data)), key=lambda i: _hash(data.ids[i]))


def _samples(train: Annotations, as_stored: PixelFormat) -> Iterator[np.ndarray]:
    """Values of the chosen images, in an order that does not depend on the threads."""
    chosen = in_order_of_hash(train)[:MEASURED]

    def values(i: int) -> np.ndarray:
        try:
            found = windows.grid(train.path(i), as_stored, _VALUES)
        except ValueError:
            return np.empty(0, np.float32)
        return found[np.isfinite(found)]

    with ThreadPoolExecutor() as pool:  # decoders release Python's lock
        yield from pool.map(values, chosen)


def _hash(id: str) -> bytes:
    return hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
