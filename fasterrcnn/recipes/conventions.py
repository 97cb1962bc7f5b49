"""What frameworks define differently, as changes of a recipe's groups; torchvision is the default.

Read from MMDetection 3.3 (`configs/_base_`, `mmdet/models`), MMEngine's schedulers and Detectron2
0.6 (`config/defaults.py`, `configs/Base-RCNN-*.yaml`, `modeling`). What is no field makes no
difference: that MMDetection suppresses in pixels of the original image (IoU does not depend on the
units of x and y), that ground truth stands before or after the proposals it joins.
"""

from __future__ import annotations

from typing import Any

Changes = dict[str, dict[str, Any]]  # group -> field -> value, as `changes.change` takes them

_IMAGENET = dict(
    pixel_scale=1.0,
    image_mean=(123.675, 116.28, 103.53),
    image_std=(58.395, 57.12, 57.375),
)
_BGR_MEAN = (103.53, 116.28, 123.675)

MMDETECTION: Changes = dict(
    input=dict(_IMAGENET, rounding="nearest", resize="opencv"),
    backbone=dict(norm="affine"),
    rpn=dict(
        round_anchors=False,
        anchor_strides="fixed",
        post_nms_top_n_train=1000,
        topk_by="scores",
        clamp="both",
        min_side=0.0,
        low_quality_iou=0.3,
        low_quality_gt="best",
        padding_anchors=False,
        beta=0.0,
    ),
    roi_heads=dict(
        sampling_ratio=0,
        aligned=True,
        level_map="mmdetection",
        clamp="both",
        beta=0.0,
        min_side=0.0,
    ),
    data=dict(min_image_side=32),
    # Linear from 0.001 over iterations 0 to 499: MMEngine counts both ends of `end=500`.
    schedule=dict(warmup_steps=499),
)

DETECTRON2: Changes = dict(
    input=dict(
        rounding="nearest",
        resize="pillow",
        channel_order="bgr",
        pixel_scale=1.0,
        image_mean=_BGR_MEAN,
        image_std=(1.0, 1.0, 1.0),
        train_min_sizes=(640, 672, 704, 736, 768, 800),
    ),
    backbone=dict(stride_in_1x1=True),
    rpn=dict(
        round_anchors=False,
        anchor_strides="fixed",
        post_nms_top_n_train=1000,
        min_side=0.0,
        beta=0.0,
        normalizer="batch-size",
    ),
    roi_heads=dict(
        sampling_ratio=0,
        aligned=True,
        level_map="detectron2",
        beta=0.0,
        min_side=0.0,
        drop_empty=True,
    ),
    schedule=dict(warmup_steps=1000, decay_norms=False),
)

# One feature level of stride 16, of a last stage without stride, whose convolutions are dilated.
DC5: Changes = dict(
    backbone=dict(neck="none", dilation=2),
    rpn=dict(
        all_sizes_per_level=True,
        pre_nms_top_n_train=12000,
        pre_nms_top_n_test=6000,
        post_nms_top_n_train=2000,
    ),
)

# Three stages, as of the two frameworks' own configs.
CASCADE_MMDETECTION: Changes = dict(
    rpn=dict(post_nms_top_n_train=2000, border_anchors=False, edge_anchors=False, beta=1 / 9),
    roi_heads=dict(
        stages=3,
        # Of stds 0.1 and 0.2, 0.05 and 0.1, 0.033 and 0.067.
        stage_reg_weights=(
            *(10.0, 10.0, 5.0, 5.0),
            *(20.0, 20.0, 10.0, 10.0),
            *(30.30303, 30.30303, 14.925373, 14.925373),
        ),
        stage_loss_weights=(1.0, 0.5, 0.25),
        stage_average="logits",
        stage_sampling="each",
        stage_gradients="sum",
        beta=1.0,
    ),
)
CASCADE_DETECTRON2: Changes = dict(rpn=dict(post_nms_top_n_train=2000), roi_heads=dict(stages=3))

# Bodies other than ResNet-50, in torchvision's names.
R101: Changes = dict(backbone=dict(name="resnet101"))
X101_32X4D: Changes = dict(backbone=dict(name="resnext101_32x4d"))
X101_64X4D: Changes = dict(backbone=dict(name="resnext101_64x4d"))
# Detectron2's ResNeXt-101-32x8d: BGR pixels of unit variance, strides in the 3x3 convolution.
X101_32X8D: Changes = dict(
    input=dict(channel_order="bgr", image_mean=_BGR_MEAN, image_std=(57.375, 57.12, 58.395)),
    backbone=dict(name="resnext101_32x8d", stride_in_1x1=False),
)

# Bodies that were trained by Caffe: BGR pixels of unit scale, strides in the 1x1 convolution.
CAFFE_STYLE: Changes = dict(
    input=dict(channel_order="bgr", image_mean=_BGR_MEAN, image_std=(1.0, 1.0, 1.0)),
    backbone=dict(norm="frozen", stride_in_1x1=True),
)

# One feature level of stride 16; the body's last stage is the box head.
C4: Changes = dict(
    backbone=dict(neck="none"),
    rpn=dict(
        all_sizes_per_level=True,
        pre_nms_top_n_train=12000,
        pre_nms_top_n_test=6000,
        post_nms_top_n_train=2000,
    ),
    roi_heads=dict(head="res5", pool_size=14),
)
