"""What a detector does well and badly on a split: curves, thresholds, confusions, errors.

hotcoco says which detections are right, at COCO's settings and IoU 0.5, as in AP50; all else is
hotcoco's too, or counted from that. Detections on crowd boxes count as neither right nor wrong.

K classes; R = 101 recall levels; C = 201 scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np

from fasterrcnn.data.annotations import Annotations
from fasterrcnn.metrics import coco

IOU = 0.5
SCORES = np.linspace(0.0, 1.0, 201)  # of the curve of F1
CROWDING = {"1 or 2": (1, 2), "3 to 5": (3, 5), "6 to 10": (6, 10), "more than 10": (11, 10**9)}
ERRORS = {  # TIDE's, "TIDE: A General Toolbox for Identifying Object Detection Errors", 2020
    "Cls": "wrong class",
    "Loc": "inexact box",
    "Both": "wrong class and inexact box",
    "Dupe": "found twice",
    "Bkg": "nothing there",
    "Miss": "missed",
}


@dataclass(frozen=True)
class ClassResult:
    """One class, at the score with its highest F1; None where the split has no box of it, or no
    detection is right."""

    label: int
    name: str
    boxes: int  # crowd left out
    images: int
    metrics: dict[str, float | None]  # AP and others, 0..1
    threshold: float | None  # detections with at least this score count
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Curves:
    """Precision at each recall, and F1 at each score."""

    recall: np.ndarray  # float64 (R,)
    precision: np.ndarray  # float64 (K, R): interpolated as in COCO's AP; NaN without gt
    scores: np.ndarray  # float64 (C,)
    f1: np.ndarray  # float64 (K, C), of detections with at least that score; NaN without gt


@dataclass(frozen=True)
class Candidate:
    """A detection that suggests an error in the annotations."""

    image: int  # position in the split
    box: tuple[float, float, float, float]  # x y w h (px)
    label: int
    score: float
    what: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything about one set of detections."""

    classes: list[ClassResult]  # by descending AP; those without a box last
    curves: Curves
    threshold: float  # with the highest mean F1 over the classes
    f1: float
    confusion: np.ndarray  # int64 (K + 1, K + 1) at `threshold`: gt x detected, background last
    errors: dict[str, tuple[int, float]]  # TIDE: how many, and the AP50 that mending them gains
    calibration: dict[str, Any]  # hotcoco's: ece, mce, bins
    by_crowding: dict[str, tuple[int, float | None, float | None]]  # images, AP, AP50
    candidates: list[Candidate]  # by descending score


def diagnose(
    annotations: Annotations, detections: np.ndarray, metrics: dict[str, Any]
) -> Diagnosis:
    """The diagnosis of detections, float64 ``(D, 7)`` as `coco.evaluate` takes them, with these
    `metrics`."""
    evaluator = coco.evaluate_arrays(annotations, detections)
    suspects = evaluator.image_diagnostics(iou_thr=IOU, score_thr=IOU)
    right = _right(len(detections), suspects["dt_status"])
    classes = [
        _class(annotations, detections, right, k) for k in range(1, annotations.classes.num_classes)
    ]
    f1 = np.array([one.f1(SCORES) for one in classes])
    mean = _mean(f1)
    best = int(np.flatnonzero(mean == mean.max())[-1])
    tide = evaluator.tide_errors(pos_thr=IOU)
    counted = coco.evaluator(annotations, detections[right >= 0])
    matrix = counted.confusion_matrix(iou_thr=IOU, min_score=float(SCORES[best]))["matrix"]
    return Diagnosis(
        classes=_by_ap([one.result(metrics["per_class"]) for one in classes]),
        curves=Curves(*_precision(evaluator), SCORES, f1),
        threshold=float(SCORES[best]),
        f1=float(mean[best]),
        confusion=np.asarray(matrix, np.int64),
        errors={name: (tide["counts"][name], tide["delta_ap"][name]) for name in ERRORS},
        calibration=evaluator.calibration(iou_threshold=IOU),
        by_crowding=_by_crowding(annotations, evaluator),
        candidates=_candidates(detections, suspects["label_errors"]),
    )


