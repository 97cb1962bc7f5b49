"""Detectron2 0.6's Faster R-CNN and RPN: a network and a schedule each.

Detectron2 counts iterations of 16 images.
"""

from __future__ import annotations

from typing import Any

from fasterrcnn.recipes.conventions import C4, CASCADE_DETECTRON2, DC5, DETECTRON2, R101, X101_32X8D
from fasterrcnn.recipes.zoo.entry import Entry, Published, combined

_COCO_STEPS = 7330  # an epoch: COCO's 117,266 images with boxes
_VOC_STEPS = 16_551 / 16  # an epoch: the images of VOC 2007 and 2012 trainval


def _iterations(total: int, *drops: int, epoch: float = _COCO_STEPS) -> dict:
    milestones = tuple(step / epoch for step in drops)
    return dict(schedule=dict(epochs=total / epoch, milestones=milestones))


_ONE = _iterations(90_000, 60_000, 80_000)
_THREE = _iterations(270_000, 210_000, 250_000)
_C4 = dict(C4, input=dict(size_divisible=1))
_DC5 = dict(DC5, input=dict(size_divisible=1))
_DEFORMABLE = dict(backbone=dict(deformable="v1"))
# An RPN alone keeps more candidates for its evaluation than as the first half of a detector.
_RPN = dict(detector="rpn", rpn=dict(post_nms_top_n_test=2000))
_FAST_RCNN = dict(detector="fast_rcnn", rpn=dict(post_nms_top_n_train=2000))
_VOC = dict(
    input=dict(train_min_sizes=tuple(range(480, 801, 32))),
    data=dict(train_split="07+12"),
    schedule=dict(warmup_steps=100),
)
_RPN_C4 = dict(rpn=dict(pre_nms_top_n_test=12000))
# The settings of Detectron, for comparison: one short side, smooth L1, RoIAlign of its first kind.
_LIKE_DETECTRON = dict(
    input=dict(train_min_sizes=()),
    rpn=dict(beta=1 / 9),
    roi_heads=dict(beta=1.0, aligned=False, sampling_ratio=2),
)
_SCRATCH = dict(weights="none", backbone=dict(trainable_layers=5))
# Norms everywhere, and the box head with convolutions that goes with them.
_GROUP_NORM = dict(
    backbone=dict(norm="group", fpn_norm="group", stride_in_1x1=False),
    roi_heads=dict(head="4conv1fc", head_norm="group"),
)
_BATCH_NORM = dict(
    backbone=dict(norm="batch", fpn_norm="batch", stride_in_1x1=False),
    roi_heads=dict(head="4conv1fc"),
)


def _long_jitter(epochs: int) -> dict:
    """Large-scale jitter and a long schedule: configs/new_baselines, of 64 images per step."""
    steps = epochs / 100
    schedule = _iterations(
        round(184_375 * steps), *(round(step * steps) for step in (163_889, 177_546)),
        epoch=1833,  # 117,266 images
    )["schedule"]  # fmt: skip
    return dict(
        amp="fp16",
        input=dict(train_min_sizes=()),
        augment=dict(jitter=True),
        backbone=dict(stride_in_1x1=True),
        rpn=dict(conv_depth=2),
        schedule=dict(
            schedule,
            lr=0.1, weight_decay=4e-5, warmup_steps=500, warmup_factor=0.067, images_per_step=64,
        ),
    )  # fmt: skip


def _rpn(name: str, what: str, *, parts: tuple[dict, ...], ar_1000: float, **label: Any) -> Entry:
    """A row of the RPN table."""
    return _entry(name, what, (_RPN, *parts), ar_1000, **label)


def _faster_rcnn(
    name: str, what: str, *, parts: tuple[dict, ...], box_ap: float, **label: Any
) -> Entry:
    """A row of the Faster R-CNN table."""
    return _entry(name, what, parts, box_ap, **label)


def _entry(
    name: str,
    what: str,
    parts: tuple[dict, ...],
    value: float,
    *,
    schedule: str,
    config: str,
    memory_gb: float | None = None,
    fps: float | None = None,
    with_masks: bool = False,
) -> Entry:
    by, words = "Detectron2, 8 V100", f"box AP {value:g} of a detector with masks"
    return Entry(
        lambda: combined(name, DETECTRON2, *parts),
        what,
        schedule,
        source=f"Detectron2 0.6 configs/{config}",
        framework="detectron2",
        theirs=config,
        published=Published(None, by, memory_gb, fps, other=words)
        if with_masks
        else Published(value, by, memory_gb, fps),
    )


