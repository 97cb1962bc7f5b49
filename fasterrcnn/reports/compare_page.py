"""The page of `compare`: two detectors number by number, and the images they disagree about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fasterrcnn.metrics.resampling import Difference
from fasterrcnn.reports import differences, pages
from fasterrcnn.reports.differences import Compared, Report


class Panel(NamedTuple):
    """A picture of one image."""

    title: str  # whose boxes are on it
    uri: str
    text: str  # what they are, in words


class Disagreement(NamedTuple):
    """An image in which A and another detector differ: the truth, A, the other one."""

    file: str
    panels: list[Panel]


def render(
    report: Report, disagreements: Sequence[Sequence[Disagreement]], threshold: float
) -> str:
    """The page as HTML. `disagreements`: of each detector but the first, whose scores are at least
    `threshold`."""
    return pages.render(
        "compare.html",
        report=report,
        pairs=[
            (other, found, some)
            for (other, found), some in zip(report.pairs(), disagreements, strict=True)
        ],
        threshold=threshold,
        meaning=differences.MEANING,
        by_chance=differences.BY_CHANCE,
        too_few=differences.TOO_FEW,
        number=differences.percent,
        interval=differences.interval,
        verdict=differences.verdict,
        summary=summary,
        reach=reach,
    )


def summary(other: Compared, ap: Difference) -> str:
    """AP in a sentence."""
    if ap.low is None:
        return f"{other.letter} and A cannot be told apart: too few images."
    by = f"{differences.percent(ap.difference, sign=True)} AP, {differences.interval(ap)}"
    if not ap.more_than_noise:
        return f"{other.letter} against A: within noise ({by})."
    return f"{other.letter} is {differences.verdict(ap)} than A ({by})."


def reach(found: dict[str, Difference]) -> float:
    """How far from 0 the intervals of a table go."""
    ends = (abs(end) for one in found.values() for end in (one.low, one.high) if end is not None)
    return max(ends, default=0.0) or 1.0
