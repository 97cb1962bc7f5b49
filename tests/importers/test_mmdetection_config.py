"""MMDetection's stored config: every value that decides the boxes is read, nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.importers import mmdetection_config, mmdetection_text, recognize, translate
from fasterrcnn.importers.recognize import Hints
from fasterrcnn.safe_load.reading import File
from tests.importers import synthetic

# As MMDetection 3.3 stores its configs, of a detector of small things at 640/640 px.
NEW = """
model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[120.0, 115.0, 100.0], std=[60.0, 58.0, 57.0],
        bgr_to_rgb=True, pad_size_divisor=64),
    backbone=dict(
        type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True, eps=0.001), norm_eval=True, style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
    rpn_head=dict(
        type='RPNHead', in_channels=256, feat_channels=256,
        anchor_generator=dict(type='AnchorGenerator', scales=[3], ratios=[0.5, 1.0, 3.0],
                              strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0],
                        target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_bbox=dict(type='SmoothL1Loss', beta=0.25, loss_weight=1.0)),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2, aligned=False),
            out_channels=256, featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(
            type='Shared2FCBBoxHead', num_classes=80,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0],
                            target_stds=[0.05, 0.05, 0.1, 0.1]),
            reg_class_agnostic=False, loss_bbox=dict(type='L1Loss', loss_weight=1.0))),
    train_cfg=dict(
        rpn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.65, neg_iou_thr=0.25),
                 sampler=dict(type='RandomSampler', num=128, pos_fraction=0.4)),
        rpn_proposal=dict(nms_pre=1500, max_per_img=900, nms=dict(type='nms', iou_threshold=0.7)),
        rcnn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.6, neg_iou_thr=0.4),
                  sampler=dict(type='RandomSampler', num=256, pos_fraction=0.3))),
    test_cfg=dict(
        rpn=dict(nms_pre=800, max_per_img=700, nms=dict(type='nms', iou_threshold=0.6),
                 min_bbox_size=2),
        rcnn=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.45), max_per_img=300)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomChoiceResize', scales=[(640, 480), (640, 512)], keep_ratio=True)]
test_dataloader = dict(batch_size=1, dataset=dict(type='CocoDataset', pipeline=[
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(640, 640), keep_ratio=True)]))
x = __import__('os').system('false')
"""
# The same settings as MMDetection 2.x stores them.
OLD = (
    NEW.replace(NEW[NEW.index("    data_preprocessor") : NEW.index("    backbone=")], "").partition(
        "train_pipeline"
    )[0]
    + """
data = dict(
    train=dict(type='RepeatDataset', times=3, dataset=dict(pipeline=[
        dict(type='Resize', img_scale=[(640, 480), (640, 512)], multiscale_mode='value',
             keep_ratio=True)])),
    test=dict(pipeline=[
        dict(type='MultiScaleFlipAug', img_scale=(640, 640), flip=False, transforms=[
            dict(type='Resize', keep_ratio=True),
            dict(type='Normalize', mean=[120.0, 115.0, 100.0], std=[60.0, 58.0, 57.0],
                 to_rgb=True),
            dict(type='Pad', size_divisor=64)])]))
