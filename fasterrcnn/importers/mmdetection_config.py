"""Reads the config that MMDetection stores in its files as text, which is parsed, never run.

Sources: `configs/_base_` and the defaults in `mmdet/models` of MMDetection 3.3, and of 2.x where
names differ.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from fasterrcnn.importers.stated import Stated, whole
from fasterrcnn.models.group_norm import GROUPS

Config = dict[str, Any]


def parse(text: Any) -> Config:
    """Top-level names and literal values of the stored config; {} without one. Runs nothing."""
    if not isinstance(text, str) or len(text) > 1 << 20:
        return {}
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {
        node.targets[0].id: _literal(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _literal(node: ast.expr) -> Any:
    """The value of ``dict(a=1)``, lists, tuples and constants; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_literal(key) if key is not None else None for key in node.keys]
        return {
            k: _literal(v) for k, v in zip(keys, node.values, strict=True) if isinstance(k, str)
        }
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {k.arg: _literal(k.value) for k in node.keywords if k.arg is not None}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        return -value if isinstance(value, (int, float)) else None
    return None


def read(config: Config) -> Stated:
    """What `config` says of a detector, as fields of a recipe."""
    stated, model = Stated(), _dict(config, "model")
    pipeline = list(_steps(config, "test")) or list(_steps(config, "val"))
    _pixels(stated, config, model, pipeline)
    _test_size(stated, pipeline)
    _train_sizes(stated, list(_steps(config, "train")))
    _body(stated, _dict(model, "backbone"))
    _neck(stated, _dict(model, "neck"))
    _rpn(stated, _dict(model, "rpn_head"))
    heads = _dict(model, "roi_head") or model  # before 2.0 the model held the heads itself
    _roi_align(stated, next(iter(_dicts(heads, "bbox_roi_extractor")), {}))
    _box_heads(stated, heads)
    for name, suffix in (("train_cfg", "_train"), ("test_cfg", "_test")):
        _settings(stated, _dict(model, name) or _dict(config, name), suffix)
    return stated


def _dict(values: Any, name: str) -> Config:
    """``values[name]`` if it is a dict, else {}."""
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, dict) else {}


def _dicts(values: Any, name: str) -> list[Config]:
    """The dicts of the list ``values[name]``, or the only dict that it is."""
    value = values.get(name) if isinstance(values, dict) else None
    return [
        item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)
    ]


def _steps(config: Config, split: str) -> Iterator[Config]:
    """The steps of the pipeline of `split`, those inside others (MultiScaleFlipAug) too."""
    dataset = _dict(_dict(config, f"{split}_dataloader"), "dataset") or _dict(
        _dict(config, "data"), split
    )
    while not dataset.get("pipeline") and _dict(dataset, "dataset"):  # of RepeatDataset and others
        dataset = _dict(dataset, "dataset")
    yield from _flat(dataset.get("pipeline") or config.get(f"{split}_pipeline"))


def _flat(steps: Any) -> Iterator[Config]:
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict):
            yield step
            yield from _flat(step.get("transforms"))


def _pixels(stated: Stated, config: Config, model: Config, pipeline: list[Config]) -> None:
    """Mean, standard deviation, channel order and padding; images are read as BGR."""
    norm = next((s for s in pipeline if s.get("type") == "Normalize"), None)
    preprocessor = _dict(model, "data_preprocessor") or _dict(config, "data_preprocessor")
    values = preprocessor or norm or _dict(config, "img_norm_cfg")
    if not values:
        return
    stated.put("input.pixel_scale", 1.0)
    stated.put("input.image_mean", _floats(values.get("mean") or [0.0] * 3))
    stated.put("input.image_std", _floats(values.get("std") or [1.0] * 3))
    if preprocessor:
        rgb = bool(values.get("bgr_to_rgb") or values.get("rgb_to_bgr"))
        stated.put("input.size_divisible", values.get("pad_size_divisor", 1))
    else:
        rgb = bool(values.get("to_rgb", True))
        pad = next((s for s in pipeline if s.get("type") == "Pad"), {})
        stated.put("input.size_divisible", pad.get("size_divisor"))
    stated.put("input.channel_order", "rgb" if rgb else "bgr")


def _scales(step: Config) -> list[list[int]]:
    """The sizes that a resizing step names, as [short, long]."""
    found = step.get("scale", step.get("scales", step.get("img_scale")))
    pairs = found if isinstance(found, list) and isinstance(found[0], list) else [found]
    return [sorted(p) for p in pairs if isinstance(p, list) and len(p) == 2 and min(p) > 0]