def confusions(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The most frequent confusions between two classes: label of the gt, label of the detection,
    how often."""
    between = matrix[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    order = np.argsort(-between, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(order, between.shape)
    return [
        (int(i) + 1, int(j) + 1, int(between[i, j]))
        for i, j in zip(rows, columns, strict=True)
        if between[i, j]
    ]


def _right(count: int, status: dict[int, str]) -> np.ndarray:
    """Int64 ``(D,)``: 1 for right, 0 for wrong, -1 for detections that do not count."""
    right = np.full(count, -1, np.int64)
    for id, what in status.items():
        right[id - 1] = what == "tp"
    return right


@dataclass(frozen=True)
class _Class:
    """The detections of a class."""

    label: int
    name: str
    boxes: int
    images: int
    right: np.ndarray  # float64, ascending: the scores of right detections
    wrong: np.ndarray

    def precision_recall(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the detections with at least each of these scores; precision 0 without any."""
        right, wrong = (
            len(own) - np.searchsorted(own, scores, side="left") for own in (self.right, self.wrong)
        )
        return right / np.maximum(right + wrong, 1), right / max(self.boxes, 1)

    def f1(self, scores: np.ndarray) -> np.ndarray:
        """F1 with the detections of at least each of these scores; NaN without gt."""
        precision, recall = self.precision_recall(scores)
        total = precision + recall
        f1 = np.divide(2 * precision * recall, total, np.zeros(len(scores)), where=total > 0)
        return f1 if self.boxes else np.full(len(scores), np.nan)

    def result(self, metrics: dict[str, dict[str, float | None]]) -> ClassResult:
        """At the highest score with the highest F1."""
        own = metrics[self.name]
        known = (self.label, self.name, self.boxes, self.images, own)
        if not self.boxes:
            return ClassResult(*known, None, None, None, None)
        if not len(self.right):
            return ClassResult(*known, None, None, 0.0, 0.0)
        scores = self.right[::-1]
        f1 = self.f1(scores)
        best = int(f1.argmax())
        precision, recall = self.precision_recall(scores[best : best + 1])
        return ClassResult(
            *known, float(scores[best]), float(precision[0]), float(recall[0]), float(f1[best])
        )


def _class(annotations: Annotations, detections: np.ndarray, right: np.ndarray, k: int) -> _Class:
    """The class with label k."""
    own = ~annotations.crowd & (annotations.labels == k)
    scores, of_class = detections[:, 5], detections[:, 6] == k
    return _Class(
        label=k,
        name=annotations.classes.names[k - 1],
        boxes=int(own.sum()),
        images=len(np.unique(annotations.owners()[own])),
        right=np.sort(scores[of_class & (right == 1)]),
        wrong=np.sort(scores[of_class & (right == 0)]),
    )


def _by_ap(classes: list[ClassResult]) -> list[ClassResult]:
    return sorted(classes, key=lambda one: 1.0 if (ap := one.metrics["AP"]) is None else -ap)


def _precision(evaluator: hotcoco.COCOeval) -> tuple[np.ndarray, np.ndarray]:
    """Recall ``(R,)``, and the precision of each class ``(K, R)``."""
    assert evaluator.eval is not None
    precision = evaluator.eval["precision"][0, :, :, 0, -1].T
    recall = np.linspace(0.0, 1.0, precision.shape[1])
    return recall, np.where(precision > -1, precision, np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over classes ``(C,)``; 0 if no class has gt."""
    known = values[np.isfinite(values).all(axis=1)]
    return known.mean(axis=0) if len(known) else np.zeros(values.shape[1])


def _by_crowding(
    annotations: Annotations, evaluator: hotcoco.COCOeval
) -> dict[str, tuple[int, float | None, float | None]]:
    """Of images by their number of objects."""
    counts = np.bincount(annotations.owners()[~annotations.crowd], minlength=len(annotations))
    groups = {
        name: (np.flatnonzero((counts >= low) & (counts <= high)) + 1).tolist()
        for name, (low, high) in CROWDING.items()
    }
    groups = {name: images for name, images in groups.items() if images}
    sliced = evaluator.slice_by(groups)

    def known(name: str, metric: str) -> float | None:
        value = sliced[name][metric]
        return value if value > -1 else None

    return {
        name: (len(images), known(name, "AP"), known(name, "AP50"))
        for name, images in groups.items()
    }


def _candidates(detections: np.ndarray, suspects: list[dict[str, Any]]) -> list[Candidate]:
    """What hotcoco takes for errors of the annotations."""
    found = []
    for one in suspects:
        what = f"{one['dt_category']}: not annotated"
        if one["gt_category"] is not None:
            what = f"annotated as {one['gt_category']}, looks like {one['dt_category']}"
        image, x, y, w, h, score, label = detections[one["dt_id"] - 1].tolist()
        found.append(Candidate(int(image), (x, y, w, h), int(label), score, what))
    return sorted(found, key=lambda one: -one.score)
