"""The annotations of a COCO json file as columns, checked row by row.

A row whose values all have the usual types is read by msgspec into a struct, which skips every
other field; segmentations are looked at only where a box is missing. Any other row is read as a
plain object and gets the message of the first rule it breaks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from pycocotools import mask

from fasterrcnn.data.builder import Boxes
from fasterrcnn.data.json_values import (
    LIMIT,
    Wrong,
    as_object,
    as_struct,
    known,
    number,
    short,
    whole,
)
from fasterrcnn.data.problems import Problems

_CHUNK = 65536  # rows read at once
_NO_ID = -1
_NO_IMAGE = "\0"  # no id of an image
_RUNS = re.compile("([P-o]*[0-O])*")  # numbers of a compressed mask; each ends with a low character


class _Box(msgspec.Struct):
    """An annotation whose values have the right types."""

    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: Annotated[int, msgspec.Meta(ge=0, le=1)] | None = 0
    id: int | str = _NO_ID


_NO_BOX = _Box(_NO_IMAGE, -2, (0.0, 0.0, 0.0, 0.0))  # in the place of a row without a usable box


def read(
    path: Path,
    problems: Problems,
    rows: Sequence[Any],
    position: dict[int | str, int],
    category: dict[int, int],
) -> tuple[Boxes, np.ndarray, np.ndarray]:
    """The boxes of usable images with the position of their category as label, and of each box
    its row and the annotation's id."""
    parts = []
    for start in range(0, max(1, len(rows)), _CHUNK):
        part = rows[start : start + _CHUNK]
        boxes = _usual(part)
        columns = _columns(boxes, position, category)
        wrong = np.flatnonzero(~_right(columns)).tolist()
        for k in wrong:
            boxes[k] = _unusual(path, problems, part[k], start + k, position, category)
        if wrong:
            columns = _columns(boxes, position, category)
        ids = np.array([_plain_id(box.id) for box in boxes], np.int64)
        kept = np.flatnonzero(columns.image >= 0)
        parts.append(
            (*(column[kept] for column in vars(columns).values()), start + kept, ids[kept])
        )
    image, label, xywh, area, crowd, row, id = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return Boxes(image, label, xywh, area, crowd.astype(bool)), row, id


def _usual(rows: Sequence[Any]) -> list[_Box]:
    """The boxes of rows that are as usual; `_NO_BOX` in the place of others."""
    if not rows or not isinstance(rows[0], msgspec.Raw):
        return [_NO_BOX] * len(rows)
    try:
        return msgspec.json.decode(b"[" + b",".join(rows) + b"]", type=list[_Box])
    except msgspec.ValidationError:
        return [as_struct(row, _Box) or _NO_BOX for row in rows]


def _columns(boxes: list[_Box], position: dict[int | str, int], category: dict[int, int]) -> Boxes:
    """The boxes as columns; what is not in the tables has the image or label -2."""
    return Boxes(
        np.array([position.get(box.image_id, -2) for box in boxes], np.int64),
        np.array([category.get(box.category_id, -2) for box in boxes], np.int64),
        np.array([box.bbox for box in boxes], np.float64).reshape(-1, 4),
        np.array([math.nan if box.area is None else box.area for box in boxes], np.float64),
        np.array([box.iscrowd or 0 for box in boxes], np.int64),
    )


def _right(columns: Boxes) -> np.ndarray:
    """Bool ``(B,)``: rows that break no rule of `_box`."""
    xywh, area = columns.xywh, columns.area
    return (
        (columns.image > -2)
        & (columns.label > -2)
        & np.all(np.abs(xywh) < LIMIT, axis=1)
        & np.all(xywh[:, 2:] >= 0, axis=1)
        & (np.isnan(area) | ((area >= 0) & (area < LIMIT)))
    )


