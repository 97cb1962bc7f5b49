"""MMDetection 3.3's variants of Faster R-CNN: Cascade R-CNN, DC5, deformable convolutions,
other losses of the boxes, other first weights and norms.

Box AP, GB and 1000 / (ms/im) of the pages' `metafile.yml`.
"""

from __future__ import annotations

from fasterrcnn.recipes.conventions import (
    C4,
    CAFFE_STYLE,
    CASCADE_MMDETECTION,
    DC5,
    R101,
    X101_32X4D,
    X101_64X4D,
)
from fasterrcnn.recipes.zoo.entry import Entry
from fasterrcnn.recipes.zoo.of_mmdetection import MS_LIST, ONE, THREE, entry

TWENTY = dict(schedule=dict(epochs=20.0, milestones=(16.0, 19.0)))
_SCHEDULES: dict[str, tuple[str, tuple[dict, ...]]] = {
    "1x": ("12 epochs", (ONE,)),
    "20e": ("20 epochs", (TWENTY,)),
    "ms-1x": ("12 epochs, six scales", (MS_LIST, ONE)),
    "ms-3x": ("36 epochs, six scales", (MS_LIST, THREE)),
}
_INSIDE = dict(rpn=dict(border_anchors=False, edge_anchors=False))  # allowed_border 0
_DEFORMABLE = {  # as in MMDetection's names of configs: folder, words, fields
    "dconv": ("dcn", "deformable convolutions", dict(deformable="v1")),
    "mdconv": ("dcnv2", "modulated deformable convolutions", dict(deformable="v2")),
    "mdconv-group4": (
        "dcnv2",
        "modulated deformable convolutions of 4 groups",
        dict(deformable="v2", deformable_groups=4),
    ),
}
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
        (*parts, CASCADE_MMDETECTION, *epochs),
        box_ap,
        schedule=schedule,
        config=f"cascade_rcnn/cascade-rcnn_{body.replace('-', joint)}_fpn_{schedule}_coco.py",
        memory_gb=memory_gb,
        fps=fps,
    )


def _dc5(schedule: str, box_ap: float) -> Entry:
    """A row of configs/faster_rcnn."""
    length, epochs = _SCHEDULES[schedule]
    return entry(
        f"fasterrcnn_r50_caffe_dc5_{schedule.replace('-', '_')}_mmdetection",
        f"Faster R-CNN, R-50-DC5 (caffe), COCO, {length}",
        (CAFFE_STYLE, DC5, _INSIDE, *epochs),
        box_ap,
        schedule=schedule,
        config=f"faster_rcnn/faster-rcnn_r50-caffe-dc5_{schedule}_coco.py",
    )


def _loss(config: str, loss: str, box_ap: float) -> Entry:
    """A row of configs/faster_rcnn."""
    return entry(
        f"fasterrcnn_r50_fpn_{loss}_1x_mmdetection",
        f"Faster R-CNN, R-50-FPN, {loss.replace('_', ' ')} loss of the boxes, COCO, 12 epochs",
        (dict(roi_heads=dict(box_loss=loss, box_loss_weight=10.0)), ONE),
        box_ap,
        schedule="1x",
        config=f"faster_rcnn/faster-rcnn_r50_fpn_{config}_1x_coco.py",
    )


def _deformable(
    detector: str, body: str, kind: str, box_ap: float, memory_gb: float, fps: float
) -> Entry:
    """A row of configs/dcn or configs/dcnv2."""
    what, parts = _BODIES[body]
    folder, words, fields = _DEFORMABLE[kind]
    network, ours, cascade = {
        "faster-rcnn": ("Faster R-CNN", "fasterrcnn", ()),
        "cascade-rcnn": ("Cascade R-CNN", "cascade_rcnn", (CASCADE_MMDETECTION,)),
    }[detector]
    name = f"{body}-{kind}-c3-c5_fpn_1x"
    return entry(
        f"{ours}_{name.replace('-', '_')}_mmdetection",
        f"{network}, {what}, {words}, COCO, 12 epochs",
        (*parts, *cascade, dict(backbone=fields), ONE),
        box_ap,
        schedule="1x",
        config=f"{folder}/{detector}_{name}_coco.py",
        memory_gb=memory_gb,
        fps=fps,
    )


