"""What `check-data` finds out about a data set, as values and as lines for the terminal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from fasterrcnn.data import statistics
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.duplicates import Duplicates, Member
from fasterrcnn.data.problems import Problem
from fasterrcnn.data.statistics import Box, Statistics
from fasterrcnn.data.tile_advice import SMALL, Advice
from fasterrcnn.image_sizes import training_sizes
from fasterrcnn.metrics import anchors, coco
from fasterrcnn.metrics.anchors import Recall
from fasterrcnn.recipes import Recipe

_ODD = {  # code of hotcoco's healthcheck -> what is odd about a box
    "near_duplicate": "nearly the same as another box of its class",
    "extreme_aspect_ratio": "more than 20 times as long as wide",
}
_BARS = " ▁▂▃▄▅▆▇█"
_SHOWN = 5  # findings of a kind, and groups of equal images
_KINDS_SHOWN = _CLASSES_SHOWN = 20


@dataclass(frozen=True)
class Anchors:
    """The recall of a recipe's anchors, and of those that fit the data better."""

    given: str  # flags
    fitted: str  # flags; the same if nothing better was found
    before: dict[str, Recall]  # by split
    after: dict[str, Recall]
    sides: dict[str, list[statistics.Bin]]  # sqrt(width * height) of the resized boxes (px)


@dataclass(frozen=True)
class Report:
    """Everything that was found; what json gets."""

    data_path: str
    format: str
    recipe: str
    splits: list[Statistics]
    problems: list[Problem]
    failures: list[str]  # why a split could not be read at all
    odd: dict[str, list[Box]]  # boxes by split that are to be looked at; trained on all the same
    duplicates: Duplicates
    anchors: Anchors | None  # None without boxes or without a network that has any
    tiles: Advice | None = None  # whether to train on tiles; None without boxes, or if it does
    value_range: str = ""  # --input.value-range, where files are of more than 8 bits
    values: list[statistics.Bin] = field(default_factory=list)  # of the training images, likewise

    @property
    def faults(self) -> list[Problem]:
        """The problems that stop a training."""
        return [problem for problem in self.problems if problem.action == "stop"]


def odd_boxes(data: Annotations) -> list[Box]:
    """Boxes to train on that hotcoco's healthcheck warns of."""
    found = coco.ground_truth(data).healthcheck()
    return [
        statistics.box(data, id - 1, _ODD[warning["code"]])
        for warning in found["warnings"]
        if warning["code"] in _ODD
        for id in sorted(warning["affected_ids"])
        if data.trainable[id - 1]
    ]


def fit_anchors(
    splits: dict[str, Annotations], recipe: Recipe, strides: tuple[int, ...]
) -> Anchors | None:
    """The recall of the recipe's anchors and of fitted ones on every split that has boxes, at the
    sizes of training."""
    sizes = training_sizes(recipe)
    boxes = {name: anchors.resized_boxes(data, sizes) for name, data in splits.items()}
    boxes = {name: part for name, part in boxes.items() if len(part.boxes)}
    if not boxes:
        return None
    fitted = anchors.fit([*boxes.values()], recipe.rpn, strides)
    before, after = (
        {name: anchors.measure(part, rpn, strides) for name, part in boxes.items()}
        for rpn in (recipe.rpn, fitted)
    )
    sides = {
        name: statistics.histogram(np.sqrt((part.boxes[:, 2:] - part.boxes[:, :2]).prod(axis=1)))
        for name, part in boxes.items()
    }
    return Anchors(anchors.flags(recipe.rpn), anchors.flags(fitted), before, after, sides)


def lines(report: Report) -> list[str]:
    """The report in a few lines."""
    names = ", ".join(split.name for split in report.splits) or "none that can be read"
    return [
        f"{report.data_path}: {report.format}; splits: {names}",
        *(_split(split) for split in report.splits),
        *_classes(report.splits),
        *_problems(report.problems),
        *_images(report.duplicates),
        *_odd(report.odd),
        *_values(report),
        *_anchors(report),
        *_tiles(report.tiles),
    ]


def _split(split: Statistics) -> str:
    crowd = f", {split.crowd} crowd boxes" if split.crowd else ""
    sizes = ", ".join(f"{count} {size}" for size, count in split.by_size.items())
    return (
        f"{split.name}: {split.images} images, {split.boxes} boxes ({sizes}){crowd}, "
        f"{len(split.without_boxes)} images without boxes"
    )


