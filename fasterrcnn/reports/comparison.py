"""True positives, missed objects and false positives of one image, for its picture.

At one IoU and one score threshold, to look at. Published metrics are those of `metrics`.

Letters: D detections, G objects of the ground truth, M of them missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

from fasterrcnn.data.annotations import Annotations, clip

IOU = 0.5  # as PASCAL VOC's AP and COCO's AP50


@dataclass(frozen=True)
class Comparison:
    """The detections of one image, best first, and the objects that none of them found.

    Boxes are x1 y1 x2 y2 in pixels of the image. A detection is `found` when it is the best one
    left for an object, `ignored` on a crowd or where a federated data set does not say, and false
    otherwise.
    """

    boxes: np.ndarray  # float64 (D, 4)
    scores: np.ndarray  # float64 (D,), descending
    labels: np.ndarray  # int64 (D,)
    found: np.ndarray  # bool (D,)
    ignored: np.ndarray  # bool (D,)
    missed_boxes: np.ndarray  # float64 (M, 4)
    missed_labels: np.ndarray  # int64 (M,)
    by_class: bool  # False: proposals, whose labels mean nothing

    @property
    def counts(self) -> tuple[int, int, int]:
        """Found, missed and false; no proposal is false, for they are meant to be many."""
        false = ~self.found & ~self.ignored & self.by_class
        return int(self.found.sum()), len(self.missed_boxes), int(false.sum())

    @property
    def quality(self) -> float:
        """0 to 1: F1, 2 found / (2 found + missed + false), of proposals recall; 1 where there was
        nothing to find and nothing is false."""
        found, missed, false = self.counts
        if not self.by_class:
            return found / (found + missed) if found + missed else 1.0
        return 2 * found / (2 * found + missed + false) if found + missed + false else 1.0


def compare_all(
    data: Annotations, detections: np.ndarray, threshold: float, *, by_class: bool = True
) -> list[Comparison]:
    """A comparison for each image of `data`.

    `detections` float64 ``(D, 7)``: image x y w h score label; those with a score of at least
    `threshold` count. Not `by_class`: a box of any label finds an object, as for proposals.
    """
    rows = detections[detections[:, 5] >= threshold]
    rows = rows[np.lexsort([-rows[:, 5], rows[:, 0]])]
    ends = np.searchsorted(rows[:, 0], np.arange(len(data) + 1))
    return [_compare(data, i, rows[ends[i] : ends[i + 1]], by_class) for i in range(len(data))]


def best_and_worst(comparisons: Sequence[Comparison], count: int) -> tuple[list[int], list[int]]:
    """Up to `count` positions each of the images with the highest and the lowest quality, the
    extreme ones first; no image is in both.

    Of equal ones those come first that show more: more objects found, or more errors. Images
    without objects and false detections show nothing and are left out.
    """
    order = []
    for i, one in enumerate(comparisons):
        found, missed, false = one.counts
        if found + missed + false:
            order.append((-one.quality, -found, missed + false, i))
    ranked = [i for *_, i in sorted(order)]
    best = ranked[: min(count, (len(ranked) + 1) // 2)]
    return best, ranked[len(best) :][::-1][:count]


def most_different(
    first: Sequence[Comparison], other: Sequence[Comparison], count: int
) -> list[int]:
    """Up to `count` positions of the images whose quality differs most; of equal ones those come
    first where more objects are found by one of the two only."""
    order = []
    for i, (one, two) in enumerate(zip(first, other, strict=True)):
        apart = abs(one.quality - two.quality)
        if apart:
            order.append((-apart, -abs(one.counts[0] - two.counts[0]), i))
    return [i for *_, i in sorted(order)[:count]]


def _compare(data: Annotations, i: int, rows: np.ndarray, by_class: bool) -> Comparison:
    """`rows` ``(D, 7)``: the detections of image i, best first."""
    own = slice(data.first[i], data.first[i + 1])
    real, crowd = data.trainable[own], data.crowd[own]
    gt_boxes, labels = clip(data.xywh[own], data.sizes[i]), data.labels[own]
    boxes = np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]], axis=1)
    detected = rows[:, 6].astype(np.int64)
    allowed = (
        (detected[:, None] == labels) if by_class else np.ones((len(rows), len(gt_boxes)), bool)
    )
    iou = box_iou(torch.from_numpy(boxes), torch.from_numpy(gt_boxes)).numpy() * allowed
    found, left = np.zeros(len(rows), bool), real.copy()
    for d in range(len(rows)):
        if (iou[d] * left >= IOU).any():
            left[(iou[d] * left).argmax()] = False
            found[d] = True
    ignored = ((_inside(boxes, gt_boxes) * allowed)[:, crowd] >= IOU).any(axis=1)
    if by_class and data.federated is not None:
        ignored |= data.federated.undecided(i, detected, labels)
    return Comparison(
        boxes=boxes,
        scores=rows[:, 5],
        labels=detected,
        found=found,
        ignored=~found & ignored,
        missed_boxes=gt_boxes[left],
        missed_labels=labels[left],
        by_class=by_class,
    )


def _inside(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The part of each box ``(D, 4)`` that lies in each region ``(G, 4)``, 0 to 1 ``(D, G)``:
    COCO's overlap with a crowd."""
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.maximum(high - low, 0).prod(axis=2) / np.maximum(area, 1e-9)[:, None]
