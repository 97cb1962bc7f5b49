"""Three metrics of proposals that are all called AR, each as the framework that reports it does.

  proposal_fast      MMDetection's RPN tables: recall averaged over the IoUs 0.50 to 0.95
                     (`mmdet/evaluation/functional/recall.py`), at 100, 300 and 1000 proposals
  proposal           COCOeval without classes, at 100, 300 and 1000 proposals (MMDetection's
                     `metric="proposal"`), and by size at 1000
  box_proposals      Detectron2's (`evaluation/coco_evaluation.py`), at 100 and 1000 proposals, and
                     by the size of the gt (ground truth) box

The first and last match gt boxes and proposals one to one, the pair with the highest IoU first;
COCOeval matches proposals by descending score, separately for each IoU. None of them counts crowd
boxes. `box_proposals` drops gt boxes of other sizes before matching, and images without a proposal.

`matched` and `recall_of` measure image by image, so that the proposals of a whole detector need not
be kept.

Shapes: G gt boxes and P proposals of an image, 10 IoU thresholds.
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
    """All three by name, 0..1 (None without gt), and at the top level those of `proposal_fast`.

    `proposals`: float64 ``(P, 7)`` rows as in `metrics.coco.evaluate`; labels are ignored.
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
    """Recall of the top proposals of each image, ``(counts, 10)`` at the IoUs 0.50 to 0.95, as in
    `proposal_fast`, whose AR is the mean over the IoUs. NaN without gt."""
    images = _by_image(annotations, proposals, max(counts))
    return np.array([_recall_at_each(images, count) for count in counts])


def matched(
    annotations: Annotations, image: int, boxes: np.ndarray, counts: Sequence[int]
) -> np.ndarray:
    """IoU of each gt box of an image with its proposal among the top ones, float32
    ``(counts, G)``; 0 where it is below 0.5.

    `boxes`: float ``(P, 4)`` x y w h (px of the annotated image), by descending score.
    """
    iou, _ = _overlaps(annotations, image, boxes[: max(counts)])
    return np.array([_matched_iou(iou[:, :count]) for count in counts])


def recall_of(matched: np.ndarray) -> np.ndarray:
    """As `recall`, of what `matched` gave, with the gt boxes of all images side by side."""
    return np.array([_shares(overlaps) for overlaps in matched])


def by_name(recall: np.ndarray, counts: Sequence[int]) -> dict[str, float | None]:
    """What `recall` gives for `counts`: AR_n, the mean over IoUs, and AR50_n and AR70_n, at 0.5 and
    at 0.7; None without gt."""
    columns = {"AR": recall.mean(axis=1), "AR50": recall[:, 0], "AR70": recall[:, 4]}
    return {
        f"{name}_{n}": None if np.isnan(value) else float(value)
        for name, column in columns.items()
        for n, value in zip(counts, column, strict=True)
    }


def _by_image(
    annotations: Annotations, proposals: np.ndarray, count: int = max(COUNTS)
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per image: IoU, float32 ``(G, P)``, with its top `count` proposals, and gt areas ``(G,)``."""
    order = np.lexsort((-proposals[:, 5], proposals[:, 0]))
    rows = proposals[order]
    ends = np.searchsorted(rows[:, 0], np.arange(len(annotations) + 1))
    images = []
    for i in range(len(annotations)):
        boxes = rows[ends[i] : ends[i + 1], 1:5]
        images.append(_overlaps(annotations, i, boxes[:count]))
    return images


def _overlaps(
    annotations: Annotations, image: int, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of an image: IoU, float32 ``(G, P)``, with boxes x y w h, and gt areas ``(G,)``."""
    own = slice(annotations.first[image], annotations.first[image + 1])
    counted = ~annotations.crowd[own]
    return _iou(annotations.xywh[own][counted], boxes), annotations.area[own][counted]


def _iou(gt: np.ndarray, proposals: np.ndarray) -> np.ndarray:
    """IoU, float32 ``(G, P)``, of boxes x y w h."""
    a, b = (
        np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
        for boxes in (gt, proposals)
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
    """Recall of the top `count` proposals of each image, averaged over IoUs; None without gt."""
    values = _recall_at_each(images, count, area)
    return None if np.isnan(values).any() else float(values.mean())


def _recall_at_each(
    images: list[tuple[np.ndarray, np.ndarray]],
    count: int,
    area: tuple[float, float] = (0.0, np.inf),
) -> np.ndarray:
    """Recall at each IoU, ``(10,)``, of gt boxes with an area in this range; NaN without gt."""
    best = [
        _matched_iou(iou[(areas >= area[0]) & (areas <= area[1]), :count]) for iou, areas in images
    ]
    return _shares(np.concatenate([*best, np.zeros(0, np.float32)]))


def _shares(overlaps: np.ndarray) -> np.ndarray:
    """The share of overlaps ``(G,)`` that reach each IoU, ``(10,)``; NaN without any."""
    if len(overlaps) == 0:
        return np.full(len(_THRESHOLDS), np.nan)
    return np.array([(overlaps >= t).mean() for t in _THRESHOLDS])


def _matched_iou(iou: np.ndarray) -> np.ndarray:
    """IoUs ``(G,)`` of one-to-one pairs, the highest first; 0 for every gt box without a pair that
    reaches the lowest threshold."""
    matched, free = np.zeros(len(iou), np.float32), np.ones(iou.shape[1], bool)
    close = np.flatnonzero(iou >= _THRESHOLDS[0])
    order = np.argsort(-iou.flat[close], kind="stable")
    for gt, proposal in zip(*np.unravel_index(close[order], iou.shape), strict=True):
        if matched[gt] == 0 and free[proposal]:
            matched[gt], free[proposal] = iou[gt, proposal], False
    return matched


def _coco(annotations: Annotations, proposals: np.ndarray) -> dict[str, float | None]:
    """COCOeval without classes, by name."""
    evaluator = coco.evaluator(annotations, proposals)
    evaluator.params.use_cats = False
    evaluator.params.max_dets = list(COUNTS)
    evaluator.evaluate()
    evaluator.accumulate()
    assert evaluator.eval is not None  # filled by accumulate
    recall = evaluator.eval["recall"]  # (IoU T, class 1, area, max detections)
    values = {f"AR_{n}": recall[:, 0, 0, i] for i, n in enumerate(COUNTS)}
    values |= {
        f"AR_{size}_1000": recall[:, 0, i, -1]
        for i, size in enumerate(("small", "medium", "large"), start=1)
    }
    return {name: coco.mean(value) for name, value in values.items()}
