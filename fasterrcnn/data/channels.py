"""The input channels of a run: which bands its files have, and their mean and std in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fasterrcnn.data import bands, image_cache, images, nodata_tags, value_ranges, windows
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.bands import Layout
from fasterrcnn.data.image_check import MANY
from fasterrcnn.errors import DataError, UsageError
from fasterrcnn.pixel_format import DRAWN, PixelFormat
from fasterrcnn.recipes import Input, as_text


def resolve(
    splits: Sequence[Annotations], wanted: Input, saved: Input | None = None
) -> tuple[Input, list[str]]:
    """The input of a run's recipe, with numbers for what its files decide, and lines for the log.

    The first of the splits is trained on. `wanted`: what was asked for. `saved`: what the run that
    is continued has. Channels become those that data.yaml states; the value range is
    `value_ranges.resolve`'s; mean and std are measured over the training images where they are not
    given for these channels; nodata is what the files state. Raises DataError.
    """
    found = _kinds(splits)
    config, lines = _with_channels(splits[0], wanted, found)
    if saved is None and (reason := _mixed(found, config)):
        raise DataError(reason)
    for kind in found:
        if phrase := bands.mismatch(kind.bands, kind.layout, config.pixel_format):
            raise DataError(f"{kind.file}: {phrase}; {_advice(kind)}")
    nodata, stated = nodata_tags.resolve(
        splits[0], config.nodata, None if saved is None else saved.nodata
    )
    config = replace(config, nodata=nodata)
    value_range, more = value_ranges.resolve(
        splits, config.pixel_format, None if saved is None else saved.value_range
    )
    config = replace(config, value_range=value_range)
    config, measured = _with_statistics(splits[0], config, saved)
    return config, [*lines, *stated, *more, *measured]


def of_run(data: Annotations, config: Input | None) -> Annotations:
    """The images, to be read as the input of a recipe says; None: as they are, to be drawn.

    Raises DataError if the bands or the depth of their files do not go with it.
    """
    if config is None:
        return replace(data, pixel_format=DRAWN)
    for kind in _kinds([data]):
        if phrase := bands.mismatch(kind.bands, kind.layout, config.pixel_format):
            raise DataError(f"{kind.file}: {phrase}; give images like those of the run")
    value_ranges.check(data, config.value_range)
    return replace(data, pixel_format=config.pixel_format)


def drawn(data: Annotations, shown: tuple[int, ...]) -> Annotations:
    """The images to draw: `shown` bands of their files, through the same range of values; without
    any, as they are.

    Raises UsageError if they lack these bands.
    """
    for kind in _kinds([data]) if shown else ():
        if kind.bands < max(shown):
            raise UsageError(f"--display-bands: {as_text(shown)}: {kind.file} has {kind.bands}")
    return replace(data, pixel_format=data.pixel_format.drawn(shown))


_THREADS = 4  # that measure: each has some rows of an image in memory, or all of it


class _Kind(NamedTuple):
    """Files of the same bands."""

    bands: int
    layout: int
    files: int
    file: str  # the first of them

    @property
    def pictured(self) -> int:
        """The bands that RGB is taken from."""
        return 1 if self.layout == Layout.PAGES else self.bands - (self.layout == Layout.ALPHA)


def _kinds(splits: Sequence[Annotations]) -> list[_Kind]:
    """The kinds of files, those of the first split first."""
    found: dict[tuple[int, int], _Kind] = {}
    for data in splits:
        if data.bands is None:
            continue
        rows, first, counts = np.unique(data.bands, axis=0, return_index=True, return_counts=True)
        for (number, layout), i, count in zip(rows.tolist(), first, counts.tolist(), strict=True):
            if number:
                old = found.get((number, layout))
                file = old.file if old else data.path(int(i))
                total = count + (old.files if old else 0)
                found[number, layout] = _Kind(number, layout, total, file)
    return [*found.values()]


def _with_channels(
    train: Annotations, wanted: Input, found: list[_Kind]
) -> tuple[Input, list[str]]:
    """The channels that data.yaml states, if none are asked for; what is left out is said."""
    if wanted.bands or wanted.channels not in (0, 3):
        return wanted, []
    if not wanted.channels and train.channels not in (0, 3):
        said = f"data: {train.channels} input channels, as data.yaml states"
        return replace(wanted, channels=train.channels), [said]
    lines = []
    for kind in found:
        if kind.layout == Layout.PAGES:
            lines.append(
                f"note: {kind.files} images have {kind.bands} pages, of which the first is used; "
                f"--input.channels {kind.bands} takes them as bands"
            )
        elif kind.pictured > 3:
            lines.append(
                f"note: the files have {kind.bands} bands, of which 1, 2 and 3 are used; "
                f"--input.channels {kind.bands} takes all, --input.bands chooses"
            )
        elif kind.layout == Layout.ALPHA:
            lines.append(
                f"note: {kind.files} images have an alpha channel, which is left out; where all "
                f"have it, --input.channels {kind.bands} takes it"
            )
    if any(kind.pictured > 4 for kind in found):
        std = wanted.image_std if {*wanted.image_std} == {1.0} else ()
        wanted = replace(wanted, bands=(1, 2, 3), image_mean=(), image_std=std)
    return wanted, lines


def _mixed(found: list[_Kind], config: Input) -> str | None:
    """Why the files do not go together; gray, RGB and alpha do, where RGB is wanted."""
    is_rgb = config.pixel_format.is_rgb
    by_count = {kind.pictured if is_rgb else kind.bands: kind for kind in found}
    if len(by_count) < 2 or (is_rgb and {*by_count} <= {1, 3}):
        return None
    files = " and ".join(f"{kind.file} ({count})" for count, kind in sorted(by_count.items()))
    return f"images with different numbers of bands: {files}; convert some, or leave them out"


def _advice(kind: _Kind) -> str:
    if kind.bands == 1 and (odd := images.odd_page(kind.file)):
        return f"its pages cannot be bands: {odd}"
    return f"--input.channels {kind.bands} takes all of its bands, --input.bands chooses"


def _with_statistics(
    train: Annotations, config: Input, saved: Input | None
) -> tuple[Input, list[str]]:
    """Mean and std in numbers, one per channel in the network's order."""
    count = config.in_channels
    mean, std = config.image_mean, config.image_std
    if {*std} == {1.0}:
        std = (1.0,) * count
    mean, std = (values if len(values) == count else () for values in (mean, std))
    lines: list[str] = []
    if not mean or not std:
        if saved is not None and len(saved.image_mean) == count and saved.bands == config.bands:
            measured = saved.image_mean, saved.image_std
        else:
            measured, lines = _measured(train, config)
        mean, std = mean or measured[0], std or measured[1]
    return replace(config, image_mean=mean, image_std=std), lines


Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def _measured(train: Annotations, config: Input) -> tuple[Statistics, list[str]]:
    """Mean and std of the pixels of the training images, of more than `MANY` of as many, chosen by
    a hash of their ids; and a line for the log.

    Images that cannot be decoded are left out here; the training says what is wrong with them.
    """
    chosen = value_ranges.in_order_of_hash(train)[:MANY]
    pixel_format = config.pixel_format._replace(fill=())

    def measure() -> tuple[list[float], int]:
        of_images = [*_moments(train, chosen, pixel_format)]
        total, mean, squares = _merged(of_images, config.in_channels)
        std = np.sqrt(squares / np.maximum(total, 1))
        used = len(of_images)
        return [used, *mean.tolist(), *std.tolist()], used

    paths = [train.path(i) for i in chosen]
    used, *moments = image_cache.measured(f"moments {pixel_format}", paths, measure)
    if not used:
        raise value_ranges.undecodable(train)
    mean, std = np.split(np.array(moments), 2)
    if constant := np.flatnonzero(std == 0).tolist():
        band = config.bands[constant[0]] if config.bands else constant[0] + 1
        raise DataError(
            f"{train.folder}: band {band} has one value in all training images; choose others with "
            "--input.bands, or give --input.image-mean and --input.image-std"
        )
    order = slice(None, None, -1 if config.channel_order == "bgr" else 1)
    found = [
        tuple(float(f"{value / config.pixel_scale:.6g}") for value in values[order])
        for values in (mean, std)
    ]
    text = [",".join(f"{value:g}" for value in values) for values in found]
    return (found[0], found[1]), [
        f"data: --input.image-mean {text[0]} --input.image-std {text[1]} of {used:.0f} training "
        "images"
    ]