def _test_size(stated: Stated, pipeline: list[Config]) -> None:
    fields = ("input.min_size", "input.max_size")
    scales = [scale for step in pipeline for scale in _scales(step)]
    for step in pipeline:
        if step.get("type") == "Resize":  # by default as in 3.x, where it names its scale, or 2.x
            kept = step.get("keep_ratio", "scale" not in step)
            stated.must_be("Resize.keep_ratio", kept, True)
    if len(set(map(tuple, scales))) > 1:
        stated.leave_open(fields, f"images are tested at {len(scales)} sizes")
    elif scales:
        for field, side in zip(fields, scales[0], strict=True):
            stated.put(field, side)


def _train_sizes(stated: Stated, pipeline: list[Config]) -> None:
    """Short sides in training, where they are a list or a range below one longest side."""
    for step in pipeline:
        scales = _scales(step)
        if scales and "Resize" in str(step.get("type")):
            shorts = sorted({short for short, _ in scales})
            largest = stated.values.get("input.min_size", 0)
            is_range = step["type"] == "RandomResize" or step.get("multiscale_mode") == "range"
            fits = len({long for _, long in scales}) == 1 and shorts[-1] <= largest
            shorts = shorts if fits and len(shorts) > 1 else []
            stated.put("input.train_min_sizes", tuple(shorts))
            sampling = "range" if shorts and (is_range or "img_scale" in step) else "list"
            if step.get("multiscale_mode") == "value":
                sampling = "list"
            stated.put("input.train_sampling", sampling)
            return


def _body(stated: Stated, body: Config) -> None:
    if body:
        stated.put("backbone.stride_in_1x1", body.get("style") == "caffe")
    norm = _dict(body, "norm_cfg")
    if norm.get("type") == "GN":
        stated.put("backbone.norm", "group")
        stated.must_be("backbone.norm_cfg.num_groups", norm.get("num_groups"), GROUPS)
    elif "requires_grad" in norm:
        stated.put("backbone.norm", "affine" if norm["requires_grad"] else "frozen")
    if body.get("norm_eval") is False and norm.get("type") != "GN":
        stated.put("backbone.norm", "batch")
    stated.put("backbone.norm_eps", norm.get("eps"))
    if isinstance(frozen := body.get("frozen_stages"), int):
        stated.put("backbone.trainable_layers", 5 if frozen < 0 else 4 - frozen)
    stages = body.get("num_stages", 4)
    dilated = body.get("dilations") == [1, 1, 1, 2]  # DC5, whose last stage has no stride
    strides = [1, 2, 2, 1] if dilated else [1, 2, 2, 2][:stages]
    stated.must_be("backbone.strides", body.get("strides"), strides)
    if dilated:
        stated.put("backbone.dilation", 2)
    else:
        stated.must_be("backbone.dilations", body.get("dilations"), [1] * stages)
    if deformable := _dict(body, "dcn"):
        versions = {"DCN": "v1", "DCNv2": "v2"}
        kind = deformable.get("type")
        stated.must_be("backbone.dcn.type", kind if kind not in versions else None, [*versions])
        stated.put("backbone.deformable", versions.get(str(kind)))
        stated.put("backbone.deformable_groups", deformable.get("deform_groups"))
        at = body.get("stage_with_dcn")
        stated.must_be("backbone.stage_with_dcn", at, [False, True, True, True])
        stated.must_be("dcn.fallback_on_stride", deformable.get("fallback_on_stride"), False)


def _neck(stated: Stated, neck: Config) -> None:
    stated.must_be("neck.type", neck.get("type"), "FPN")
    for name, only in (("num_outs", 5), ("start_level", 0), ("end_level", -1),
                       ("add_extra_convs", False)):  # fmt: skip
        stated.must_be(f"neck.{name}", neck.get(name), only)
    stated.must_be("neck.upsample_cfg.mode", _dict(neck, "upsample_cfg").get("mode"), "nearest")