ENTRIES = (
    # Box AP (AR_1000 of an RPN), GB, 1 / (s/im) of MODEL_ZOO.md.
    _faster_rcnn(
        "fasterrcnn_r50_fpn_1x_detectron2",
        "Faster R-CNN, R-50-FPN, COCO, 90,000 steps",
        schedule="1x", config="COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
        parts=(_ONE,),
        box_ap=37.9, memory_gb=3.0, fps=26.3,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_fpn_3x_detectron2",
        "Faster R-CNN, R-50-FPN, COCO, 270,000 steps",
        schedule="3x", config="COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
        parts=(_THREE,),
        box_ap=40.2, memory_gb=3.0, fps=26.3,
    ),
    _faster_rcnn(
        "fasterrcnn_r101_fpn_3x_detectron2",
        "Faster R-CNN, R-101-FPN, COCO, 270,000 steps",
        schedule="3x", config="COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml",
        parts=(R101, _THREE),
        box_ap=42.0, memory_gb=4.1, fps=19.6,
    ),
    _faster_rcnn(
        "fasterrcnn_x101_32x8d_fpn_3x_detectron2",
        "Faster R-CNN, X-101-32x8d-FPN, COCO, 270,000 steps",
        schedule="3x", config="COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml",
        parts=(X101_32X8D, _THREE),
        box_ap=43.0, memory_gb=6.7, fps=10.2,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_c4_1x_detectron2",
        "Faster R-CNN, R-50-C4, COCO, 90,000 steps",
        schedule="1x", config="COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
        parts=(_C4, _ONE),
        box_ap=35.7, memory_gb=4.8, fps=9.8,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_c4_3x_detectron2",
        "Faster R-CNN, R-50-C4, COCO, 270,000 steps",
        schedule="3x", config="COCO-Detection/faster_rcnn_R_50_C4_3x.yaml",
        parts=(_C4, _THREE),
        box_ap=38.4, memory_gb=4.8, fps=9.6,
    ),
    _faster_rcnn(
        "fasterrcnn_r101_c4_3x_detectron2",
        "Faster R-CNN, R-101-C4, COCO, 270,000 steps",
        schedule="3x", config="COCO-Detection/faster_rcnn_R_101_C4_3x.yaml",
        parts=(_C4, R101, _THREE),
        box_ap=41.1, memory_gb=5.9, fps=7.2,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_dc5_1x_detectron2",
        "Faster R-CNN, R-50-DC5, COCO, 90,000 steps",
        schedule="1x", config="COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml",
        parts=(_DC5, _ONE),
        box_ap=37.3, memory_gb=5.0, fps=14.7,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_dc5_3x_detectron2",
        "Faster R-CNN, R-50-DC5, COCO, 270,000 steps",
        schedule="3x", config="COCO-Detection/faster_rcnn_R_50_DC5_3x.yaml",
        parts=(_DC5, _THREE),
        box_ap=39.0, memory_gb=5.0, fps=14.3,
    ),
    _faster_rcnn(
        "fasterrcnn_r101_dc5_3x_detectron2",
        "Faster R-CNN, R-101-DC5, COCO, 270,000 steps",
        schedule="3x", config="COCO-Detection/faster_rcnn_R_101_DC5_3x.yaml",
        parts=(_DC5, R101, _THREE),
        box_ap=40.6, memory_gb=6.1, fps=11.6,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_c4_voc_detectron2",
        "Faster R-CNN, R-50-C4, VOC 2007 and 2012 trainval, 18,000 steps",
        schedule="18k", config="PascalVOC-Detection/faster_rcnn_R_50_C4.yaml",
        parts=(_C4, _VOC, _iterations(18_000, 12_000, 16_000, epoch=_VOC_STEPS)),
        box_ap=51.9, memory_gb=4.8, fps=12.3,
    ),
    _faster_rcnn(
        "fast_rcnn_r50_fpn_1x_detectron2",
        "Fast R-CNN, R-50-FPN, COCO, 90,000 steps",
        schedule="1x", config="COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml",
        parts=(_FAST_RCNN, _ONE),
        box_ap=37.8, memory_gb=2.6, fps=34.5,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_fpn_1x_dconv_c3_c5_detectron2",
        "Faster R-CNN, R-50-FPN, deformable convolutions, COCO, 90,000 steps",
        schedule="1x", config="Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml",
        parts=(_DEFORMABLE, _ONE),
        box_ap=41.5, memory_gb=3.5, fps=20.8, with_masks=True,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_fpn_3x_dconv_c3_c5_detectron2",
        "Faster R-CNN, R-50-FPN, deformable convolutions, COCO, 270,000 steps",
        schedule="3x", config="Misc/mask_rcnn_R_50_FPN_3x_dconv_c3-c5.yaml",
        parts=(_DEFORMABLE, _THREE),
        box_ap=42.7, memory_gb=3.5, fps=21.3, with_masks=True,
    ),
    _faster_rcnn(
        "cascade_rcnn_r50_fpn_1x_detectron2",
        "Cascade R-CNN, R-50-FPN, COCO, 90,000 steps",
        schedule="1x", config="Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
        parts=(CASCADE_DETECTRON2, _ONE),
        box_ap=42.1, memory_gb=4.0, fps=19.2, with_masks=True,
    ),
    _faster_rcnn(
        "cascade_rcnn_r50_fpn_3x_detectron2",
        "Cascade R-CNN, R-50-FPN, COCO, 270,000 steps",
        schedule="3x", config="Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml",
        parts=(CASCADE_DETECTRON2, _THREE),
        box_ap=44.3, memory_gb=4.0, fps=18.9, with_masks=True,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_fpn_3x_syncbn_detectron2",
        "Faster R-CNN, R-50-FPN, batch norm, box head with convolutions, COCO, 270,000 steps",
        schedule="3x", config="Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml",
        parts=(_BATCH_NORM, _THREE),
        box_ap=41.9, memory_gb=5.5, fps=18.9, with_masks=True,
    ),
    _faster_rcnn(
        "fasterrcnn_r50_fpn_3x_gn_detectron2",
        "Faster R-CNN, R-50-FPN, group norm, box head with convolutions, COCO, 270,000 steps",
        schedule="3x", config="Misc/mask_rcnn_R_50_FPN_3x_gn.yaml",
        parts=(_GROUP_NORM, _THREE),
        box_ap=42.6, memory_gb=7.3, fps=14.5, with_masks=True,
    ),
    _faster_rcnn(
        "scratch_fasterrcnn_r50_fpn_3x_gn_detectron2",
        "Faster R-CNN from scratch, R-50-FPN, group norm, box head with convolutions, COCO, "
        "270,000 steps",
        schedule="3x", config="Misc/scratch_mask_rcnn_R_50_FPN_3x_gn.yaml",
        parts=(_GROUP_NORM, _SCRATCH, _THREE),
        box_ap=39.9, memory_gb=9.8, fps=14.5, with_masks=True,
    ),
    *(
        _faster_rcnn(
            f"fasterrcnn_{body}_fpn_{epochs}ep_lsj_detectron2",
            f"Faster R-CNN from scratch, {body[0].upper()}-{body[1:]}-FPN, batch norm, box head "
            f"with convolutions, large-scale jitter, COCO, {epochs} epochs of 64 images per step",
            schedule=f"{epochs}ep",
            config=f"new_baselines/mask_rcnn_R_{body[1:]}_FPN_{epochs}ep_LSJ.py",
            parts=(_BATCH_NORM, _SCRATCH, _long_jitter(epochs), network),
            box_ap=box_ap, with_masks=True,
        )
        for body, network, epochs, box_ap in (
            ("r50", {}, 100, 44.6), ("r50", {}, 400, 47.4),
            ("r101", R101, 100, 46.4), ("r101", R101, 400, 48.9),
        )
    ),
    _faster_rcnn(
        "fasterrcnn_r50_fpn_noaug_1x_detectron2",
        "Faster R-CNN, R-50-FPN, COCO, 90,000 steps, as Detectron",
        schedule="1x",
        config="Detectron1-Comparisons/faster_rcnn_R_50_FPN_noaug_1x.yaml",
        parts=(_LIKE_DETECTRON, _ONE),
        box_ap=36.9, memory_gb=3.1, fps=26.3,
    ),
    _rpn(
        "rpn_r50_fpn_1x_detectron2",
        "RPN, R-50-FPN, COCO, 90,000 steps",
        schedule="1x", config="COCO-Detection/rpn_R_50_FPN_1x.yaml",
        parts=(_ONE,),
        ar_1000=58.0, memory_gb=2.7, fps=31.2,
    ),
    _rpn(
        "rpn_r50_c4_1x_detectron2",
        "RPN, R-50-C4, COCO, 90,000 steps",
        schedule="1x", config="COCO-Detection/rpn_R_50_C4_1x.yaml",
        parts=(_C4, _RPN_C4, _ONE),
        ar_1000=51.6, memory_gb=1.5, fps=29.4,
    ),
)  # fmt: skip