"""
)
EXPECTED: dict[str, Any] = {
    "input.pixel_scale": 1.0, "input.image_mean": (120.0, 115.0, 100.0),
    "input.image_std": (60.0, 58.0, 57.0), "input.channel_order": "rgb",
    "input.size_divisible": 64, "input.min_size": 640, "input.max_size": 640,
    "input.train_min_sizes": (480, 512), "input.train_sampling": "list",
    "backbone.stride_in_1x1": False, "backbone.norm": "affine", "backbone.norm_eps": 0.001,
    "backbone.trainable_layers": 5, "rpn.anchor_sizes": (12, 24, 48, 96, 192),
    "rpn.aspect_ratios": (0.5, 1.0, 3.0), "rpn.beta": 0.25, "rpn.fg_iou_thresh": 0.65,
    "rpn.bg_iou_thresh": 0.25, "rpn.batch_size_per_image": 128, "rpn.positive_fraction": 0.4,
    "rpn.pre_nms_top_n_train": 1500, "rpn.post_nms_top_n_train": 900,
    "rpn.pre_nms_top_n_test": 800, "rpn.post_nms_top_n_test": 700, "rpn.nms_thresh": 0.6,
    "rpn.min_side": 2.0, "roi_heads.pool_size": 7, "roi_heads.sampling_ratio": 2,
    "roi_heads.aligned": False, "roi_heads.bbox_reg_weights": (20.0, 20.0, 10.0, 10.0),
    "roi_heads.beta": 0.0, "roi_heads.fg_iou_thresh": 0.6, "roi_heads.bg_iou_thresh": 0.4,
    "roi_heads.batch_size_per_image": 256, "roi_heads.positive_fraction": 0.3,
    "roi_heads.score_thresh": 0.01, "roi_heads.nms_thresh": 0.45,
    "roi_heads.detections_per_img": 300,
}  # fmt: skip


def stated(text: str):
    return mmdetection_config.read(mmdetection_config.parse(text))


def recognized(text: str, **hints) -> recognize.Recognized:
    """The recipe of a file with this config; on the meta device."""
    shapes = synthetic.mmdetection(detector="faster_rcnn")
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    file = File(Path("x.pth"), tensors, "0" * 64, {"cfg": text})
    return recognize.recognize(file, Hints(**hints))


@pytest.mark.parametrize("text", [NEW, OLD], ids=["3.3", "2.x"])
def test_every_value_is_read(text: str):
    found = stated(text)
    assert found.values == EXPECTED
    assert not found.refused


def test_the_recipe_has_them_and_the_rest_of_the_framework():
    found = recognized(NEW)
    flat = recipes.flat(found.recipe)
    assert {name: flat[name] for name in EXPECTED} == EXPECTED
    assert flat["rpn.round_anchors"] is False
    assert "the file states anchors, image sizes, pixel values, box weights" in found.rule
    assert "by default" not in found.rule
    assert "; anchors, image sizes" in recognized("model = dict(backbone=dict(depth=50))").rule


ANCHORS = "scales=[3], ratios"


@pytest.mark.parametrize(("anchors", "sizes"), [
    ("octave_base_scale=4, scales_per_octave=2, ratios",
     (16, 22.627417, 32, 45.254834, 64, 90.509668, 128, 181.019336, 256, 362.038672)),
    ("scales=[4, 8], ratios", (16, 32, 32, 64, 64, 128, 128, 256, 256, 512)),
    ("scales=[2], base_sizes=[5, 10, 20, 40, 80], ratios", (10, 20, 40, 80, 160)),
])  # fmt: skip
def test_anchors_of_other_kinds(anchors: str, sizes: tuple[float, ...]):
    assert stated(NEW.replace(ANCHORS, anchors)).values["rpn.anchor_sizes"] == sizes


@pytest.mark.parametrize(("old", "new", "message"), [
    ("strides=[4, 8, 16, 32, 64]", "strides=[8, 16, 32, 64, 128]", "anchor_generator.strides is"),
    ("type='AnchorGenerator'", "type='LegacyAnchorGenerator'", "anchor_generator.type is Legacy"),
    (ANCHORS, "center_offset=0.5, scales=[3], ratios", "anchor_generator.center_offset is 0.5"),
    ("target_stds=[1.0, 1.0, 1.0, 1.0]", "target_stds=[0.1, 0.1, 0.1, 0.1]", "rpn_head.target_st"),
    ("(640, 640), keep_ratio=True", "(640, 640), keep_ratio=False", "Resize.keep_ratio"),
    ("nms=dict(type='nms', iou_threshold=0.45)", "nms=dict(type='soft_nms', iou_threshold=0.45)",
     "rcnn.nms.type is soft_nms; only nms"),
    ("num_stages=4", "num_stages=4, strides=(1, 2, 2, 1)", "backbone.strides"),
    ("scales=[3]", "scales=[get()]", r"meta\.cfg: values of other kinds"),
    ("num_outs=5", "num_outs=6", "neck.num_outs is 6; only 5"),
    ("num_classes=80", "num_classes=80, cls_predictor_cfg=dict(type='NormedLinear')",
     "cls_predictor_cfg.type is NormedLinear"),
    ("type='RoIAlign'", "type='RoIPool'", "roi_layer.type is RoIPool"),
], ids=lambda value: None)  # fmt: skip
def test_what_is_not_computed_here_is_refused(old: str, new: str, message: str):
    assert old in NEW
    with pytest.raises(CheckpointError, match=message) as error:
        recognized(NEW.replace(old, new))
    assert str(error.value).startswith("x.pth: ")
    assert "\n" not in str(error.value)


def test_what_the_user_may_say():
    with pytest.raises(UsageError, match=r"--rpn.anchor-sizes: 8,16: x.pth says 12,24,48,96,192"):
        recognized(NEW, fields={"rpn.anchor_sizes": (8, 16)})
    same = recognized(NEW, fields={"rpn.anchor_sizes": (12.0, 24.0, 48.0, 96.0, 192.0)})
    assert same.recipe == recognized(NEW).recipe
    with pytest.raises(UsageError, match=r"--backbone.name: resnet101: x.pth says resnet50"):
        recognized(NEW, fields={"backbone.name": "resnet101"})
    with pytest.raises(UsageError, match=r"--backbone.fpn-channels: 128: x.pth says 256"):
        recognized(NEW, fields={"backbone.fpn_channels": 128})
    partial = NEW.partition("train_pipeline")[0]
    given = {"input.min_size": 320, "input.max_size": 400}
    assert recognized(partial, fields=given).recipe.input.min_size == 320
    several = OLD.replace("img_scale=(640, 640)", "img_scale=[(640, 640), (900, 800)]")
    with pytest.raises(
        UsageError, match=r"tested at 2 sizes; give --input.min-size and --input.ma"
    ):
        recognized(several)
    assert recognized(several, fields=given).recipe.input.max_size == 400
    with pytest.raises(UsageError, match=r"--source: mmdet:.*style pytorch"):
        recognized(NEW, source="mmdet:fasterrcnn_r50_caffe_fpn_1x")
    assert recognized(NEW, source="mmdet:fasterrcnn_r50_fpn_1x").recipe.input.min_size == 640


def test_another_number_of_anchors_than_the_head_has():
    tensors = synthetic.filled(synthetic.mmdetection(detector="rpn"))
    file = File(Path("x.pth"), tensors, "0" * 64, {"cfg": NEW.replace("[0.5, 1.0, 3.0]", "[1.0]")})
    with pytest.raises(UsageError, match=r"rpn_cls.weight: 3 anchors per cell, this recipe has 1"):
        translate.load(file, recognize.recognize(file, Hints()))


@pytest.mark.parametrize("anchors", [
    "scales=[3], ratios", "scales=[4, 8], ratios",
    "scales=[1], base_sizes=[12, 24, 48, 96, 128], ratios",
])  # fmt: skip
def test_an_export_states_what_was_read(anchors: str):
    text = NEW.replace(ANCHORS, anchors).replace("eps=0.001", "eps=0.00001")
    before = recognized(text).recipe
    after = recognized(mmdetection_text.text(before)).recipe
    training = ("train", "fg_iou", "bg_iou", "batch_size", "positive_fraction", "beta")
    differ = recipes.difference(before, after)
    assert all(any(word in line for word in training) for line in differ), differ


def test_anchors_that_mmdetection_cannot_have():
    recipe = recipes.change(
        recipes.get("fasterrcnn_r50_fpn_1x_mmdetection"),
        rpn=dict(anchor_sizes=(16, 32, 32, 64, 64, 128, 128, 256, 300, 512)),
    )
    with pytest.raises(UsageError, match=r"rpn.anchor_sizes: 16,32,"):
        mmdetection_text.text(recipe)
