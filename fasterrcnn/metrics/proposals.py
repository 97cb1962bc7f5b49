"""Three metrics of proposals that are all called AR, each by the rules of those who publish it.

  proposal_fast      MMDetection's, of its RPN tables: recall averaged over the IoUs 0.50 to 0.95
                     (`mmdet/evaluation/functional/recall.py`), at 100, 300 and 1000 proposals
  proposal           COCOeval without classes, at 100, 300 and 1000 proposals (MMDetection's
                     `metric="proposal"`), and by size at 1000
  box_proposals      Detectron2's (`evaluation/coco_evaluation.py`), at 100 and 1000 proposals, and
                     by the size of the truth

The first and last match truth and proposals one to one, the closest pair first; COCOeval lets the
best proposals choose first, at each IoU anew. Crowd boxes count in none of them. `box_proposals`
drops an image's truths of other sizes before matching, and leaves out images without a proposal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fasterrcnn.data.annotations import Annotations
from fasterrcnn.metrics import coco

COUNTS = (100, 300, 1000)
_AREAS = {"": (0.0, 1e10), "_small": (0.0, 32.0**2), "_medium": (32.0**2, 96.0**2),
          "_large": (96.0**2, 1e10)}  # fmt: skip
# float32, as both libraries compare them.
_THRESHOLDS = np.arange(0.5, 0.96, 0.05, dtype=np.float32)


def evaluate(annotations: Annotations, proposals: np.ndarray) -> dict[str, Any]:
    """All three by name, 0..1 (None where there is no truth), and the published tables' `AR_1000`.

    `proposals`: float64 ``(P, 7)`` rows as `metrics.coco.evaluate` takes them, labels aside.
    """
    images = _by_image(annotations, proposals)
    results: dict[str, Any] = {
        "proposal_fast": {f"AR_{n}": _recall(images, n) for n in COUNTS},
        "proposal": _coco(annotations, proposals),
        "box_proposals": {
            f"AR{size}_{n}": _recall([i for i in images if i[0].shape[1]], n, area)
            for n in (100, 1000)
            for size, area in _AREAS.items()
        },
    }
    return {**results["proposal_fast"], **results}


def recall(annotations: Annotations, proposals: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Recall with the best proposals of each image, ``(counts, 10)`` at the IoUs 0.50 to 0.95, as
    `proposal_fast` counts it: its mean over the IoUs is AR. NaN where there is no truth."""
    images = _by_image(annotations, proposals, max(counts))
    return np.array([_recall_at_each(images, count) for count in counts])


def _by_image(
    annotations: Annotations, proposals: np.ndarray, most: int = max(COUNTS)
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per image: IoU float32 ``(G, P)`` with its best `most` proposals, and areas ``(G,)``."""
    order = np.lexsort((-proposals[:, 5], proposals[:, 0]))
    rows = proposals[order]
    ends = np.searchsorted(rows[:, 0], np.arange(len(annotations) + 1))
    images = []
    for i in range(len(annotations)):
        own = slice(annotations.first[i], annotations.first[i + 1])
        counted = ~annotations.crowd[own]
        found = rows[ends[i] : ends[i + 1], 1:5]
        quality = _iou(annotations.xywh[own][counted], found[:most])
        images.append((quality, annotations.area[own][counted]))
    return images


def _iou(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """float32 ``(G, P)`` of boxes x y w h."""
    a, b = (
        np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
        for boxes in (truth, found)
    )
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = np.prod(a[:, None, 2:] - a[:, None, :2], axis=2) + np.prod(b[:, 2:] - b[:, :2], axis=1)
    return overlap / np.maximum(areas - overlap, np.float32(1e-6))


def _recall(
    images: list[tuple[np.ndarray, np.ndarray]],
    count: int,
    area: tuple[float, float] = (0.0, np.inf),
) -> float | None:
    """Recall with the best `count` proposals of each image, averaged over IoUs."""
    values = _recall_at_each(images, count, area)
    return None if np.isnan(values).any() else float(values.mean())


def _recall_at_each(
    images: list[tuple[np.ndarray, np.ndarray]],
    count: int,
    area: tuple[float, float] = (0.0, np.inf),
) -> np.ndarray:
    """Of each IoU, ``(10,)``; NaN where there is no truth."""
    best = [
        _closest(quality[(areas >= area[0]) & (areas <= area[1]), :count])
        for quality, areas in images
    ]
    overlaps = np.concatenate([*best, np.zeros(0, np.float32)])
    if len(overlaps) == 0:
        return np.full(len(_THRESHOLDS), np.nan)
    return np.array([(overlaps >= t).mean() for t in _THRESHOLDS])


def _closest(quality: np.ndarray) -> np.ndarray:
    """The IoU ``(G,)`` each truth gets when the closest pair is made first; 0 for those left."""
    quality = quality.copy()
    found = np.zeros(len(quality), np.float32)
    for k in range(min(quality.shape)):
        truth, proposal = np.unravel_index(quality.argmax(), quality.shape)
        found[k] = quality[truth, proposal]
        quality[truth] = -1
        quality[:, proposal] = -1
    return found


def _coco(annotations: Annotations, proposals: np.ndarray) -> dict[str, float | None]:
    evaluator = coco.evaluator(annotations, proposals)
    evaluator.params.use_cats = False
    evaluator.params.max_dets = list(COUNTS)
    evaluator.evaluate()
    evaluator.accumulate()
    recall = evaluator.eval["recall"]  # (IoU T, class 1, area, max detections)
    values = {f"AR_{n}": recall[:, 0, 0, i] for i, n in enumerate(COUNTS)}
    values |= {
        f"AR_{size}_1000": recall[:, 0, i, -1]
        for i, size in enumerate(("small", "medium", "large"), start=1)
    }
    return {name: coco.mean(value) for name, value in values.items()}
