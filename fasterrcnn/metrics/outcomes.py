"""What became of each detection: true, false or ignored, class by class.

hotcoco and `metrics.voc` decide it, once for the whole split; `metrics.resampling` then computes
metrics of many resamples of the images from it.

Letters: n images, D detections, G objects, T IoU thresholds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np

from fasterrcnn import progress
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.metrics import coco, voc

AREAS = ("all", "small", "medium", "large")  # COCO's, in hotcoco's order
_AT_ONCE = 250  # images: hotcoco gives the outcomes as Python objects, which take much memory


@dataclass(frozen=True)
class Outcomes:
    """The detections of one class, best first, and the images of its objects."""

    image: np.ndarray  # int64 (D,)
    rank: np.ndarray  # int64 (D,): among the detections of this class in its image, from 0
    true: np.ndarray  # bool (T, D)
    counted: np.ndarray  # bool (T, D): true or false; the others are ignored
    objects: np.ndarray  # int64 (G,): the image of each object that is to be found


def of_coco(annotations: Annotations, detections: np.ndarray) -> list[list[Outcomes]]:
    """By class, then by range of areas: what COCO's metric sees, on a federated data set LVIS's.

    `detections` float64 ``(D, 7)`` as `metrics.coco.evaluate` takes them. T is 10.
    """
    parts = defaultdict(list)
    starts = range(0, len(annotations), _AT_ONCE)
    for start in progress.over("matching", starts, len(starts), f"times {_AT_ONCE} images"):
        images = defaultdict(list)
        for image, found in _matched(annotations, detections, start):
            images[found["category_id"], tuple(found["aRng"])].append(_one_image(image, found))
        for group, own in images.items():
            parts[group].append(_joined(own))
    areas = [tuple(area) for area in hotcoco.Params("bbox").area_rng]
    labels = range(1, annotations.classes.num_classes)
    return [[_ranked(parts[label, area]) for area in areas] for label in labels]


def of_voc(annotations: Annotations, detections: np.ndarray) -> list[Outcomes]:
    """By class: what PASCAL VOC's metric sees. T is 1."""
    ranked, is_true, is_false = voc.outcomes(annotations, detections)
    owner = annotations.owners()
    by_class = []
    for label in range(1, annotations.classes.num_classes):
        own = ranked[:, 6] == label
        true = is_true[own][None]
        by_class.append(
            Outcomes(
                image=ranked[own, 0].astype(np.int64),
                rank=np.zeros(own.sum(), np.int64),  # any number of detections counts
                true=true,
                counted=true | is_false[own],
                objects=owner[(annotations.labels == label) & ~annotations.crowd],
            )
        )
    return by_class


def area_of(metric: str) -> int:
    """Which of `AREAS` a metric such as AR_small is about."""
    suffix = metric.rpartition("_")[2]
    return AREAS.index(suffix) if suffix in AREAS else 0


def _matched(
    annotations: Annotations, detections: np.ndarray, start: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """hotcoco's entry of each image from `start` on, class and range of areas with anything in it;
    of `_AT_ONCE` images."""
    index = np.arange(start, min(start + _AT_ONCE, len(annotations)))
    rows = detections[np.isin(detections[:, 0], index)]
    rows = np.column_stack([rows[:, 0] - start, rows[:, 1:]])
    lvis = annotations.federated is not None
    evaluator = coco.evaluator(annotations.take(index), rows, lvis=lvis)
    evaluator.evaluate()
    for found in evaluator.eval_imgs:
        if found is not None:
            yield start + found["image_id"] - 1, found


def _one_image(image: int, found: dict[str, Any]) -> tuple[np.ndarray, Outcomes]:
    """The scores ``(D,)`` and the outcomes of one image."""
    count = len(found["dtScores"])
    shape = (-1, count) if count else (10, 0)
    true = np.array(found["dtMatched"], bool).reshape(shape)
    ignored = np.array(found["dtIgnore"], bool).reshape(shape)
    return np.array(found["dtScores"], np.float64), Outcomes(
        image=np.full(count, image),
        rank=np.arange(count),
        true=true & ~ignored,
        counted=~ignored,
        objects=np.full(len(found["gtIgnore"]) - sum(found["gtIgnore"]), image),
    )


def _joined(parts: Sequence[tuple[np.ndarray, Outcomes]]) -> tuple[np.ndarray, Outcomes]:
    """Several images as one: scores and outcomes, one image after the other."""
    scores, outcomes = zip(*parts, strict=True)
    return np.concatenate(scores), Outcomes(
        image=np.concatenate([own.image for own in outcomes]),
        rank=np.concatenate([own.rank for own in outcomes]),
        true=np.concatenate([own.true for own in outcomes], axis=1),
        counted=np.concatenate([own.counted for own in outcomes], axis=1),
        objects=np.concatenate([own.objects for own in outcomes]),
    )


def _ranked(parts: Sequence[tuple[np.ndarray, Outcomes]]) -> Outcomes:
    """All images by score; equal scores stay in the order of images."""
    if not parts:
        none, nowhere = np.zeros((10, 0), bool), np.zeros(0, np.int64)
        return Outcomes(nowhere, nowhere, none, none, nowhere)
    scores, own = _joined(parts)
    order = np.argsort(-scores, kind="stable")
    return Outcomes(
        image=own.image[order],
        rank=own.rank[order],
        true=own.true[:, order],
        counted=own.counted[:, order],
        objects=own.objects,
    )
