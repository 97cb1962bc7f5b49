"""The page of `check-data`: what is in a data set, for people to look at before training."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from fasterrcnn import value_range
from fasterrcnn.metrics.anchors import IOUS
from fasterrcnn.reports import pages
from fasterrcnn.reports.data_report import Report
from fasterrcnn.reports.page_pictures import Picture


def render(
    report: Report,
    pictures: list[Picture],
    extremes: list[tuple[str, list[Picture]]],
    *,
    with_findings: int,
    found: int,
) -> str:
    """The page as HTML.

    `extremes`: titles and crops of boxes. Among the pictures are `with_findings` of the `found`
    images that something was found about.
    """
    rows = [*enumerate(zip(*(split.classes for split in report.splits), strict=True), start=1)]
    return pages.render(
        "data.html",
        report=report,
        name=Path(report.data_path).name,
        kinds=Counter((p.what, p.action) for p in report.problems).most_common(),
        names=[row[0].name for _, row in rows],
        classes=sorted(rows, key=lambda row: -row[1][0].boxes),
        most=[max(c.boxes for c in split.classes) for split in report.splits],
        ious=IOUS,
        marks=_anchor_marks(report),
        value_marks=_value_marks(report),
        extremes=extremes,
        pictures=pictures,
        all_marks=sorted({mark for picture in pictures for mark in picture.marks}),
        total=sum(split.images for split in report.splits),
        with_findings=with_findings,
        found=found,
    )


def _value_marks(report: Report) -> list[float]:
    """Where the ends of the value range lie in the histogram of values, in bars from the left."""
    limits = value_range.limits(report.value_range) if report.values else None
    if limits is None:
        return []
    first, last = report.values[0].low, report.values[-1].high
    places = (len(report.values) * (end - first) / (last - first) for end in limits)
    return [place for place in places if 0 <= place <= len(report.values)]


def _anchor_marks(report: Report) -> dict[str, list[float]]:
    """By split: where the fitted anchor sizes lie in its histogram, in bars from the left."""
    if report.anchors is None:
        return {}
    marks = {}
    for name, bins in report.anchors.sides.items():
        sizes = {size for level in report.anchors.after[name].levels for size in level.sizes}
        places = (2 * math.log2(size / bins[0].low) for size in sorted(sizes))
        marks[name] = [place for place in places if 0 <= place <= len(bins)]
    return marks
