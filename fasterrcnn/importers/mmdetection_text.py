"""Writes the config of a detector, for what tensors do not determine, as MMDetection stores it."""

from __future__ import annotations

from typing import Any

from fasterrcnn.errors import UsageError
from fasterrcnn.importers.stated import whole
from fasterrcnn.models.group_norm import GROUPS
from fasterrcnn.models.rpn import anchor_sizes
from fasterrcnn.recipes import Backbone, Recipe, RoIHeads, as_text

Config = dict[str, Any]


def text(recipe: Recipe) -> str:
    """The config of a detector that tensors do not determine, as MMDetection's files store it."""
    inputs, heads = recipe.input, recipe.roi_heads
    model: Config = dict(
        data_preprocessor=dict(
            type="DetDataPreprocessor",
            mean=_unscaled(inputs.image_mean, inputs.pixel_scale),
            std=_unscaled(inputs.image_std, inputs.pixel_scale),
            bgr_to_rgb=inputs.channel_order == "rgb",
            pad_size_divisor=inputs.size_divisible,
        ),
        backbone=dict(
            frozen_stages=max(-1, 4 - recipe.backbone.trainable_layers),
            norm_cfg=_norm(recipe.backbone.norm, requires_grad=recipe.backbone.norm != "frozen"),
            norm_eval=recipe.backbone.norm in ("frozen", "affine"),
            style="caffe" if recipe.backbone.stride_in_1x1 else "pytorch",
            **_convolutions(recipe.backbone),
        ),
        rpn_head=_rpn_head(recipe),
    )
    if recipe.backbone.fpn_norm != "none":
        model["neck"] = dict(norm_cfg=_norm(recipe.backbone.fpn_norm))
    if recipe.detector != "rpn":
        model["roi_head"] = dict(
            **_cascade(heads),
            bbox_roi_extractor=dict(
                roi_layer=dict(
                    type="RoIAlign",
                    output_size=heads.pool_size,
                    sampling_ratio=heads.sampling_ratio,
                    aligned=heads.aligned,
                )
            ),
            bbox_head=_box_heads(heads),
        )
        if settings := _train_cfg(recipe):
            model["train_cfg"] = settings
    model["test_cfg"] = _test_cfg(recipe)
    sizes = (inputs.max_size, inputs.min_size)
    pipeline = [dict(type="Resize", scale=sizes, keep_ratio=True)]
    return f"model = {_text(model)}\ntest_pipeline = {_text(pipeline)}\n"


def _norm(kind: str, *, requires_grad: bool = True) -> Config:
    groups = dict(num_groups=GROUPS) if kind == "group" else {}
    return dict(type="GN" if groups else "BN", **groups, requires_grad=requires_grad)


def _convolutions(body: Backbone) -> Config:
    """Those of the last stages, where they are not as in every config."""
    made: Config = {}
    if body.dilation > 1:
        made |= dict(strides=[1, 2, 2, 1], dilations=[1, 1, 1, 2])
    if body.deformable != "none":
        kind = "DCNv2" if body.deformable == "v2" else "DCN"
        made["dcn"] = dict(
            type=kind, deform_groups=body.deformable_groups, fallback_on_stride=False
        )
        made["stage_with_dcn"] = [False, True, True, True]
    return made


def _cascade(heads: RoIHeads) -> Config:
    if heads.stages == 1:
        return {}
    return dict(
        type="CascadeRoIHead",
        num_stages=heads.stages,
        stage_loss_weights=[*heads.stage_loss_weights],
    )


def _box_heads(heads: RoIHeads) -> Config | list[Config]:
    """The box head, or one of each stage."""
    if heads.stages == 1:
        agnostic: Config = dict(reg_class_agnostic=True) if heads.class_agnostic else {}
        coder = _coder(heads.bbox_reg_weights)
        return dict(_layers(heads), **agnostic, bbox_coder=coder, **_box_loss(heads))
    weights = heads.stage_reg_weights
    return [
        dict(
            _layers(heads),
            reg_class_agnostic=True,
            bbox_coder=_coder(weights[i : i + 4]),
            **_box_loss(heads),
        )
        for i in range(0, len(weights), 4)
    ]