def _pretrained(kind: str, whose: str, box_ap: float, lr: float, weight_decay: float) -> Entry:
    """A row of configs/faster_rcnn or configs/resnet_strikes_back: other ImageNet weights, and
    AdamW."""
    folder = "resnet_strikes_back" if kind == "rsb" else "faster_rcnn"
    optimizer = dict(optimizer="adamw", lr=lr, weight_decay=weight_decay, decay_norms=False)
    return entry(
        f"fasterrcnn_r50_{kind}_pre_fpn_1x_mmdetection",
        f"Faster R-CNN, R-50-FPN from {whose}, AdamW, COCO, 12 epochs",
        (dict(weights="", schedule=optimizer), ONE),
        box_ap,
        schedule="1x",
        config=f"{folder}/faster-rcnn_r50-{kind}-pre_fpn_1x_coco.py",
        memory_gb=3.9 if kind == "rsb" else None,
    )


_SCRATCH = dict(
    weights="none",
    backbone=dict(norm="group", fpn_norm="group", trainable_layers=5),
    roi_heads=dict(head="4conv1fc", head_norm="group"),
    schedule=dict(epochs=73.0, milestones=(65.0, 71.0), decay_norms=False),
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
    _loss("iou", "iou", 37.9),
    _loss("giou", "giou", 37.6),
    _loss("bounded-iou", "bounded_iou", 37.4),
    _dc5("1x", 37.2),
    _dc5("ms-1x", 37.4),
    _dc5("ms-3x", 38.7),
    entry(
        "fasterrcnn_r50_caffe_c4_ms_1x_mmdetection",
        "Faster R-CNN, R-50-C4 (caffe), COCO, 12 epochs, six scales",
        (CAFFE_STYLE, C4, MS_LIST, ONE),
        35.9,
        schedule="ms-1x",
        config="faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py",
    ),
    entry(
        "fasterrcnn_r50_caffe_fpn_ms_2x_mmdetection",
        "Faster R-CNN, R-50-FPN (caffe), COCO, 24 epochs, six scales (as in 2.x; the learning rate "
        "of the config of 3.x never falls)",
        (CAFFE_STYLE, MS_LIST, dict(schedule=dict(epochs=24.0, milestones=(16.0, 23.0)))),
        39.7,
        schedule="ms-2x",
        config="faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-2x_coco.py",
        memory_gb=4.3,
    ),
    entry(
        "fasterrcnn_r50_fpn_amp_1x_mmdetection",
        "Faster R-CNN, R-50-FPN, COCO, 12 epochs, mixed precision",
        (dict(amp="fp16"), ONE),
        37.5,
        schedule="1x",
        config="faster_rcnn/faster-rcnn_r50_fpn_amp-1x_coco.py",
        memory_gb=3.4,
        fps=28.8,
    ),
    entry(
        "fasterrcnn_r50_fpn_ohem_1x_mmdetection",
        "Faster R-CNN, R-50-FPN, online hard example mining, COCO, 12 epochs",
        (dict(roi_heads=dict(sampler="ohem")), ONE),
        None,
        schedule="1x",
        config="faster_rcnn/faster-rcnn_r50_fpn_ohem_1x_coco.py",
    ),
    _pretrained("tnr", "torchvision's second ImageNet weights (resnet50-11ad3fa6.pth)",
                40.2, lr=1e-4, weight_decay=0.1),
    _pretrained("rsb", "ResNet strikes back's ImageNet weights (A1, arXiv 2110.00476)",
                40.8, lr=2e-4, weight_decay=0.05),
    entry(
        "fasterrcnn_r50_scratch_fpn_gn_all_6x_mmdetection",
        "Faster R-CNN from scratch, R-50-FPN, group norm, box head with convolutions, COCO, 73 "
        "epochs",
        (_SCRATCH,),
        40.7,
        schedule="6x",
        config="scratch/faster-rcnn_r50-scratch_fpn_gn-all_6x_coco.py",
    ),
    _deformable("faster-rcnn", "r50", "dconv", 41.3, 4.0, 17.8),
    _deformable("faster-rcnn", "r50", "mdconv", 41.4, 4.1, 17.6),
    _deformable("faster-rcnn", "r50", "mdconv-group4", 41.5, 4.2, 17.4),
    _deformable("faster-rcnn", "r101", "dconv", 42.7, 6.0, 12.5),
    _deformable("faster-rcnn", "x101-32x4d", "dconv", 44.5, 7.3, 10.0),
    _deformable("cascade-rcnn", "r50", "dconv", 43.8, 4.5, 14.6),
    _deformable("cascade-rcnn", "r101", "dconv", 45.0, 6.4, 11.0),
)  # fmt: skip
