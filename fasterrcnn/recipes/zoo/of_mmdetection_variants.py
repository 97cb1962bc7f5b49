"""MMDetection 3.3's variants of Faster R-CNN, from its other pages: Cascade R-CNN.

Box AP, GB and 1000 / (ms/im) of the pages' `metafile.yml`.
"""

from __future__ import annotations

from fasterrcnn.recipes.conventions import (
    CAFFE_STYLE,
    CASCADE_MMDETECTION,
    R101,
    X101_32X4D,
    X101_64X4D,
)
from fasterrcnn.recipes.zoo.entry import Entry
from fasterrcnn.recipes.zoo.of_mmdetection import ONE, entry

_TWENTY = dict(schedule=dict(epochs=20.0, milestones=(16.0, 19.0)))
_SCHEDULES = {"1x": ("12 epochs", ONE), "20e": ("20 epochs", _TWENTY)}
_BODIES: dict[str, tuple[str, tuple[dict, ...]]] = {  # as in MMDetection's names of configs
    "r50": ("R-50-FPN", ()),
    "r50-caffe": ("R-50-FPN (caffe)", (CAFFE_STYLE,)),
    "r101": ("R-101-FPN", (R101,)),
    "r101-caffe": ("R-101-FPN (caffe)", (R101, CAFFE_STYLE)),
    "x101-32x4d": ("X-101-32x4d-FPN", (X101_32X4D,)),
    "x101-64x4d": ("X-101-64x4d-FPN", (X101_64X4D,)),
}


def _cascade(
    body: str, schedule: str, box_ap: float, memory_gb: float, fps: float | None = None
) -> Entry:
    """A row of configs/cascade_rcnn."""
    what, parts = _BODIES[body]
    length, epochs = _SCHEDULES[schedule]
    joint = "_" if body == "x101-64x4d" and schedule == "20e" else "-"  # as the config is called
    return entry(
        f"cascade_rcnn_{body.replace('-', '_')}_fpn_{schedule}_mmdetection",
        f"Cascade R-CNN, {what}, COCO, {length}",
        (*parts, CASCADE_MMDETECTION, epochs),
        box_ap,
        schedule=schedule,
        config=f"cascade_rcnn/cascade-rcnn_{body.replace('-', joint)}_fpn_{schedule}_coco.py",
        memory_gb=memory_gb,
        fps=fps,
    )


ENTRIES = (
    _cascade("r50", "1x", 40.3, 4.4, 16.1),
    _cascade("r50-caffe", "1x", 40.4, 4.2),
    _cascade("r50", "20e", 41.0, 4.4, 16.1),
    _cascade("r101", "1x", 42.0, 6.4, 13.5),
    _cascade("r101-caffe", "1x", 42.3, 6.2),
    _cascade("r101", "20e", 42.5, 6.4, 13.5),
    _cascade("x101-32x4d", "1x", 43.7, 7.6, 10.9),
    _cascade("x101-32x4d", "20e", 43.7, 7.6),
    _cascade("x101-64x4d", "1x", 44.7, 10.7),
    _cascade("x101-64x4d", "20e", 44.5, 10.7),
)