def _rpn(stated: Stated, head: Config) -> None:
    """Anchors: base size (the stride) times scale. Scales per octave are RetinaNet's."""
    old = {"scales": "anchor_scales", "ratios": "anchor_ratios", "strides": "anchor_strides",
           "base_sizes": "anchor_base_sizes"}  # fmt: skip
    anchors = _dict(head, "anchor_generator") or {
        new: head[name] for new, name in old.items() if head.get(name)
    }
    stated.must_be("anchor_generator.type", anchors.get("type"), "AnchorGenerator")
    strides = [s[0] if isinstance(s, list) else s for s in anchors.get("strides") or []]
    expected = [16] if len(strides) == 1 else [4, 8, 16, 32, 64]
    stated.must_be("anchor_generator.strides", strides or None, expected)
    scales = anchors.get("scales")
    if scales is None and anchors.get("octave_base_scale"):
        octaves = anchors.get("scales_per_octave") or 1
        scales = [anchors["octave_base_scale"] * 2 ** (i / octaves) for i in range(octaves)]
    if strides and scales:
        bases = anchors.get("base_sizes") or strides
        sizes = tuple(whole(base * scale) for base in bases for scale in scales)
        stated.put("rpn.anchor_sizes", sizes)
    if anchors.get("ratios"):
        stated.put("rpn.aspect_ratios", _floats(anchors["ratios"]))
    for name, only in (("scale_major", True), ("center_offset", 0), ("centers", None)):
        stated.must_be(f"anchor_generator.{name}", anchors.get(name), only)
    coder = _dict(head, "bbox_coder") or head
    stated.must_be("rpn_head.target_means", coder.get("target_means"), [0] * 4)
    stated.must_be("rpn_head.target_stds", coder.get("target_stds"), [1] * 4)
    _coder(stated, coder, "rpn_head")
    sigmoid = _dict(head, "loss_cls").get("use_sigmoid")
    stated.must_be("rpn_head.loss_cls.use_sigmoid", sigmoid, True)
    stated.put("rpn.beta", _beta(_dict(head, "loss_bbox")))
    stated.put("rpn.conv_depth", head.get("num_convs"))


def _roi_align(stated: Stated, extractor: Config) -> None:
    layer = _dict(extractor, "roi_layer")
    stated.must_be("bbox_roi_extractor.type", extractor.get("type"), "SingleRoIExtractor")
    stated.must_be("roi_layer.type", layer.get("type"), "RoIAlign")
    stated.must_be("roi_layer.pool_mode", layer.get("pool_mode"), "avg")
    stated.must_be("bbox_roi_extractor.finest_scale", extractor.get("finest_scale"), 56)
    levels = extractor.get("featmap_strides")
    stated.must_be("featmap_strides", levels, [16] if levels == [16] else [4, 8, 16, 32])
    size = layer.get("output_size", layer.get("out_size"))
    stated.put("roi_heads.pool_size", size[0] if isinstance(size, list) else size)
    stated.put("roi_heads.sampling_ratio", layer.get("sampling_ratio", layer.get("sample_num")))
    stated.put("roi_heads.aligned", layer.get("aligned"))


def _box_heads(stated: Stated, heads: Config) -> None:
    """One head, or those of a cascade."""
    found = _dicts(heads, "bbox_head")
    weights = [weight for head in found for weight in _box_head(stated, head)]
    cascade = len(found) > 1
    if weights:
        name = "stage_reg_weights" if cascade else "bbox_reg_weights"
        stated.put(f"roi_heads.{name}", tuple(weights))
    for head in found:
        agnostic = head.get("reg_class_agnostic")
        if cascade:
            stated.must_be("bbox_head.reg_class_agnostic", bool(agnostic), True)
        else:
            stated.put("roi_heads.class_agnostic", agnostic or None)
    factors = heads.get("stage_loss_weights")
    if cascade and isinstance(factors, list):
        stated.put("roi_heads.stage_loss_weights", _floats(factors))


def _box_head(stated: Stated, head: Config) -> list[float]:
    """The box weights, [] if the config does not say them."""
    coder = _dict(head, "bbox_coder") or head
    stated.must_be("bbox_head.target_means", coder.get("target_means"), [0] * 4)
    weights = [float(whole(1 / std)) for std in coder.get("target_stds") or []]
    _coder(stated, coder, "bbox_head")
    sigmoid = _dict(head, "loss_cls").get("use_sigmoid")
    stated.must_be("bbox_head.loss_cls.use_sigmoid", sigmoid, False)
    for name in ("cls_predictor_cfg", "reg_predictor_cfg"):
        stated.must_be(f"bbox_head.{name}.type", _dict(head, name).get("type"), "Linear")
    loss = _dict(head, "loss_bbox")
    stated.put("roi_heads.beta", _beta(loss))
    if kind := _BOX_LOSSES.get(str(loss.get("type"))):
        stated.put("roi_heads.box_loss", kind)
        stated.must_be("bbox_head.reg_decoded_bbox", bool(head.get("reg_decoded_bbox")), True)
        if kind == "iou":
            stated.must_be("bbox_head.loss_bbox.mode", loss.get("mode"), "log")
            stated.must_be("bbox_head.loss_bbox.linear", loss.get("linear"), False)
    if kind or loss.get("loss_weight", 1.0) != 1.0:
        stated.put("roi_heads.box_loss_weight", loss.get("loss_weight"))
    return weights


