"""The demo: small detectors trained from scratch on synthetic shapes, in minutes on a CPU."""

from __future__ import annotations

from fasterrcnn.recipes.changes import change
from fasterrcnn.recipes.fields import Backbone, Data, Input, Recipe, Schedule
from fasterrcnn.recipes.head_fields import RPN, RoIHeads
from fasterrcnn.recipes.zoo.entry import Entry


def fasterrcnn_r10_fpn_shapes() -> Recipe:
    """The structure of `fasterrcnn_r50_fpn_1x` with one residual block per stage, trained batch
    norm, narrower pyramid and head, and sizes in proportion to images of 160 px."""
    return Recipe(
        name="fasterrcnn_r10_fpn_shapes",
        weights="none",
        input=Input(min_size=128, max_size=160),
        backbone=Backbone(name="resnet10", norm="batch", trainable_layers=5, fpn_channels=64),
        rpn=RPN(
            anchor_sizes=(12, 24, 48, 96, 128),
            pre_nms_top_n_train=300,
            pre_nms_top_n_test=200,
            post_nms_top_n_train=200,
            post_nms_top_n_test=100,
            batch_size_per_image=64,
        ),
        roi_heads=RoIHeads(
            representation_size=256,
            sampling_ratio=1,
            batch_size_per_image=48,
            positive_fraction=0.5,
        ),
        data=Data(keep_empty=True),
        schedule=Schedule(
            epochs=4.25,
            milestones=(3.5, 4.0),
            lr=0.02,
            warmup_steps=50,
            images_per_step=4,
            images_per_gpu=4,
            clip_grad_norm=10.0,
        ),
    )


def rpn_r10_fpn_shapes() -> Recipe:
    """The demo's region proposal network alone."""
    return change(
        fasterrcnn_r10_fpn_shapes(),
        name="rpn_r10_fpn_shapes",
        detector="rpn",
        rpn=dict(pre_nms_top_n_test=1000, post_nms_top_n_test=1000, batch_size_per_image=128),
        schedule=dict(epochs=10.0, milestones=(8.0, 9.5)),
    )


def fast_rcnn_r10_fpn_shapes() -> Recipe:
    """The demo's box head on stored proposals."""
    return change(
        fasterrcnn_r10_fpn_shapes(), name="fast_rcnn_r10_fpn_shapes", detector="fast_rcnn"
    )


ENTRIES = (
    Entry(
        fasterrcnn_r10_fpn_shapes,
        what="the demo: a small Faster R-CNN from scratch on synthetic shapes, minutes on two CPU "
        "cores",
        schedule="4.25 epochs",
        source="this project",
        measured="box AP 60.7, AP50 83.4 in 5:04 min (docs/measurements.md)",
    ),
    Entry(
        rpn_r10_fpn_shapes,
        what="the demo's region proposal network alone",
        schedule="10 epochs",
        source="this project",
        measured="AR100 62.6, AR1000 64.8 in 12:41 min beside another process "
        "(docs/measurements.md)",
    ),
    Entry(
        fast_rcnn_r10_fpn_shapes,
        what="the demo's box head on stored proposals, for alternating training",
        schedule="4.25 epochs",
        source="this project",
    ),
)
