"""COCO box metrics: the 12 numbers of pycocotools and AP per class.

Life of a batch, step 7. hotcoco computes them; a test checks that its precision and recall are
bit-equal to those of pycocotools. Ground truth (gt) is passed as annotated, crowd and zero-sized
boxes included, with ids renumbered from 1, because pycocotools takes id 0 for "no match".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hotcoco
import numpy as np

from fasterrcnn.data.annotations import Annotations, Federated

MAX_DETS = 100  # per image and class
NAMES = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip


def evaluate(
    annotations: Annotations, detections: np.ndarray, max_dets: int = MAX_DETS
) -> dict[str, Any]:
    """The 12 numbers by name (0..1; None without gt) and `per_class`: name -> {"AP", "AP50"}.

    `detections`: float64 ``(D, 7)``: image (position in `annotations`), x, y, w, h (px of the
    annotated image), score, label; the `max_dets` best of each image count, also in the name of
    AR_100. Without detections every AP is 0.
    """
    done = evaluator(annotations, detections)
    done.params.max_dets = [1, 10, max_dets]
    names = [name.replace(str(MAX_DETS), str(max_dets)) for name in NAMES]
    return results(annotations, run(done), names)


def results(
    annotations: Annotations, done: hotcoco.COCOeval, names: Sequence[str]
) -> dict[str, Any]:
    """The numbers of an evaluator that is done by their `names`, and `per_class`."""
    assert done.eval is not None  # filled by accumulate
    precision = done.eval["precision"]  # (IoU T, recall, class K, area, max detections)
    per_class = {
        name: {"AP": mean(precision[:, :, k, 0, -1]), "AP50": mean(precision[0, :, k, 0, -1])}
        for k, name in enumerate(annotations.classes.names)
    }
    return {
        **{name: _known(value) for name, value in zip(names, done.stats, strict=True)},
        "per_class": per_class,
    }


def evaluate_arrays(annotations: Annotations, detections: np.ndarray) -> hotcoco.COCOeval:
    """hotcoco's evaluator after evaluation, with `stats` filled."""
    return run(evaluator(annotations, detections))


def run(evaluator: hotcoco.COCOeval) -> hotcoco.COCOeval:
    """Evaluate and fill `stats`, printing nothing."""
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summary_lines()  # fills stats; summarize() would print
    return evaluator


def evaluator(
    annotations: Annotations, detections: np.ndarray, *, lvis: bool = False
) -> hotcoco.COCOeval:
    """hotcoco's evaluator before evaluation; `lvis`: with the rules of `metrics.lvis`."""
    gt = ground_truth(annotations)
    shifted = detections.copy()
    shifted[:, 0] += 1
    return hotcoco.COCOeval(gt, gt.load_res(shifted), "bbox", lvis_style=lvis)


def ground_truth(annotations: Annotations) -> hotcoco.COCO:
    """The annotations as hotcoco takes them: image id = position + 1, category id = label.

    With what a federated data set says, which only its own metric looks at.
    """
    owner = annotations.owners()
    return hotcoco.COCO.from_arrays(
        images=[
            {"id": i + 1, "height": int(h), "width": int(w), **_lists(annotations.federated, i)}
            for i, (h, w) in enumerate(annotations.sizes)
        ],
        categories=[
            {"id": label, "name": name, **_frequency(annotations.federated, label)}
            for label, name in enumerate(annotations.classes.names, start=1)
        ],
        image_ids=owner + 1,
        category_ids=annotations.labels,
        boxes=annotations.xywh,
        ids=np.arange(len(owner)) + 1,
        area=annotations.area,
        iscrowd=annotations.crowd,
    )


def _lists(federated: Federated | None, i: int) -> dict[str, list[int]]:
    if federated is None:
        return {}
    return {
        "neg_category_ids": federated.absent[i].tolist(),
        "not_exhaustive_category_ids": federated.not_exhaustive[i].tolist(),
    }


def _frequency(federated: Federated | None, label: int) -> dict[str, str]:
    known = federated is not None and federated.frequency[label - 1]
    return {"frequency": known} if known else {}


def mean(values: np.ndarray) -> float | None:
    """Mean of a precision or recall array where it is defined (not -1); None if it is nowhere."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _known(value: float) -> float | None:
    """`value`, or None for the -1 that stands for undefined."""
    return float(value) if value > -1 else None