def _layers(heads: RoIHeads) -> Config:
    """Where they are not two fully connected ones."""
    if heads.head != "4conv1fc":
        return {}
    return dict(type="Shared4Conv1FCBBoxHead", norm_cfg=_norm(heads.head_norm))


def _box_loss(heads: RoIHeads) -> Config:
    """Where it is not that of the deltas."""
    kinds = {"iou": "IoULoss", "giou": "GIoULoss", "bounded_iou": "BoundedIoULoss"}
    if heads.box_loss not in kinds:
        return {}
    loss = dict(type=kinds[heads.box_loss], loss_weight=heads.box_loss_weight)
    return dict(reg_decoded_bbox=True, loss_bbox=loss)


def _coder(weights: tuple[float, ...]) -> Config:
    stds = [1 / weight for weight in weights]
    return dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stds)


def _train_cfg(recipe: Recipe) -> Config:
    """What is not as in every config."""
    settings: Config = {}
    cascade = recipe.roi_heads.stages > 1
    if cascade or not recipe.rpn.border_anchors:
        settings["rpn"] = dict(allowed_border=-1 if recipe.rpn.border_anchors else 0)
    if cascade:
        settings["rcnn"] = [
            dict(assigner=dict(type="MaxIoUAssigner", pos_iou_thr=iou, neg_iou_thr=iou,
                               min_pos_iou=iou))
            for iou in recipe.roi_heads.stage_iou_thresh
        ]  # fmt: skip
    return settings


def _rpn_head(recipe: Recipe) -> Config:
    several = dict(num_convs=recipe.rpn.conv_depth) if recipe.rpn.conv_depth > 1 else {}
    return dict(
        **several,
        anchor_generator=_anchors(recipe),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
    )


def _anchors(recipe: Recipe) -> Config:
    """Anchor sizes as base sizes, which are the strides by default, times scales. Raises UsageError
    for sizes that are no such products."""
    strides = [16] if recipe.backbone.neck == "none" else [4, 8, 16, 32, 64]
    levels = anchor_sizes(recipe.rpn, len(strides))
    generator: Config = dict(type="AnchorGenerator", ratios=[*recipe.rpn.aspect_ratios])
    scales = [whole(size / strides[0]) for size in levels[0]]
    if all(
        level == tuple(whole(stride * scale) for scale in scales)
        for level, stride in zip(levels, strides, strict=True)
    ):
        return dict(generator, scales=scales, strides=strides)
    if len(levels[0]) == 1:
        return dict(
            generator, scales=[1], strides=strides, base_sizes=[sizes[0] for sizes in levels]
        )
    raise UsageError(
        f"--format: mmdetection: rpn.anchor_sizes: {as_text(recipe.rpn.anchor_sizes)}: several on "
        "a level must be the same multiples of its stride on all"
    )


def _test_cfg(recipe: Recipe) -> Config:
    rpn, heads = recipe.rpn, recipe.roi_heads
    test: Config = dict(
        rpn=dict(
            nms_pre=rpn.pre_nms_top_n_test,
            max_per_img=rpn.post_nms_top_n_test,
            nms=dict(type="nms", iou_threshold=rpn.nms_thresh),
            min_bbox_size=rpn.min_side,
        )
    )
    if recipe.detector != "rpn":
        test["rcnn"] = dict(
            score_thr=heads.score_thresh,
            nms=dict(type="nms", iou_threshold=heads.nms_thresh),
            max_per_img=heads.detections_per_img,
        )
    return test


def _unscaled(values: tuple[float, ...], scale: float) -> list[float]:
    """`values` of scaled pixels in the unit of 8-bit ones."""
    return [whole(value * scale) for value in values]


def _text(value: Any) -> str:
    """A literal in MMDetection's own form: ``dict(a=..., b=[...])``."""
    if isinstance(value, dict):
        return f"dict({', '.join(f'{name}={_text(item)}' for name, item in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return repr(value)
