"""PASCAL VOC's average precision, as the devkit's VOCevaldet.m computes it, in both definitions.

Life of a batch, step 7. Detections of a class take turns by descending score. Each is compared with
the truth of its image that it overlaps most: with an IoU of at least 0.5 it has found it, unless
another had before, which makes it false. One that finds a difficult object counts for nothing, and
difficult objects need not be found.

The devkit counts pixels: a box from xmin to xmax is xmax - xmin + 1 wide. With the edges
x1 = xmin - 1 and x2 = xmax, as `data.voc` reads and writes them, that is x2 - x1, and likewise for
intersections: max(xmin) - 1 = max(x1), min(xmax) = min(x2). So its IoU is that of the edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fasterrcnn.data.annotations import Annotations

NAMES = ("mAP_07", "mAP_10")
_LEAST_IOU = 0.5
_RECALLS = np.arange(11) / 10  # the devkit adds up 0.1, which in floating point passes 3/10


def evaluate(annotations: Annotations, detections: np.ndarray) -> dict[str, Any]:
    """The means by `NAMES` (0..1) and `per_class`: name -> {"AP_07", "AP_10"}.

    07: mean of the best precision at or beyond recall 0, 0.1 ... 1 (VOC 2007). 10: area under that
    best precision over all recalls (VOC 2010 and later). The means are over classes with truth that
    is not difficult; other classes have None. `detections` as `metrics.coco.evaluate` takes them.
    """
    curves = precision_recall(annotations, detections)
    known = {
        name: {"AP_07": at_eleven_recalls(*curve), "AP_10": area(*curve)}
        for name, curve in curves.items()
    }
    unknown = {"AP_07": None, "AP_10": None}
    return {
        **{f"m{ap}": _mean([values[ap] for values in known.values()]) for ap in unknown},
        "per_class": {name: known.get(name, unknown) for name in annotations.classes.names},
    }


def precision_recall(
    annotations: Annotations, detections: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Class name -> precision and recall, float64 ``(D,)``, after each of its D detections.

    Only of classes that have truth which is not difficult. Equal scores are taken in the order of
    images, then of `detections`.
    """
    ranked = detections[np.lexsort((detections[:, 0], -detections[:, 5]))]
    found = _found(annotations, ranked)
    is_true, is_false = _outcomes(annotations, found)
    curves = {}
    for label, name in enumerate(annotations.classes.names, start=1):
        count = np.count_nonzero((annotations.labels == label) & ~annotations.crowd)
        own = ranked[:, 6] == label
        true, false = np.cumsum(is_true[own]), np.cumsum(is_false[own])
        if count:
            curves[name] = true / np.maximum(true + false, 1), true / count
    return curves


def at_eleven_recalls(precision: np.ndarray, recall: np.ndarray) -> float:
    """VOC 2007: mean of the best precision at or beyond each of 11 recalls, 0 where not reached."""
    best = np.append(_best_from_here(precision), 0.0)
    return float(best[np.searchsorted(recall, _RECALLS)].mean())


def area(precision: np.ndarray, recall: np.ndarray) -> float:
    """VOC 2010 and later: area under the best precision at or beyond each recall."""
    return float(np.diff(recall, prepend=0.0) @ _best_from_here(precision))


def _best_from_here(precision: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(precision[::-1])[::-1]


def _outcomes(annotations: Annotations, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bool ``(D,)`` each: detections that are true, that are false. Those of difficult are neither.

    `found`: ``(D,)`` by descending score, the truth that each has found or -1.
    """
    is_first = np.zeros(len(found), bool)
    is_first[np.unique(found, return_index=True)[1]] = True
    is_first &= found >= 0
    ignored = np.append(annotations.crowd, False)[found]  # the last one, at -1, for no truth
    return is_first & ~ignored, ~is_first & ~ignored


def _found(annotations: Annotations, detections: np.ndarray) -> np.ndarray:
    """int64 ``(D,)``: the truth of its image and class that each overlaps most, by 0.5, else -1."""
    detection, truth = _pairs(annotations, detections)
    iou = _iou(detections[detection, 1:5], annotations.xywh[truth])
    enough = iou >= _LEAST_IOU
    detection, truth, iou = detection[enough], truth[enough], iou[enough]
    by_iou = np.lexsort((-iou, detection))  # stable: of equal ones the first truth
    own, first = np.unique(detection[by_iou], return_index=True)
    found = np.full(len(detections), -1)
    found[own] = truth[by_iou][first]
    return found


def _pairs(annotations: Annotations, detections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``(P,)`` of detections and of truths: all pairs of one image and one class."""
    owner = np.repeat(np.arange(len(annotations)), np.diff(annotations.first))
    groups = annotations.classes.num_classes
    group_of_truth = owner * groups + annotations.labels
    group = (detections[:, 0] * groups + detections[:, 6]).astype(np.int64)
    by_group = np.argsort(group_of_truth, kind="stable")
    first, end = (
        np.searchsorted(group_of_truth, group, side, sorter=by_group) for side in ("left", "right")
    )
    counts = end - first
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(np.arange(len(group)), counts), by_group[np.repeat(first, counts) + within]


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``(P,)`` of pairs of boxes x y w h ``(P, 4)``, by their edges; 0 for two without area."""
    least, most = (
        np.maximum(a[:, :2], b[:, :2]),
        np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]),
    )
    shared = np.clip(most - least, 0, None).prod(axis=1)
    union = a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros(len(a)), where=union > 0)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