def _classes(splits: list[Statistics]) -> list[str]:
    """The most frequent classes with their boxes in each split."""
    if not splits:
        return []
    rows = sorted(zip(*(split.classes for split in splits), strict=True), key=lambda r: -r[0].boxes)
    shown = [f"{row[0].name} {' + '.join(str(c.boxes) for c in row)}" for row in rows]
    more = ["..."] * (len(shown) > _CLASSES_SHOWN)
    found = [f"{len(rows)} classes: {', '.join([*shown[:_CLASSES_SHOWN], *more])}"]
    empty = [row[0].name for row in rows if row[0].boxes == 0]
    if empty:
        more = ["..."] * (len(empty) > _CLASSES_SHOWN)
        names = ", ".join([*empty[:_CLASSES_SHOWN], *more])
        found.append(f"{len(empty)} classes without a box in {splits[0].name}: {names}")
    return found


def _problems(problems: list[Problem]) -> list[str]:
    """Each kind with its number and its first few."""
    found = []
    kinds = Counter((problem.what, problem.action) for problem in problems)
    for (what, action), count in kinds.most_common(_KINDS_SHOWN):
        found.append(f"{count} x {what}: {action}")
        some = [p for p in problems if (p.what, p.action) == (what, action)]
        found += [f"  {p.file}: {p.field}: {p.value[:80]}" for p in some[:_SHOWN]]
        if count > _SHOWN:
            found.append(f"  and {count - _SHOWN} more")
    if len(kinds) > _KINDS_SHOWN:
        found.append(f"and {len(kinds) - _KINDS_SHOWN} more kinds of problems")
    return found or ["no problem in the annotations"]


def _images(equal: Duplicates) -> list[str]:
    """Images that occur more than once."""
    found = [
        *_groups("in several splits: the same image", equal.across),
        *_groups("in one split several times: the same image", equal.within),
        *_groups("in several splits: the same name with other content", equal.same_name),
    ]
    return found or ["no image twice"]


def _odd(odd: dict[str, list[Box]]) -> list[str]:
    return [
        f"{count} x box {what} ({split})"
        for split, boxes in odd.items()
        for what, count in Counter(box.what for box in boxes).items()
    ]


def _values(report: Report) -> list[str]:
    """The histogram of values as one line."""
    if not report.values:
        return []
    most = max(one.boxes for one in report.values)
    bars = "".join(_BARS[-(-(len(_BARS) - 1) * one.boxes // most)] for one in report.values)
    low, high = report.values[0].low, report.values[-1].high
    return [
        f"values of the training images: {low:g} {bars} {high:g}; --input.value-range "
        f"{report.value_range}"
    ]


def _groups(what: str, groups: list[list[Member]]) -> list[str]:
    if not groups:
        return []
    found = [f"{len(groups)} x {what}"]
    for group in groups[:_SHOWN]:
        found.append("  " + " = ".join(f"{m.split}: {m.file}" for m in group[:_SHOWN]))
    return found + [f"  and {len(groups) - _SHOWN} more"] * (len(groups) > _SHOWN)


def _anchors(report: Report) -> list[str]:
    if report.anchors is None:
        return []
    found = []
    for name, before in report.anchors.before.items():
        after = report.anchors.after[name]
        numbers = ", ".join(
            f"{100 * old:.1f} -> {100 * new:.1f} % at IoU {iou:g}"
            for iou, old, new in zip(anchors.IOUS, before.recall, after.recall, strict=True)
            if old is not None and new is not None
        )
        found.append(f"anchor recall on {name}, of {report.recipe} -> fitted: {numbers}")
    if report.anchors.fitted == report.anchors.given:
        return [*found, f"no better anchors found than {report.anchors.given}"]
    return [*found, f"fitted anchors: {report.anchors.fitted}"]


def _tiles(advice: Advice | None) -> list[str]:
    if advice is None or not advice.small:
        return []
    line = f"{advice.small:.0%} of the boxes are below {SMALL:g} px at the network's input"
    if not advice.flags:
        return [line]
    return [f"{line}; in tiles {advice.small_in_tiles:.0%} are: {advice.flags}"]
