"""MMDetection 3.3's Faster R-CNN and RPN: a network and a schedule each."""

from __future__ import annotations

from typing import Any

from fasterrcnn.recipes.conventions import (
    C4,
    CAFFE_STYLE,
    MMDETECTION,
    R101,
    X101_32X4D,
    X101_32X8D,
    X101_64X4D,
)
from fasterrcnn.recipes.zoo.entry import Entry, Published, combined

ONE = dict(schedule=dict(epochs=12.0, milestones=(8.0, 11.0)))
TWO = dict(schedule=dict(epochs=24.0, milestones=(16.0, 22.0)))
THREE = dict(schedule=dict(epochs=36.0, milestones=(27.0, 33.0)))
MS_LIST = dict(input=dict(train_min_sizes=(640, 672, 704, 736, 768, 800)))
MS_RANGE = dict(input=dict(train_min_sizes=(640, 800), train_sampling="range"))
# An RPN alone keeps more candidates for its evaluation than as the first half of a detector.
_RPN = dict(detector="rpn", rpn=dict(pre_nms_top_n_test=2000))
_RPN_C4 = dict(rpn=dict(pre_nms_top_n_test=12000, post_nms_top_n_test=2000))
_PERSON = dict(weights="", data=dict(classes=("person",)))
_PERSON_BICYCLE_CAR = dict(weights="", data=dict(classes=("person", "bicycle", "car")))


def _rpn(
    name: str, what: str, *, parts: tuple[dict, ...], ar_1000: float | None = None, **label: Any
) -> Entry:
    """A row of configs/rpn."""
    return entry(name, what, (_RPN, *parts), ar_1000, **label)


def _faster_rcnn(
    name: str, what: str, *, parts: tuple[dict, ...], box_ap: float | None = None, **label: Any
) -> Entry:
    """A row of configs/faster_rcnn."""
    return entry(name, what, parts, box_ap, **label)


def entry(
    name: str,
    what: str,
    parts: tuple[dict, ...],
    value: float | None,
    *,
    schedule: str,
    config: str = "",
    schedule_file: str = "",  # of a row that has no config of its own
    memory_gb: float | None = None,
    fps: float | None = None,
) -> Entry:
    """A row of any page."""
    return Entry(
        lambda: combined(name, MMDETECTION, *parts),
        what,
        schedule,
        source=f"MMDetection 3.3 configs/{config or schedule_file}",
        framework="mmdetection",
        theirs=config,
        published=Published(value, "MMDetection, 8 V100", memory_gb, fps) if value else None,
    )


