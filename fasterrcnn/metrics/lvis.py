"""LVIS's box metric for federated data sets: 13 numbers and AP per class.

Life of a batch, step 7. hotcoco computes them as lvis-api does. The 300 best detections of an image
are matched as in COCO, with two differences: a detection counts only where its class was looked for
in the image, that is, has a box there or is known to be absent; and one that matches no box counts
as neither true nor false where the boxes of its class are not exhaustive.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fasterrcnn.data.annotations import Annotations
from fasterrcnn.metrics import coco

MAX_DETECTIONS = 300  # per image; hotcoco leaves out the others
NAMES = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AP_rare", "AP_common", "AP_frequent",
    "AR_300", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip


def evaluate(annotations: Annotations, detections: np.ndarray) -> dict[str, Any]:
    """The 13 numbers by name and `per_class`, as from `metrics.coco.evaluate`.

    `annotations` are `federated`. AP_rare is the mean AP of the classes with frequency r, and so
    on; None without gt (ground truth) of such a class. `detections`: as `metrics.coco` takes them.
    """
    done = coco.run(coco.evaluator(annotations, detections, lvis=True))
    return coco.results(annotations, done, NAMES)
