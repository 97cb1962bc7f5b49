"""PASCAL VOC: the paper's VGG-16, and torchvision's network.

The paper is Ren, He, Girshick, Sun, "Faster R-CNN", arXiv 1506.01497v3; its code is
rbgirshick/py-faster-rcnn: `models/VGG16`, `lib/fast_rcnn/config.py`, `experiments/cfgs`. Where they
differ, the code decides (RPN losses are both divided by the anchors sampled).
"""

from __future__ import annotations

from fasterrcnn.recipes.changes import change
from fasterrcnn.recipes.fields import Backbone, Data, Input, Recipe, Schedule
from fasterrcnn.recipes.head_fields import RPN, RoIHeads
from fasterrcnn.recipes.zoo.entry import Entry, Published
from fasterrcnn.recipes.zoo.of_torchvision import fasterrcnn_r50_fpn_1x

_VOC07_IMAGES = 5011  # of VOC 2007 trainval


def fasterrcnn_vgg16_voc() -> Recipe:
    """VGG-16 on VOC 2007, end to end: 70,000 steps of two images."""
    return Recipe(
        name="fasterrcnn_vgg16_voc",
        input=Input(min_size=600, max_size=1000, rounding="nearest", size_divisible=1),
        backbone=Backbone(name="vgg16", neck="none", trainable_layers=3),
        rpn=RPN(
            anchor_sizes=(128, 256, 512),
            all_sizes_per_level=True,
            anchor_strides="fixed",
            border_anchors=False,
            pre_nms_top_n_train=12000,
            pre_nms_top_n_test=6000,
            post_nms_top_n_train=2000,
            post_nms_top_n_test=300,
            min_side=16.0,
        ),
        roi_heads=RoIHeads(
            representation_size=4096,
            dropout=0.5,
            pooling="pool",
            batch_size_per_image=128,
            beta=1.0,
            nms_thresh=0.3,
        ),
        data=Data(train_split="2007_trainval"),
        schedule=Schedule(
            epochs=140_000 / _VOC07_IMAGES,
            milestones=(100_000 / _VOC07_IMAGES,),
            lr=0.001,
            bias_lr_factor=2.0,
            weight_decay=5e-4,
            warmup_steps=0,
            images_per_step=2,
            images_per_gpu=1,
        ),
    )


_ALTERNATING = dict(epochs=80_000 / _VOC07_IMAGES, milestones=(60_000 / _VOC07_IMAGES,))


def rpn_vgg16_voc() -> Recipe:
    """Steps 1 and 3 of alternating training: 80,000 steps of one image. Its training proposals are
    the best 2,000 after NMS of all anchors."""
    return change(
        fasterrcnn_vgg16_voc(),
        name="rpn_vgg16_voc",
        detector="rpn",
        rpn=dict(pre_nms_top_n_train=1_000_000),
        schedule=dict(images_per_step=1, **_ALTERNATING),
    )


def fast_rcnn_vgg16_voc() -> Recipe:
    """Steps 2 and 4 of alternating training: 40,000 steps of two images."""
    return change(
        fasterrcnn_vgg16_voc(),
        name="fast_rcnn_vgg16_voc",
        detector="fast_rcnn",
        roi_heads=dict(batch_size_per_image=64),  # 128 of both images together
        schedule=dict(images_per_gpu=2, **_ALTERNATING),
    )


def fasterrcnn_r50_fpn_voc() -> Recipe:
    """The main recipe's network on VOC 2007 and 2012."""
    return change(
        fasterrcnn_r50_fpn_1x(),
        name="fasterrcnn_r50_fpn_voc",
        input=dict(min_size=600, max_size=1000),
        data=dict(train_split="07+12"),
        schedule=dict(epochs=12.0, milestones=(9.0,), lr=0.01, warmup_steps=0),
    )


def rpn_r50_fpn_voc() -> Recipe:
    """Its region proposal network alone, for alternating training."""
    return change(fasterrcnn_r50_fpn_voc(), name="rpn_r50_fpn_voc", detector="rpn")


def fast_rcnn_r50_fpn_voc() -> Recipe:
    """Its box head on stored proposals, for alternating training."""
    return change(fasterrcnn_r50_fpn_voc(), name="fast_rcnn_r50_fpn_voc", detector="fast_rcnn")


_ALTERNATING_SOURCE = "arXiv 1506.01497v3; py-faster-rcnn models/VGG16/faster_rcnn_alt_opt"

ENTRIES = (
    Entry(
        fasterrcnn_vgg16_voc,
        what="Faster R-CNN, VGG-16, VOC 2007 trainval, 70,000 steps, end to end",
        schedule="70k",
        source="arXiv 1506.01497v3; py-faster-rcnn models/VGG16, "
        "experiments/cfgs/faster_rcnn_end2end.yml",
    ),
    Entry(
        rpn_vgg16_voc,
        what="RPN, VGG-16, VOC 2007 trainval, 80,000 steps: steps 1 and 3 of alternating training",
        schedule="80k",
        source=_ALTERNATING_SOURCE,
    ),
    Entry(
        fast_rcnn_vgg16_voc,
        what="Fast R-CNN, VGG-16, VOC 2007 trainval, 40,000 steps: steps 2 and 4 of alternating "
        "training",
        schedule="40k",
        source=_ALTERNATING_SOURCE,
        published=Published(
            None,
            by="the paper",
            other="after step 4, mAP 69.9 on VOC 2007 test; 73.2 when trained on 07+12",
        ),
    ),
    Entry(
        fasterrcnn_r50_fpn_voc,
        what="Faster R-CNN, R-50-FPN, VOC 2007 and 2012 trainval, 12 epochs",
        schedule="12 epochs",
        source="schedule MMDetection 3.3 configs/pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py (its "
        "4 epochs see every image three times)",
    ),
    Entry(
        rpn_r50_fpn_voc,
        what="RPN, R-50-FPN, VOC 2007 and 2012 trainval, for alternating training",
        schedule="12 epochs",
        source="this project",
    ),
    Entry(
        fast_rcnn_r50_fpn_voc,
        what="Fast R-CNN, R-50-FPN, VOC 2007 and 2012 trainval, for alternating training",
        schedule="12 epochs",
        source="this project",
    ),
)
