"""Pictures of what a detector does: its best and worst images, false alarms, misses, suspects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fasterrcnn.data import images
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.errors import DataError
from fasterrcnn.metrics.diagnosis import Candidate
from fasterrcnn.reports import drawing, pages
from fasterrcnn.reports.comparison import Comparison, best_and_worst
from fasterrcnn.reports.page_pictures import Picture, crop

_PAGE = 5_000_000  # bytes of all whole images together
_MOST = 70_000  # bytes of one
_CROPS = 24  # of a kind
_NEAR = 4  # annotated boxes beside a false alarm

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class Pictures:
    """What the page shows of the split."""

    worst: list[Picture]
    best: list[Picture]
    false: list[Picture]  # by descending score
    missed: list[Picture]  # by descending size
    suspects: list[Picture]  # of the annotations, by descending score


@dataclass(frozen=True)
class _Crop:
    image: int
    around: tuple[float, float, float, float]
    boxes: list[tuple[Sequence[float], int, bool]]
    note: str


def make(
    data: Annotations,
    compared: list[Comparison],
    candidates: list[Candidate],
    count: int,
    split: str,
    shown: Progress = lambda items, _: items,
) -> Pictures:
    """`count` images, half of them the best and half the worst, and crops.

    Images that cannot be decoded any more are left out. `shown` passes items on, given their
    number, for a progress bar.
    """
    best, worst = best_and_worst(compared, (count + 1) // 2)
    false, missed = _false(data, compared), _missed(data, compared)
    suspects = [_suspect(data, one) for one in candidates[:_CROPS]]
    wanted = {*best, *worst, *(one.image for one in (*false, *missed, *suspects))}
    limit = min(_MOST, _PAGE // max(1, len(best) + len(worst)))
    whole: dict[int, Picture] = {}
    cut: dict[int, Picture] = {}  # by id of the crop
    for i in shown(sorted(wanted), len(wanted)):
        image = _decode(data, i)
        if image is None:
            continue
        if i in best or i in worst:
            whole[i] = _whole(data, i, image, compared[i], split, limit)
        for one in (*false, *missed, *suspects):
            if one.image == i:
                cut[id(one)] = crop(
                    image, one.around, one.boxes, file=data.files[i], split=split, note=one.note
                )
    return Pictures(
        worst=[whole[i] for i in worst if i in whole],
        best=[whole[i] for i in best if i in whole],
        false=[cut[id(one)] for one in false if id(one) in cut],
        missed=[cut[id(one)] for one in missed if id(one) in cut],
        suspects=[cut[id(one)] for one in suspects if id(one) in cut],
    )


def _decode(data: Annotations, i: int) -> Tensor | None:
    try:
        return images.decode_of(data, i)
    except DataError:
        return None


def _whole(
    data: Annotations, i: int, image: Tensor, one: Comparison, split: str, limit: int
) -> Picture:
    picture = drawing.draw_comparison(image, one, data.classes.names)
    found, missed, false = one.counts
    note = f"recall {one.quality:.2f}: {found} found, {missed} missed"
    if one.by_class:
        note = f"F1 {one.quality:.2f}: {found} found, {missed} missed, {false} false"
    return Picture(
        file=data.files[i],
        split=split,
        uri=pages.data_uri(picture, limit),
        width=picture.width,
        height=picture.height,
        boxes=[],
        marks=[],
        note=note,
    )


def _false(data: Annotations, compared: list[Comparison]) -> list[_Crop]:
    """The false detections of the highest scores, beside the annotated boxes that they touch."""
    rows = [
        (float(one.scores[d]), i, d)
        for i, one in enumerate(compared)
        if one.by_class
        for d in np.flatnonzero(~one.found & ~one.ignored)
    ]
    crops = []
    for score, i, d in sorted(rows, reverse=True)[:_CROPS]:
        box, label = _xywh(compared[i].boxes[d]), int(compared[i].labels[d])
        boxes = [*_near(data, i, box), (box, label, False)]
        crops.append(_Crop(i, box, boxes, f"{data.classes.names[label - 1]} {score:.2f}"))
    return crops


def _missed(data: Annotations, compared: list[Comparison]) -> list[_Crop]:
    """The largest objects that no detection found, beside the detections that touch them."""
    rows = [
        (_xywh(box), int(label), i)
        for i, one in enumerate(compared)
        for box, label in zip(one.missed_boxes, one.missed_labels, strict=True)
    ]
    rows.sort(key=lambda row: -row[0][2] * row[0][3])
    crops = []
    for box, label, i in rows[:_CROPS]:
        one = compared[i]
        found = [
            (_xywh(other), int(k), False)
            for other, k in zip(one.boxes, one.labels, strict=True)
            if one.by_class and _touch(box, _xywh(other))
        ]
        note = f"{data.classes.names[label - 1]}, {box[2]:.0f} x {box[3]:.0f} px"
        crops.append(_Crop(i, box, [*found[:_NEAR], (box, label, True)], note))
    return crops


def _suspect(data: Annotations, one: Candidate) -> _Crop:
    boxes = [*_near(data, one.image, one.box), (one.box, one.label, False)]
    return _Crop(one.image, one.box, boxes, f"{one.what}, {one.score:.2f}")


def _near(
    data: Annotations, i: int, box: Sequence[float]
) -> Iterator[tuple[Sequence[float], int, bool]]:
    """The first annotated boxes of image i that touch a box, dashed."""
    count = 0
    for row in range(data.first[i], data.first[i + 1]):
        if count < _NEAR and _touch(box, data.xywh[row]):
            count += 1
            yield data.xywh[row].tolist(), int(data.labels[row]), True


def _touch(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(a[k] < b[k] + b[k + 2] and b[k] < a[k] + a[k + 2] for k in (0, 1))


def _xywh(box: np.ndarray) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2 - x1, y2 - y1
