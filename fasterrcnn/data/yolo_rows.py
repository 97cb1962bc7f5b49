"""A row of a YOLO label file, from text to a box.

``class x y width height`` is a box, x and y its center. ``class x1 y1 x2 y2 x3 y3 ...`` is the
outline of a polygon or the four corners of an oriented box, of which the enclosing box is used. A
box followed by keypoints is read as its box where data.yaml says ``kpt_shape``. All coordinates are
fractions of the image.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

# what rounding and inclusive pixel indices may add to the range 0..1 (Ultralytics allows it too)
SLACK = 0.01
_OUTLINE_SLACK = 0.5  # corners of oriented boxes and polygons of cut-off objects leave the image
_FIVE = "must be five numbers: class index, center x, center y, width, height"
_FRACTIONS = "coordinates must be fractions between 0 and 1"
_OUTLINE = ("polygon or oriented box", "its enclosing box is used")
_WITH_KEYPOINTS = ("box with keypoints", "box used")


class Row(NamedTuple):
    """A box of a label file."""

    category: int
    box: tuple[float, float, float, float]  # center x, center y, width, height (fractions)
    note: tuple[str, str] | None = None  # what the row holds if more than a box, what is done


class Rows:
    """Reads the rows of a split.

    `ids`: the class indices that exist. `keypoints`: (number, 2 or 3 values of each) if the rows
    hold keypoints.
    """

    def __init__(self, ids: Collection[int], keypoints: tuple[int, int] | None) -> None:
        self._ids = frozenset(ids)
        self._keypoints = keypoints
        self._with_keypoints = 5 + keypoints[0] * keypoints[1] if keypoints else 5
        self._lengths: set[int] = set()  # numbers per outline
        self._outlines = 0
        self._outlines_like_keypoints = 0

    def parse(self, line: str) -> Row | str:
        """The box of a row that is not blank, or a phrase saying what is wrong with it."""
        fields = line.split()
        try:
            numbers = [float(field) for field in fields]
        except ValueError:
            return _not_numbers(line)
        if "_" in line:  # float("1_0") is 10
            return _not_numbers(line)
        category, count = numbers[0], len(numbers)
        if count in (5, self._with_keypoints):
            row = _box(numbers)
        elif count < 5:
            return _FIVE
        elif self._keypoints is not None:
            return self._not_keypoints(count)
        else:
            row = self._longer(numbers)
        if not isinstance(row, str) and category not in self._ids:
            return self._no_class(fields[0], category)
        return row

    def look_like_keypoints(self) -> bool:
        """Whether all outlines of the split fit as keypoints without visibility just as well.

        Those have an odd number of values too. True outlines differ in their number of points, and
        hardly ten in a row lie inside the box that their first two points happen to be.
        """
        same_length = len(self._lengths) == 1 and min(self._lengths) >= 11
        return (
            self._outlines >= 10
            and same_length
            and (self._outlines_like_keypoints == self._outlines)
        )

    def _longer(self, numbers: list[float]) -> Row | str:
        """A row of more than five numbers where no keypoints are declared."""
        outline = _outline(numbers)
        keypoints = _keypoints(numbers)
        if keypoints is not None and not isinstance(outline, str):
            number = (len(numbers) - 5) // 3
            return (
                f"reads as a polygon and as a box with {number} keypoints: if these are keypoints, "
                f"write kpt_shape: [{number}, 3] into data.yaml, if it is a polygon, repeat its "
                "first point at the end"
            )
        if keypoints is not None:
            return keypoints
        if not isinstance(outline, str):
            self._lengths.add(len(numbers))
            self._outlines += 1
            self._outlines_like_keypoints += _inside_first_box(numbers)
        return outline

    def _not_keypoints(self, count: int) -> str:
        assert self._keypoints is not None
        number, values = self._keypoints
        phrase = (
            f"has {count} numbers; kpt_shape: [{number}, {values}] makes rows of 5 (a box) or "
            f"{self._with_keypoints} (with keypoints)"
        )
        polygon = "; a polygon is not read where keypoints are declared"
        return phrase + (polygon if count % 2 and count >= 7 else "")

    def _no_class(self, text: str, category: float) -> str:
        if not category.is_integer() or category < 0:
            return f"{text[:20]} is not a class index (a whole number from 0)"
        known = f"from {min(self._ids)} to {max(self._ids)}"
        return f"no class has the index {category:.0f}; the classes go {known}"


def look_like_corners(boxes: np.ndarray) -> int:
    """How many `boxes` (float64 ``(n, 4)``, as read: center and size) leave the image, if they
    do so because they are corners x1 y1 x2 y2; else 0.

    Small corner boxes of the upper left stay inside the image when misread, so that half of them
    leaving it is enough, if all (0.95 of them) have x2 > x1 and y2 > y1.
    """
    center, size = boxes[:, :2], boxes[:, 2:]
    ends = np.concatenate([center - size / 2, center + size / 2], axis=1)
    leave = np.any((ends < -SLACK) | (ends > 1 + SLACK), axis=1)
    fit = np.all(size > center, axis=1)
    corners = len(boxes) > 0 and leave.mean() >= 0.5 and fit.mean() >= 0.95
    return int(leave.sum()) if corners else 0


def _box(numbers: list[float]) -> Row | str:
    """Class and box of the first five numbers."""
    category, x, y, w, h = numbers[:5]
    limit = 1 + SLACK
    if -SLACK <= x <= limit and -SLACK <= y <= limit and 0 <= w <= limit and 0 <= h <= limit:
        return Row(_index(category), (x, y, w, h))
    if w < 0 or h < 0:
        return "width and height must not be negative"
    return _out_of_range(numbers[1:5])


def _outline(numbers: list[float]) -> Row | str:
    """The box around the points after the class."""
    count = len(numbers)
    if count == 6:
        return (
            "has a sixth number, as predictions have a confidence and videos a track; "
            "remove that column"
        )
    if count % 2 == 0:
        return f"has {count} numbers: 5 are a box, 7, 9, 11 ... a polygon"
    if not all(-_OUTLINE_SLACK <= value <= 1 + _OUTLINE_SLACK for value in numbers[1:]):
        return _out_of_range(numbers[1:])
    xs, ys = numbers[1::2], numbers[2::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    box = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return Row(_index(numbers[0]), box, _OUTLINE)


def _keypoints(numbers: list[float]) -> Row | None:
    """The box of a row that fits as box and keypoints x y visibility; None if it does not."""
    if len(numbers) < 8 or len(numbers) % 3 != 2:
        return None
    x, y, w, h = numbers[1:5]
    inside = min(x - w / 2, y - h / 2) >= -SLACK and max(x + w / 2, y + h / 2) <= 1 + SLACK
    seen = all(value in (0, 1, 2) for value in numbers[7::3])
    row = _box(numbers)
    if isinstance(row, str) or not (inside and seen and w > 0 and h > 0):
        return None
    return row._replace(note=_WITH_KEYPOINTS)


def _inside_first_box(numbers: list[float]) -> bool:
    """Whether the points after the first four coordinates lie in the box that those would be."""
    x, y, w, h = numbers[1:5]
    left, right, top, bottom = x - w / 2, x + w / 2, y - h / 2, y + h / 2
    if min(left, top) < -SLACK or max(right, bottom) > 1 + SLACK:
        return False
    points = zip(numbers[5::2], numbers[6::2], strict=True)
    return all(
        (px == py == 0)
        or (
            left <= px + SLACK
            and px - SLACK <= right
            and top <= py + SLACK
            and py - SLACK <= bottom
        )
        for px, py in points
    )


def _index(category: float) -> int:
    """The class index; what is none becomes -1, which no class has."""
    return int(category) if category.is_integer() else -1


def _out_of_range(values: list[float]) -> str:
    largest = max(map(abs, values))
    if min(values) < -SLACK or not largest < float("inf"):
        return _FRACTIONS
    if largest > 100:
        return f"{_FRACTIONS}; these look like pixels: divide by the image's width and height"
    if largest >= 2:
        return (
            f"{_FRACTIONS}; these look like percent or pixels: divide by 100, or by the image size"
        )
    return _FRACTIONS


def _not_numbers(line: str) -> str:
    if all(map(_is_number, line.replace(",", ".").split())):
        return f"{_FIVE}, with decimal points, not commas"
    if all(map(_is_number, re.split(r"[,;\s]+", line))):
        return f"{_FIVE}, with spaces between them, not commas"
    first, *rest = line.split()
    if len(rest) >= 4 and not _is_number(first) and all(map(_is_number, rest)):
        return f"{_FIVE}; the class is given by its index, not its name"
    return _FIVE


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
