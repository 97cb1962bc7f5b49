"""What `compare` found out: for the terminal, for a json file and for its page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasterrcnn.metrics.resampling import MIN_IMAGES, Difference, Differences

MEANING = (
    "An interval holds for these weights on images like these. It does not say what another "
    "training, of the same recipe with another seed, would give."
)
BY_CHANCE = "Of twenty without a true difference, about one is called better or worse by chance."
TOO_FEW = f"Without an interval: fewer than {MIN_IMAGES} images have such objects."
_MAX_CLASSES = 100  # on the terminal: more would scroll the lines above them away
_HEAD = ("", "A", "{letter}", "{letter} - A", "95 % interval", "")


@dataclass(frozen=True)
class Compared:
    """A detector, by the letter that stands for it."""

    letter: str
    name: str  # as the user gave it
    detail: str  # the checkpoint and its step, or how many detections the file has


@dataclass(frozen=True)
class Report:
    """All detectors on one split; `differences` of each but the first to the first."""

    detectors: list[Compared]
    data_path: Path
    split: str
    images: int
    resamples: int
    differences: list[Differences]

    def pairs(self) -> Iterable[tuple[Compared, Differences]]:
        """Every detector but the first, and how it differs from that."""
        return zip(self.detectors[1:], self.differences, strict=True)


def verdict(one: Difference) -> str:
    """In a word or two, of the detector that is not A."""
    if one.low is None:
        return "" if one.difference is None else "too few images"
    if not one.more_than_noise:
        return "within noise"
    return "better" if one.low > 0 else "worse"


def percent(value: float | None, *, sign: bool = False) -> str:
    """0.1234 as 12.34, a difference with its sign."""
    if value is None:
        return "-"
    return f"{100 * value:+.2f}" if sign else f"{100 * value:.2f}"


def interval(one: Difference) -> str:
    """Its ends."""
    if one.low is None:
        return "-"
    return f"{percent(one.low, sign=True)} to {percent(one.high, sign=True)}"


def lines(report: Report) -> list[str]:
    """A table for each pair, in percent."""
    found = [f"{one.letter}: {one.name}, {one.detail}" for one in report.detectors]
    found.append(
        f"split {report.split} of {report.data_path}: {report.images} images, "
        f"{report.resamples} resamples"
    )
    for other, differences in report.pairs():
        head = tuple(cell.format(letter=other.letter) for cell in _HEAD)
        known = {n: d for n, d in differences.per_class.items() if d.difference is not None}
        rows = [head, *map(_row, differences.metrics, differences.metrics.values())]
        if len(known) <= _MAX_CLASSES:
            rows += [("AP by class", *[""] * 5), *map(_row, known, known.values())]
        found += ["", *_aligned(rows)]
        if len(known) > _MAX_CLASSES:
            found.append(f"(AP of {len(known)} classes: on the page)")
    return [*found, "", MEANING, f"{BY_CHANCE} {TOO_FEW}"]


def as_json(report: Report) -> dict[str, Any]:
    """All numbers, 0 to 1."""
    return {
        "detectors": [vars(one) for one in report.detectors],
        "data_path": str(report.data_path),
        "split": report.split,
        "images": report.images,
        "resamples": report.resamples,
        "differences": [
            {
                "of": other.letter,
                "to": report.detectors[0].letter,
                "metrics": {name: _numbers(d) for name, d in differences.metrics.items()},
                "per_class": {name: _numbers(d) for name, d in differences.per_class.items()},
            }
            for other, differences in report.pairs()
        ],
    }


def _numbers(one: Difference) -> dict[str, Any]:
    return {**vars(one), "difference": one.difference, "more_than_noise": one.more_than_noise}


def _row(name: str, one: Difference) -> tuple[str, ...]:
    values = (percent(one.first), percent(one.other), percent(one.difference, sign=True))
    return (name, *values, interval(one), verdict(one))


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns: the first and the last one to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in (0, len(widths) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