_Moments = tuple[np.ndarray, np.ndarray, np.ndarray]  # per channel: pixels, mean, squares


def _merged(parts: Iterable[_Moments], channels: int) -> _Moments:
    """The moments of all parts, merged one by one: Chan, Golub and LeVeque, "Updating formulae and
    a pairwise algorithm for computing sample variances" (1979)."""
    total, mean, squares = np.zeros((3, channels))
    for count, own_mean, own_squares in parts:
        step = own_mean - mean
        merged = total + count
        mean += step * count / np.maximum(merged, 1)
        squares += own_squares + step**2 * total * count / np.maximum(merged, 1)
        total = merged
    return total, mean, squares


def _moments(
    train: Annotations, chosen: Sequence[int], pixel_format: PixelFormat
) -> Iterator[_Moments]:
    """Of each chosen image that can be decoded, per channel the number of pixels with data, their
    mean and the sum of squared differences from it."""

    def moments(i: int) -> _Moments | None:
        try:
            parts = map(_moments_of, windows.pieces(train.path(i), pixel_format))
            return _merged(parts, pixel_format.channels)
        except ValueError:
            return None

    with ThreadPoolExecutor(_THREADS) as pool:  # decoders release Python's lock
        yield from filter(None, pool.map(moments, chosen))


def _moments_of(pixels: Tensor) -> _Moments:
    """Of some pixels ``(h, W, C)``."""
    values = [
        channel[np.isfinite(channel)].astype(np.float64)
        for channel in pixels.permute(2, 0, 1).numpy()
    ]
    mean = np.array([v.mean() if len(v) else 0.0 for v in values])
    squares = np.array([((v - m) ** 2).sum() for v, m in zip(values, mean, strict=True)])
    return np.array([len(v) for v in values]), mean, squares