ENTRIES = (
    # AR_1000, GB, fps of configs/rpn/README.md.
    _rpn(
        "rpn_r50_caffe_fpn_1x_mmdetection",
        "RPN, R-50-FPN (caffe), COCO, 12 epochs",
        schedule="1x", config="rpn/rpn_r50-caffe_fpn_1x_coco.py",
        parts=(CAFFE_STYLE, ONE),
        ar_1000=58.7, memory_gb=3.5, fps=22.6,
    ),
    _rpn(
        "rpn_r50_fpn_1x_mmdetection",
        "RPN, R-50-FPN, COCO, 12 epochs",
        schedule="1x", config="rpn/rpn_r50_fpn_1x_coco.py",
        parts=(ONE,),
        ar_1000=58.2, memory_gb=3.8, fps=22.3,
    ),
    _rpn(
        "rpn_r50_fpn_2x_mmdetection",
        "RPN, R-50-FPN, COCO, 24 epochs",
        schedule="2x", config="rpn/rpn_r50_fpn_2x_coco.py",
        parts=(TWO,),
        ar_1000=58.6,
    ),
    _rpn(
        "rpn_r101_caffe_fpn_1x_mmdetection",
        "RPN, R-101-FPN (caffe), COCO, 12 epochs",
        schedule="1x", config="rpn/rpn_r101-caffe_fpn_1x_coco.py",
        parts=(R101, CAFFE_STYLE, ONE),
        ar_1000=60.0, memory_gb=5.4, fps=17.3,
    ),
    _rpn(
        "rpn_r101_fpn_1x_mmdetection",
        "RPN, R-101-FPN, COCO, 12 epochs",
        schedule="1x", config="rpn/rpn_r101_fpn_1x_coco.py",
        parts=(R101, ONE),
        ar_1000=59.7, memory_gb=5.8, fps=16.5,
    ),
    _rpn(
        "rpn_r101_fpn_2x_mmdetection",
        "RPN, R-101-FPN, COCO, 24 epochs",
        schedule="2x", config="rpn/rpn_r101_fpn_2x_coco.py",
        parts=(R101, TWO),
        ar_1000=60.2,
    ),
    _rpn(
        "rpn_x101_32x4d_fpn_1x_mmdetection",
        "RPN, X-101-32x4d-FPN, COCO, 12 epochs",
        schedule="1x", config="rpn/rpn_x101-32x4d_fpn_1x_coco.py",
        parts=(X101_32X4D, ONE),
        ar_1000=60.6, memory_gb=7.0, fps=13.0,
    ),
    _rpn(
        "rpn_x101_32x4d_fpn_2x_mmdetection",
        "RPN, X-101-32x4d-FPN, COCO, 24 epochs",
        schedule="2x", config="rpn/rpn_x101-32x4d_fpn_2x_coco.py",
        parts=(X101_32X4D, TWO),
        ar_1000=61.1,
    ),
    _rpn(
        "rpn_x101_64x4d_fpn_1x_mmdetection",
        "RPN, X-101-64x4d-FPN, COCO, 12 epochs",
        schedule="1x", config="rpn/rpn_x101-64x4d_fpn_1x_coco.py",
        parts=(X101_64X4D, ONE),
        ar_1000=61.0, memory_gb=10.1, fps=9.1,
    ),
    _rpn(
        "rpn_x101_64x4d_fpn_2x_mmdetection",
        "RPN, X-101-64x4d-FPN, COCO, 24 epochs",
        schedule="2x", config="rpn/rpn_x101-64x4d_fpn_2x_coco.py",
        parts=(X101_64X4D, TWO),
        ar_1000=61.5,
    ),
    _rpn(
        "rpn_r50_caffe_c4_1x_mmdetection",
        "RPN, R-50-C4 (caffe), COCO, 12 epochs",
        schedule="1x", config="rpn/rpn_r50-caffe-c4_1x_coco.py",
        parts=(CAFFE_STYLE, C4, _RPN_C4, ONE),
    ),
    # Box AP, GB, fps of configs/faster_rcnn/{metafile.yml,README.md}.
    _faster_rcnn(
        "fasterrcnn_r50_fpn_1x_mmdetection",
        "Faster R-CNN, R-50-FPN, COCO, 12 epochs",
        schedule="1x", config="faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        parts=(ONE,),
        box_ap=37.4, memory_gb=4.0, fps=21.4,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_fpn_2x_mmdetection",
        "Faster R-CNN, R-50-FPN, COCO, 24 epochs",
        schedule="2x", config="faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py",
        parts=(TWO,),
        box_ap=38.4, memory_gb=4.0,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_fpn_ms_3x_mmdetection",
        "Faster R-CNN, R-50-FPN, COCO, 36 epochs, short side 640 to 800",
        schedule="ms-3x", config="faster_rcnn/faster-rcnn_r50_fpn_ms-3x_coco.py",
        parts=(MS_RANGE, THREE),
        box_ap=40.3, memory_gb=3.9,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_caffe_fpn_1x_mmdetection",
        "Faster R-CNN, R-50-FPN (caffe), COCO, 12 epochs",
        schedule="1x", config="faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py",
        parts=(CAFFE_STYLE, ONE),
        box_ap=37.8, memory_gb=3.8,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_caffe_fpn_2x_mmdetection",
        "Faster R-CNN, R-50-FPN (caffe), COCO, 24 epochs",
        schedule="2x", schedule_file="_base_/schedules/schedule_2x.py",
        parts=(CAFFE_STYLE, TWO),
    ),
    _faster_rcnn(
        "fasterrcnn_r50_caffe_fpn_ms_1x_mmdetection",
        "Faster R-CNN, R-50-FPN (caffe), COCO, 12 epochs, six scales",
        schedule="ms-1x", config="faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-1x_coco.py",
        parts=(CAFFE_STYLE, MS_LIST, ONE),
    ),
    _faster_rcnn(
        "fasterrcnn_r50_caffe_fpn_ms_3x_mmdetection",
        "Faster R-CNN, R-50-FPN (caffe), COCO, 36 epochs, six scales",
        schedule="ms-3x", config="faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-3x_coco.py",
        parts=(CAFFE_STYLE, MS_LIST, THREE),
        box_ap=39.9, memory_gb=3.7,
    ),
    _faster_rcnn(
        "fasterrcnn_r101_fpn_1x_mmdetection",
        "Faster R-CNN, R-101-FPN, COCO, 12 epochs",
        schedule="1x", config="faster_rcnn/faster-rcnn_r101_fpn_1x_coco.py",
        parts=(R101, ONE),
        box_ap=39.4, memory_gb=6.0, fps=15.6,
    ),
    _faster_rcnn(
        "fasterrcnn_r101_fpn_2x_mmdetection",
        "Faster R-CNN, R-101-FPN, COCO, 24 epochs",
        schedule="2x", config="faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py",
        parts=(R101, TWO),
        box_ap=39.8, memory_gb=6.0,
    ),
    _faster_rcnn(
        "fasterrcnn_r101_fpn_ms_3x_mmdetection",
        "Faster R-CNN, R-101-FPN, COCO, 36 epochs, short side 640 to 800",
        schedule="ms-3x", config="faster_rcnn/faster-rcnn_r101_fpn_ms-3x_coco.py",
        parts=(R101, MS_RANGE, THREE),
        box_ap=41.8, memory_gb=5.8,
    ),
    _faster_rcnn(
        "fasterrcnn_r101_caffe_fpn_1x_mmdetection",
        "Faster R-CNN, R-101-FPN (caffe), COCO, 12 epochs",
        schedule="1x", config="faster_rcnn/faster-rcnn_r101-caffe_fpn_1x_coco.py",
        parts=(R101, CAFFE_STYLE, ONE),
        box_ap=39.8, memory_gb=5.7,
    ),
    _faster_rcnn(
        "fasterrcnn_r101_caffe_fpn_2x_mmdetection",
        "Faster R-CNN, R-101-FPN (caffe), COCO, 24 epochs",
        schedule="2x", schedule_file="_base_/schedules/schedule_2x.py",
        parts=(R101, CAFFE_STYLE, TWO),
    ),
    _faster_rcnn(
        "fasterrcnn_r101_caffe_fpn_ms_3x_mmdetection",
        "Faster R-CNN, R-101-FPN (caffe), COCO, 36 epochs, short side 640 to 800 "
        "(the published file normalizes in pytorch style)",
        schedule="ms-3x", config="faster_rcnn/faster-rcnn_r101-caffe_fpn_ms-3x_coco.py",
        parts=(R101, CAFFE_STYLE, MS_RANGE, THREE),
        box_ap=42.0, memory_gb=5.6,
    ),
    _faster_rcnn(
        "fasterrcnn_x101_32x4d_fpn_1x_mmdetection",
        "Faster R-CNN, X-101-32x4d-FPN, COCO, 12 epochs",
        schedule="1x", config="faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco.py",
        parts=(X101_32X4D, ONE),
        box_ap=41.2, memory_gb=7.2, fps=13.8,
    ),
    _faster_rcnn(
        "fasterrcnn_x101_32x4d_fpn_2x_mmdetection",
        "Faster R-CNN, X-101-32x4d-FPN, COCO, 24 epochs",
        schedule="2x", config="faster_rcnn/faster-rcnn_x101-32x4d_fpn_2x_coco.py",
        parts=(X101_32X4D, TWO),
        box_ap=41.2, memory_gb=7.2,
    ),
    _faster_rcnn(
        "fasterrcnn_x101_32x4d_fpn_ms_3x_mmdetection",
        "Faster R-CNN, X-101-32x4d-FPN, COCO, 36 epochs, short side 640 to 800",
        schedule="ms-3x", config="faster_rcnn/faster-rcnn_x101-32x4d_fpn_ms-3x_coco.py",
        parts=(X101_32X4D, MS_RANGE, THREE),
        box_ap=42.5, memory_gb=7.0,
    ),
    _faster_rcnn(
        "fasterrcnn_x101_32x8d_fpn_ms_3x_mmdetection",
        "Faster R-CNN, X-101-32x8d-FPN, COCO, 36 epochs, short side 640 to 800",
        schedule="ms-3x", config="faster_rcnn/faster-rcnn_x101-32x8d_fpn_ms-3x_coco.py",
        parts=(X101_32X8D, MS_RANGE, THREE),
        box_ap=42.4, memory_gb=10.1,
    ),
    _faster_rcnn(
        "fasterrcnn_x101_64x4d_fpn_1x_mmdetection",
        "Faster R-CNN, X-101-64x4d-FPN, COCO, 12 epochs",
        schedule="1x", config="faster_rcnn/faster-rcnn_x101-64x4d_fpn_1x_coco.py",
        parts=(X101_64X4D, ONE),
        box_ap=42.1, memory_gb=10.3, fps=9.4,
    ),
    _faster_rcnn(
        "fasterrcnn_x101_64x4d_fpn_2x_mmdetection",
        "Faster R-CNN, X-101-64x4d-FPN, COCO, 24 epochs",
        schedule="2x", config="faster_rcnn/faster-rcnn_x101-64x4d_fpn_2x_coco.py",
        parts=(X101_64X4D, TWO),
        box_ap=41.6, memory_gb=10.3,
    ),
    _faster_rcnn(
        "fasterrcnn_x101_64x4d_fpn_ms_3x_mmdetection",
        "Faster R-CNN, X-101-64x4d-FPN, COCO, 36 epochs, short side 640 to 800",
        schedule="ms-3x", config="faster_rcnn/faster-rcnn_x101-64x4d_fpn_ms-3x_coco.py",
        parts=(X101_64X4D, MS_RANGE, THREE),
        box_ap=43.1, memory_gb=10.0,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_caffe_c4_1x_mmdetection",
        "Faster R-CNN, R-50-C4 (caffe), COCO, 12 epochs",
        schedule="1x", config="faster_rcnn/faster-rcnn_r50-caffe-c4_1x_coco.py",
        parts=(CAFFE_STYLE, C4, ONE),
        box_ap=35.6,
    ),
    # Fine-tuning of fasterrcnn_r50_caffe_fpn_ms_3x_mmdetection on subsets of COCO; their box AP.
    _faster_rcnn(
        "fasterrcnn_r50_caffe_fpn_ms_1x_person_mmdetection",
        "Fine-tuning on COCO's person, R-50-FPN (caffe)",
        schedule="ms-1x", config="faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-1x_coco-person.py",
        parts=(CAFFE_STYLE, MS_LIST, ONE, _PERSON),
        box_ap=55.8, memory_gb=3.7,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_caffe_fpn_ms_1x_person_bicycle_car_mmdetection",
        "Fine-tuning on COCO's person, bicycle and car, R-50-FPN (caffe)",
        schedule="ms-1x",
        config="faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-1x_coco-person-bicycle-car.py",
        parts=(CAFFE_STYLE, MS_LIST, ONE, _PERSON_BICYCLE_CAR),
        box_ap=44.1, memory_gb=3.7,
    ),
)  # fmt: skip
