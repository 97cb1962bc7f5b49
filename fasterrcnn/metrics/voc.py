"""PASCAL VOC's average precision, as the devkit's VOCevaldet.m computes it, in both definitions.

Life of a batch, step 7. Each detection of a class, by descending score, is assigned to the gt
(ground truth) box of its image with the highest IoU, if that is at least 0.5. It is a true positive
if it is the first one assigned to that box, else a false positive. Detections assigned to difficult
objects count as neither, and difficult objects are not counted in recall.

The devkit counts pixels: a box from xmin to xmax is xmax - xmin + 1 wide. With the edges
x1 = xmin - 1 and x2 = xmax, as `data.voc` reads and writes them, that is x2 - x1, and likewise for
intersections: max(xmin) - 1 = max(x1), min(xmax) = min(x2). So its IoU is that of the edges.

Shapes: D detections, P pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fasterrcnn.data.annotations import Annotations

NAMES = ("mAP_07", "mAP_10")
_MIN_IOU = 0.5
RECALLS = np.arange(11) / 10  # the devkit adds up 0.1, which exceeds 3/10 in floating point


def evaluate(annotations: Annotations, detections: np.ndarray) -> dict[str, Any]:
    """The means by `NAMES` (0..1) and `per_class`: name -> {"AP_07", "AP_10"}.

    07: mean of the best precision at or beyond recall 0, 0.1 ... 1 (VOC 2007). 10: area under that
    best precision over all recalls (VOC 2010 and later). The means are over classes with gt that is
    not difficult; other classes have None. `detections`: rows as in `metrics.coco.evaluate`.
    """
    curves = precision_recall(annotations, detections)
    known: dict[str, dict[str, float]] = {
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

    Only classes with gt that is not difficult are included. Equal scores are in the order of
    images, then of `detections`.
    """
    ranked, is_true, is_false = outcomes(annotations, detections)
    curves = {}
    for label, name in enumerate(annotations.classes.names, start=1):
        count = np.count_nonzero((annotations.labels == label) & ~annotations.crowd)
        own = ranked[:, 6] == label
        true, false = np.cumsum(is_true[own]), np.cumsum(is_false[own])
        if count:
            curves[name] = true / np.maximum(true + false, 1), true / count
    return curves


def outcomes(
    annotations: Annotations, detections: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The detections by descending score ``(D, 7)``, and bool ``(D,)`` each: true positives, false
    positives. Detections of difficult gt are neither."""
    ranked = detections[np.lexsort((detections[:, 0], -detections[:, 5]))]
    return ranked, *_outcomes(annotations, _assign(annotations, ranked))


def at_eleven_recalls(precision: np.ndarray, recall: np.ndarray) -> float:
    """VOC 2007: mean of the best precision at or beyond each of 11 recalls, 0 if not reached."""
    best = np.append(_best_from_here(precision), 0.0)
    return float(best[np.searchsorted(recall, RECALLS)].mean())


def area(precision: np.ndarray, recall: np.ndarray) -> float:
    """VOC 2010 and later: area under the best precision at or beyond each recall."""
    return float(np.diff(recall, prepend=0.0) @ _best_from_here(precision))


def _best_from_here(precision: np.ndarray) -> np.ndarray:
    """``(D,)``: the best precision at each detection or a later one."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def _outcomes(annotations: Annotations, assigned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `outcomes` has them; `assigned`: ``(D,)`` the gt box of each detection, or -1."""
    is_first = np.zeros(len(assigned), bool)
    is_first[np.unique(assigned, return_index=True)[1]] = True
    is_first &= assigned >= 0
    ignored = np.append(annotations.crowd, False)[assigned]  # the last one, at -1, is for no gt
    return is_first & ~ignored, ~is_first & ~ignored


def _assign(annotations: Annotations, detections: np.ndarray) -> np.ndarray:
    """int64 ``(D,)``: the gt box of the same image and class with the highest IoU, if that is at
    least 0.5, else -1."""
    detection, gt = _pairs(annotations, detections)
    iou = _iou(detections[detection, 1:5], annotations.xywh[gt])
    enough = iou >= _MIN_IOU
    detection, gt, iou = detection[enough], gt[enough], iou[enough]
    by_iou = np.lexsort((-iou, detection))  # stable: ties go to the first gt box
    own, first = np.unique(detection[by_iou], return_index=True)
    assigned = np.full(len(detections), -1)
    assigned[own] = gt[by_iou][first]
    return assigned


def _pairs(annotations: Annotations, detections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``(P,)`` of detections and gt boxes: all pairs in the same image and class."""
    owner = annotations.owners()
    groups = annotations.classes.num_classes
    gt_group = owner * groups + annotations.labels
    group = (detections[:, 0] * groups + detections[:, 6]).astype(np.int64)
    by_group = np.argsort(gt_group, kind="stable")
    first, end = (
        np.searchsorted(gt_group, group, side, sorter=by_group) for side in ("left", "right")
    )
    counts = end - first
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(np.arange(len(group)), counts), by_group[np.repeat(first, counts) + within]


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU ``(P,)`` of pairs of boxes x y w h ``(P, 4)``; 0 if both have no area."""
    low, high = (
        np.maximum(a[:, :2], b[:, :2]),
        np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]),
    )
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros(len(a)), where=union > 0)


def _mean(values: list[float]) -> float | None:
    """None for an empty list."""
    return float(np.mean(values)) if values else None
