"""What a split is made of, in numbers for people to look at before training.

Boxes are counted as they are trained on: clipped to their image, crowd boxes left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fasterrcnn.data.annotations import Annotations, clip, exceeds

SMALL, MEDIUM = 32**2, 96**2  # px^2: COCO's limits of small and medium boxes
_EXTREMES = 6


@dataclass(frozen=True)
class Bin:
    """A bar of a histogram: how many boxes (or values of pixels) there are from low to high."""

    low: float
    high: float
    boxes: int


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs."""

    name: str
    category_id: int
    images: int
    boxes: int


@dataclass(frozen=True)
class Box:
    """One box by name. `what` says why it is listed."""

    file: str
    image: int  # position in the split
    index: int  # position among all boxes of the split
    name: str  # of its class
    xywh: tuple[float, ...]  # as annotated (px)
    what: str = ""


@dataclass(frozen=True)
class Statistics:
    """The numbers of one split."""

    name: str
    images: int
    boxes: int
    crowd: int  # boxes that are not trained on because they are crowds (PASCAL VOC: difficult)
    without_boxes: list[str]  # images without a box to train on
    boxes_per_image: tuple[int, float, int]  # lowest, median, highest
    classes: list[ClassCount]
    by_size: dict[str, int]  # small, medium and large, by the area that COCO's metrics use
    sizes: list[Bin]  # of sqrt(width * height) in px of the image
    ratios: list[Bin]  # of height / width
    lost: list[Box]  # dropped, or clipped to the image
    smallest: list[Box]
    largest: list[Box]


def describe(name: str, data: Annotations) -> Statistics:
    """The numbers of `data`, the split called `name`."""
    kept = np.flatnonzero(data.trainable)
    owner = data.owners()
    corners = clip(data.xywh, data.sizes[owner])[kept]
    width, height = (corners[:, 2:] - corners[:, :2]).T
    side, area = np.sqrt(width * height), data.area[kept]
    by_area = kept[np.argsort(side, kind="stable")]
    counts = np.bincount(owner[kept], minlength=len(data))
    return Statistics(
        name=name,
        images=len(data),
        boxes=len(kept),
        crowd=int(data.crowd.sum()),
        without_boxes=[data.files[i] for i in np.flatnonzero(counts == 0).tolist()],
        boxes_per_image=(int(counts.min()), float(np.median(counts)), int(counts.max())),
        classes=_classes(data, kept, owner),
        by_size={
            "small": int((area < SMALL).sum()),
            "medium": int(((area >= SMALL) & (area < MEDIUM)).sum()),
            "large": int((area >= MEDIUM).sum()),
        },
        sizes=histogram(side),
        ratios=histogram(height / width),
        lost=lost(data),
        smallest=[box(data, k) for k in by_area[:_EXTREMES].tolist()],
        largest=[box(data, k) for k in by_area[::-1][:_EXTREMES].tolist()],
    )


def box(data: Annotations, k: int, what: str = "") -> Box:
    """Box number `k` of the split, by name."""
    image = int(np.searchsorted(data.first, k, side="right")) - 1
    name = data.classes.names[int(data.labels[k]) - 1]
    return Box(data.files[image], image, k, name, tuple(data.xywh[k].tolist()), what)


def lost(data: Annotations) -> list[Box]:
    """The boxes that are not trained on as annotated: those without area in their image, and those
    that are clipped to it."""
    dropped = ~data.trainable & ~data.crowd
    clipped = data.trainable & exceeds(data.xywh, data.sizes[data.owners()])
    return [box(data, k, "dropped") for k in np.flatnonzero(dropped).tolist()] + [
        box(data, k, "clipped") for k in np.flatnonzero(clipped).tolist()
    ]


def histogram(values: np.ndarray) -> list[Bin]:
    """Positive values counted in half octaves: bounds at 1, 1.41, 2, 2.83, 4 and so on, so that
    the bars of several splits are comparable."""
    if len(values) == 0:
        return []
    steps = np.floor(2 * np.log2(values) + 1e-9).astype(np.int64)
    counts = np.bincount(steps - steps.min())
    lows = (2 ** ((steps.min() + np.arange(len(counts) + 1)) / 2)).tolist()
    return [Bin(lows[i], lows[i + 1], count) for i, count in enumerate(counts.tolist())]


def systematic(count: int, wanted: int) -> list[int]:
    """`wanted` of the positions 0 to count - 1, evenly spread; all if there are no more."""
    if count <= wanted:
        return [*range(count)]
    return [(2 * k + 1) * count // (2 * wanted) for k in range(wanted)]


def _classes(data: Annotations, kept: np.ndarray, owner: np.ndarray) -> list[ClassCount]:
    """The classes in the order of their labels, those without a box too."""
    known = data.classes.num_classes
    pairs = np.unique(owner[kept] * known + data.labels[kept])  # an image counts once per class
    columns: Iterable[list[int]] = (
        np.bincount(labels, minlength=known)[1:].tolist()
        for labels in (pairs % known, data.labels[kept])
    )
    rows = zip(data.classes.names, data.classes.category_ids, *columns, strict=True)
    return [ClassCount(name, id, images, boxes) for name, id, images, boxes in rows]