_BOX_LOSSES = {"IoULoss": "iou", "GIoULoss": "giou", "BoundedIoULoss": "bounded_iou"}


def _coder(stated: Stated, coder: Config, name: str) -> None:
    """What decodes deltas: DeltaXYWHBBoxCoder as it is by default."""
    kind = coder.get("type")
    if "bbox_coder" not in coder and str(kind).endswith("BBoxCoder"):
        stated.must_be(f"{name}.bbox_coder.type", kind, "DeltaXYWHBBoxCoder")
    stated.must_be(f"{name}.clip_border", coder.get("clip_border"), True)
    stated.must_be(f"{name}.add_ctr_clamp", coder.get("add_ctr_clamp"), False)


def _beta(loss: Config) -> float | None:
    """Where a box loss turns from quadratic to linear; None for other losses, which training here
    does not have."""
    if loss.get("type") == "SmoothL1Loss":
        return float(loss.get("beta", 1.0))
    return 0.0 if loss.get("type") == "L1Loss" else None


# Their names, where the two differ in train_cfg and test_cfg by the suffix, and the fields.
_PROPOSALS = {
    "nms_pre": ("pre_nms_top_n{}", int),
    "max_num": ("post_nms_top_n{}", int),  # before 2.8
    "max_per_img": ("post_nms_top_n{}", int),
    "nms_thr": ("nms_thresh", float),  # before 2.8
    "iou_threshold": ("nms_thresh", float),
    "min_bbox_size": ("min_side", float),
}
_DETECTIONS = {
    "score_thr": ("score_thresh", float),
    "iou_thr": ("nms_thresh", float),  # before 2.8
    "iou_threshold": ("nms_thresh", float),
    "max_per_img": ("detections_per_img", int),
}
_SAMPLING = {
    "pos_iou_thr": ("fg_iou_thresh", float),
    "neg_iou_thr": ("bg_iou_thresh", float),
    "num": ("batch_size_per_image", int),
    "pos_fraction": ("positive_fraction", float),
}


def _settings(stated: Stated, values: Config, suffix: str) -> None:
    """Fields of ``train_cfg`` or ``test_cfg``; proposals share one NMS, that of the test."""
    rpn, stages = _dict(values, "rpn"), _dicts(values, "rcnn")
    boxes = stages[0] if stages else {}
    if suffix == "_train":
        proposals = _dict(values, "rpn_proposal")
        counts = {k: v for k, v in proposals.items() if k in ("nms_pre", "max_num", "max_per_img")}
        _put_all(stated, "rpn", counts, _PROPOSALS, suffix)
        _put_all(stated, "rpn", rpn, _SAMPLING, "")
        _put_all(stated, "roi_heads", boxes, _SAMPLING, "")
        if "allowed_border" in rpn:
            if rpn["allowed_border"] != -1:
                stated.must_be("rpn.allowed_border", rpn["allowed_border"], 0)
            stated.put("rpn.border_anchors", rpn["allowed_border"] < 0)
            stated.put("rpn.edge_anchors", rpn["allowed_border"] < 0)
        if len(stages) > 1:
            for name in ("fg_iou_thresh", "bg_iou_thresh"):
                stated.values.pop(f"roi_heads.{name}", None)
            thresholds = [_dict(stage, "assigner").get("pos_iou_thr") for stage in stages]
            if None not in thresholds:
                stated.put("roi_heads.stage_iou_thresh", _floats(thresholds))
        return
    _put_all(stated, "rpn", rpn, _PROPOSALS, suffix)
    _put_all(stated, "roi_heads", boxes, _DETECTIONS, "")
    stated.must_be("rpn.nms_across_levels", rpn.get("nms_across_levels"), False)
    for name, group in (("rpn", rpn), ("rcnn", boxes)):
        stated.must_be(f"{name}.nms.type", _dict(group, "nms").get("type"), "nms")
        stated.must_be(f"{name}.nms.class_agnostic", _dict(group, "nms").get("class_agnostic"),
                       False)  # fmt: skip


def _put_all(
    stated: Stated,
    group: str,
    values: Config,
    known: dict[str, tuple[str, type]],
    suffix: str,
) -> None:
    """The `known` numbers of `values`, those inside its assigner, sampler and NMS too."""
    flat = dict(values)
    for name in ("nms", "assigner", "sampler"):
        flat |= _dict(values, name)
    for name, (field, kind) in known.items():
        if isinstance(flat.get(name), (int, float)):
            stated.put(f"{group}.{field.format(suffix)}", kind(flat[name]))


def _floats(values: list[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))
