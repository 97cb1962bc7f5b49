"""Where the labels of a picture go: next to their boxes, never on top of each other.

Letters: B boxes, C possible places of one label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Rectangle = tuple[int, int, int, int]  # x1 y1 x2 y2; x2 and y2 are the first pixels outside


def place_labels(
    boxes: np.ndarray, sizes: Sequence[tuple[int, int]], width: int, height: int
) -> list[Rectangle | None]:
    """A rectangle for each label, inside the picture and free of all the others.

    `boxes` float ``(B, 4)`` x1 y1 x2 y2 and `sizes`, B times (width, height) of the label, in
    pixels of the picture, which has `width` x `height` of them. The first labels choose first. A
    label goes to the corner of its box where it hides the least of what is in any box, else
    anywhere along the edges of its box, else inside it; None where all of that is taken.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    boxes = np.clip(boxes, 0, [width, height, width, height])
    taken = np.zeros((0, 4))
    placed: list[Rectangle | None] = []
    for own, size in enumerate(sizes):
        found = None
        for places in (_corners, _edges, _interior):
            free = _free(places(boxes[own], *size), size, taken, width, height)
            if len(free):
                x1, y1, x2, y2 = free[_hidden(free, boxes, own).argmin()].tolist()
                found = (int(x1), int(y1), int(x2), int(y2))
                taken = np.concatenate([taken, [found]])
                break
        placed.append(found)
    return placed


def _corners(box: np.ndarray, w: int, h: int) -> np.ndarray:
    """Left and top ``(C, 2)`` of a label at the box's corners, the most usual place first."""
    x1, y1, x2, y2 = box
    return np.array(
        [
            *((x1, y1 - h), (x2 - w, y1 - h)),  # above
            *((x1, y2), (x2 - w, y2)),  # below
            *((x1, y1), (x2 - w, y1), (x1, y2 - h), (x2 - w, y2 - h)),  # inside
            *((x2, y1), (x1 - w, y1), (x2, y2 - h), (x1 - w, y2 - h)),  # beside
        ]
    )


def _edges(box: np.ndarray, w: int, h: int) -> np.ndarray:
    """The same along the whole outline, outside and inside, so that the label still touches it."""
    x1, y1, x2, y2 = box
    xs = np.arange(x1 - w, x2 + 1, max(1, w // 4))
    ys = np.arange(y1 - h, y2 + 1, max(1, h // 2))
    rows = [(x, y) for y in (y1 - h, y2, y1, y2 - h) for x in xs]
    columns = [(x, y) for x in (x2, x1 - w, x1, x2 - w) for y in ys]
    return np.array(rows + columns)


def _interior(box: np.ndarray, w: int, h: int) -> np.ndarray:
    """The same on a grid inside the box."""
    x1, y1, x2, y2 = box
    xs = np.arange(x1, x2 - w + 1, max(1, w // 4))
    ys = np.arange(y1, y2 - h + 1, max(1, h // 2))
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)


def _free(
    places: np.ndarray, size: tuple[int, int], taken: np.ndarray, width: int, height: int
) -> np.ndarray:
    """The whole-pixel rectangles ``(C, 4)`` at `places` that fit, pushed sideways into the picture
    where they stick out of it."""
    w, h = size
    if w > width or h > height:
        return np.zeros((0, 4))
    x, y = np.round(places).T
    x = np.clip(x, 0, width - w)
    rectangles = np.stack([x, y, x + w, y + h], axis=1)
    rectangles = rectangles[(y >= 0) & (y + h <= height)]
    return rectangles[~(_intersection(rectangles, taken) > 0).any(axis=1)]


def _hidden(rectangles: np.ndarray, boxes: np.ndarray, own: int) -> np.ndarray:
    """How much a label in each of the rectangles would hide ``(C,)``; the first place wins ties."""
    shared = _intersection(rectangles, boxes)
    area = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1)
    label = (rectangles[:, 2:] - rectangles[:, :2]).prod(axis=1)
    of_boxes = (shared / area).max(axis=1)  # of the box that loses most
    of_others = (shared.sum(axis=1) - shared[:, own]) / label  # also: whose label is it?
    return 4 * of_boxes + np.minimum(of_others, 2) + 0.01 * np.arange(len(rectangles))


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shared area ``(A, B)`` of rectangles ``(A, 4)`` and ``(B, 4)`` x1 y1 x2 y2."""
    width, height = (  # axis by axis: four times as fast as both at once
        np.minimum.outer(a[:, axis + 2], b[:, axis + 2]) - np.maximum.outer(a[:, axis], b[:, axis])
        for axis in (0, 1)
    )
    return np.maximum(width, 0) * np.maximum(height, 0)