def _unusual(
    path: Path,
    problems: Problems,
    row: Any,
    k: int,
    position: dict[int | str, int],
    category: dict[int, int],
) -> _Box:
    """The box of any row, or `_NO_BOX` and a fault."""
    content = as_object(row)
    try:
        box, note = _box(content, position, category)
    except Wrong as wrong:
        place, value, what = wrong.args
        problems.fault(path, f"/annotations/{k}{place}", value, what)
        return _NO_BOX
    if note:
        where = f"/annotations/{k}/segmentation{_which(content)}"
        problems.note(path, where, list(box.bbox), note, "used")
    return box


def _box(
    row: Any, position: dict[int | str, int], category: dict[int, int]
) -> tuple[_Box, str | None]:
    """The box of a row, and what is to be noted about it. Raises Wrong."""
    if not isinstance(row, dict):
        raise Wrong("", row, "must be an object")
    which = _which(row)
    image = known(row.get("image_id"), position)
    if image is None:
        raise Wrong(f"/image_id{which}", row.get("image_id"), "no usable image has this id")
    label = known(row.get("category_id"), category)
    if label is None:
        raise Wrong(f"/category_id{which}", row.get("category_id"), "no category has this id")
    box, note = row.get("bbox"), None
    if box is None or box == []:
        box = _enclosing(row.get("segmentation"))
        note = "no bbox: the box of the segmentation"
    if not isinstance(box, list) or len(box) != 4:
        raise Wrong(f"/bbox{which}", row.get("bbox"), "must be four numbers: x, y, width, height")
    for i, value in enumerate(box):
        side = number(value)
        if side is None:
            raise Wrong(f"/bbox/{i}{which}", value, "must be a finite number below 1e9")
        if i >= 2 and side < 0:
            raise Wrong(f"/bbox/{i}{which}", value, "width and height must not be negative")
    area = number(row.get("area"))
    if row.get("area") is not None and (area is None or area < 0):
        what = "must be a finite number, not negative, below 1e9"
        raise Wrong(f"/area{which}", row["area"], what)
    crowd = row.get("iscrowd") or 0
    if crowd is not True and whole(crowd) not in (0, 1):
        raise Wrong(f"/iscrowd{which}", crowd, "must be 0 or 1")
    x, y, w, h = (float(value) for value in box)
    return _Box(image, label, (x, y, w, h), area, int(crowd), row.get("id", _NO_ID)), note


def _enclosing(segmentation: Any) -> list[float] | None:
    """x y w h around polygons or a run-length encoded mask; None if it is neither."""
    try:
        if isinstance(segmentation, dict):
            return _around_mask(segmentation["counts"], *map(whole, segmentation["size"]))
        is_flat = isinstance(segmentation[0], (int, float))
        polygons = [segmentation] if is_flat else segmentation
        points = np.array([v for polygon in polygons for v in polygon], np.float64).reshape(-1, 2)
        low, high = points.min(axis=0), points.max(axis=0)
        return [*low.tolist(), *(high - low).tolist()]
    except Exception:  # pycocotools and numpy raise many kinds on what is no segmentation
        return None


def _around_mask(counts: Any, height: int | None, width: int | None) -> list[float] | None:
    """x y w h around a run-length encoded mask; None if its runs do not fit its size (px).

    pycocotools checks neither, and ends the process where it divides by a side of 0 or reads on
    behind a text that is cut off.
    """
    if not (height and width and 0 < height < LIMIT and 0 < width < LIMIT):
        return None
    rle = {"size": [height, width], "counts": counts}
    if isinstance(counts, list):
        if min(counts) < 0 or sum(counts) > height * width:
            return None
        rle = mask.frPyObjects(rle, height, width)
    elif not _RUNS.fullmatch(counts):
        return None
    x, y, w, h = mask.toBbox(rle).tolist()
    return [x, y, w, h] if x + w <= width and y + h <= height else None


def _which(row: dict[str, Any]) -> str:
    return f" (annotation {short(row.get('id'))}, image {short(row.get('image_id'))})"


def _plain_id(id: Any) -> int:
    """The id of an annotation for messages, -1 unless it is a number that fits an array."""
    return id if isinstance(id, int) and abs(id) < 2**62 else _NO_ID
