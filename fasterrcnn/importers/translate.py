"""Loads a recognized file into our model, and back: every tensor exactly once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.importers.names import IDENTITY, entries, with_current_names
from fasterrcnn.importers.recognize import Recognized
from fasterrcnn.models.any_backbone import is_own
from fasterrcnn.models.build import Detector, build
from fasterrcnn.recipes import Recipe, change, conventions, flat
from fasterrcnn.safe_load.reading import File

_EPSILON = 1e-5  # of every framework's norms
# Tensors in files of frameworks that a model computes itself.
# Heads beside the box head: of Mask R-CNN, Keypoint R-CNN and what builds on them.
_OTHER_HEAD = r"roi_heads?\.(mask|keypoint)(?:_iou)?_(?:head|predictor)\."
_COMPUTED = ("num_batches_tracked", "cell_anchors", "pixel_mean", "pixel_std", "anchor_generator")


def load(file: File, found: Recognized) -> tuple[Detector, dict[str, Any]]:
    """The detector in evaluation mode, and a report: each tensor's source, unused tensors, and the
    heads besides the box head that are left out ("mask", "keypoint").

    Raises CheckpointError if a tensor is missing, unknown or of another shape.
    """
    theirs = with_current_names(file.tensors, found.framework)
    recipe = found.recipe
    model = build(recipe, found.classes.num_classes)
    left = dict(theirs)
    report: dict[str, dict[str, Any]] = {}
    for entry in entries(found.framework, recipe, [*model.state_dict()], found.rpn):
        own = model.state_dict()[entry.ours]
        tensor = left.pop(entry.theirs, None)
        if tensor is None:
            tensor = _missing(file.path, entry.theirs, own)
            report[entry.ours] = {"from": None, "shape": [*own.shape]}
        else:
            report[entry.ours] = {"from": entry.theirs, "shape": [*tensor.shape]}
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{file.path}: {entry.theirs}: {tensor.dtype}: is not a dtype of weights"
            )
        tensor = entry.to_ours(tensor)
        if entry.ours == "rpn.head.cls_logits.weight" and len(tensor) != len(own):
            raise UsageError(
                f"{file.path}: {entry.theirs}: {len(tensor)} anchors per cell, this recipe has "
                f"{len(own)}; give --rpn.anchor-sizes and --rpn.aspect-ratios as in training"
            )
        if found.rows is not None and "box_predictor" in entry.ours:
            per_class = 4 if "bbox_pred" in entry.ours else 1
            tensor = tensor.view(-1, per_class, *tensor.shape[1:])[found.rows].flatten(0, 1)
        if tensor.shape != own.shape:
            raise CheckpointError(
                f"{file.path}: {entry.theirs}: shape {tuple(tensor.shape)}, "
                f"{recipe.backbone.name} as recognized has {tuple(own.shape)}"
            )
        own.copy_(tensor)
    unused = [name for name in left if any(part in name for part in _COMPUTED)]
    others = {name: m[1] for name in left if (m := re.match(_OTHER_HEAD, name))}
    unused += [name for name in others if name not in unused]
    unknown = [name for name in left if name not in unused]
    if unknown:
        raise CheckpointError(
            f"{file.path}: {unknown[0]}: unknown ({len(unknown)} such tensors); this detector has "
            "parts that are not supported"
        )
    return model.eval(), {
        "tensors": report,
        "not_used": [*unused, *file.left_out],
        "heads_left_out": sorted(set(others.values())),
    }


def dump(
    model: Detector, recipe: Recipe, framework: str, rpn: str = "rpn_head"
) -> dict[str, Tensor]:
    """The model's tensors, named and ordered as in `framework`. Raises UsageError if the framework
    would not compute the same with them."""
    check_expressible(recipe, framework)
    state = model.state_dict() | _weights_under_their_epsilon(model)
    tensors = {
        entry.theirs: entry.to_theirs(state[entry.ours]).contiguous()
        for entry in entries(framework, recipe, [*state], rpn)
    }
    if framework == "mmdetection":  # its norms have this counter, which nothing reads
        for name in [n for n in tensors if n.endswith("running_var")]:
            counter = name.removesuffix("running_var") + "num_batches_tracked"
            tensors[counter] = torch.zeros((), dtype=torch.int64)
    if framework == "torchvision":
        tensors |= {n: v for n, v in state.items() if n.endswith("num_batches_tracked")}
    return tensors


def _weights_under_their_epsilon(model: Detector) -> dict[str, Tensor]:
    """Weights of norms with another epsilon than 1e-5, which every framework has: the same scales
    under that one."""
    weights = {}
    for name, norm in model.named_modules():
        if isinstance(norm, (nn.BatchNorm2d, FrozenBatchNorm2d)) and norm.eps != _EPSILON:
            variance = norm.get_buffer("running_var").double()
            factor = ((variance + _EPSILON) / (variance + norm.eps)).sqrt()
            weights[f"{name}.weight"] = (norm.weight.detach().double() * factor).float()
    return weights


# Fields that a framework can configure; all others must be what it always does.
_CONFIGURABLE = {
    "rpn.anchor_sizes", "rpn.aspect_ratios", "rpn.pre_nms_top_n_train", "rpn.pre_nms_top_n_test",
    "rpn.post_nms_top_n_train", "rpn.post_nms_top_n_test", "rpn.nms_thresh", "rpn.fg_iou_thresh",
    "rpn.bg_iou_thresh", "rpn.batch_size_per_image", "rpn.positive_fraction", "rpn.beta",
    "rpn.all_sizes_per_level", "rpn.low_quality_iou", "rpn.score_thresh", "rpn.conv_depth",
    "roi_heads.head", "roi_heads.representation_size", "roi_heads.pool_size",
    "roi_heads.fg_iou_thresh", "roi_heads.bg_iou_thresh", "roi_heads.batch_size_per_image",
    "roi_heads.positive_fraction", "roi_heads.bbox_reg_weights", "roi_heads.beta",
    "roi_heads.score_thresh", "roi_heads.nms_thresh", "roi_heads.detections_per_img",
    "roi_heads.sampling_ratio", "roi_heads.sampler",
}  # fmt: skip
_CASCADE = {"roi_heads.stages", "roi_heads.stage_iou_thresh", "roi_heads.stage_reg_weights"}
_CONFIGURABLE_IN = {  # those that only some can
    "torchvision": set(),
    "mmdetection": _CASCADE | {
        "roi_heads.stage_loss_weights", "roi_heads.class_agnostic", "roi_heads.aligned",
        "roi_heads.box_loss", "roi_heads.box_loss_weight", "roi_heads.head_norm",
        "rpn.border_anchors",
    },
    "detectron2": _CASCADE | {
        "roi_heads.class_agnostic", "roi_heads.aligned", "roi_heads.head_norm",
    },
}  # fmt: skip
_ALWAYS = {"mmdetection": conventions.MMDETECTION, "detectron2": conventions.DETECTRON2,
           "torchvision": {}}  # fmt: skip
_CASCADES = {"mmdetection": conventions.CASCADE_MMDETECTION,
             "detectron2": conventions.CASCADE_DETECTRON2}  # fmt: skip


_STOCK_TORCHVISION = {
    "detector": "faster_rcnn", "backbone.stride_in_1x1": False, "backbone.neck": "fpn",
    "input.channel_order": "rgb", "backbone.deformable": "none",
}  # fmt: skip


def check_expressible(recipe: Recipe, framework: str) -> None:
    """Raise UsageError, naming what `framework` computes differently with any config."""
    base = change(Recipe(name=""), **_ALWAYS[framework])
    if recipe.roi_heads.stages > 1 and framework in _CASCADES:
        base = change(base, **_CASCADES[framework])
    if framework == "mmdetection":  # its allowed_border leaves out both kinds, or none
        base = change(base, rpn=dict(edge_anchors=recipe.rpn.border_anchors))
    here, there = flat(recipe), flat(base)
    configurable = _CONFIGURABLE | _CONFIGURABLE_IN[framework]
    different = [
        f"{name} is {here[name]}, there {there[name]}"
        for name in here
        if name.startswith(("rpn.", "roi_heads.", "input.resize", "input.rounding"))
        and not (recipe.detector == "rpn" and name.startswith("roi_heads."))
        and name not in configurable
        and here[name] != there[name]
    ]
    if framework == "torchvision":
        different += [
            f"{name} is {here[name]}, there {value}"
            for name, value in _STOCK_TORCHVISION.items()
            if here[name] != value
        ]
        if "group" in (recipe.backbone.norm, recipe.backbone.fpn_norm):
            different.append("it has group norm, there batch norm")
    elif recipe.backbone.name in ("mobilenet_v3_large", "vgg16"):
        different.append(f"this network cannot be exported to {framework}")
    if framework == "torchvision" and recipe.roi_heads.stages > 1:
        different.insert(0, f"a cascade of {recipe.roi_heads.stages} box heads, there 1")
    if not is_own(recipe.backbone):
        different.append(f"{recipe.backbone.name} cannot be exported to {framework}")
    if recipe.input.in_channels != 3:
        different.insert(0, f"the input has {recipe.input.in_channels} channels, there 3")
    if recipe.detector == "fast_rcnn":
        different.append("it needs a region proposal network, which fasterrcnn assemble adds")
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise UsageError(
            f"--format: {framework}: would not compute the same: {'; '.join(different[:3])}{more}"
        )


def _missing(path: Path, name: str, own: Tensor) -> Tensor:
    """Statistics of a folded norm, which Detectron2's oldest bodies leave out. Raises
    CheckpointError for any other tensor."""
    leaf = name.rsplit(".", 1)[-1]
    if ".norm." in name and leaf in IDENTITY:
        return torch.full_like(own, IDENTITY[leaf])
    raise CheckpointError(f"{path}: {name}: missing; is the file complete?")
