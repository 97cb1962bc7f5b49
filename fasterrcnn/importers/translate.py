"""Tensors of a recognised file into a model of ours, and back: every one exactly once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.importers.names import IDENTITY, entries, modern
from fasterrcnn.importers.reading import File
from fasterrcnn.importers.recognise import Recognised
from fasterrcnn.models.build import Detector, build
from fasterrcnn.recipes import Recipe, change, conventions, flat

# Tensors that frameworks keep in files although a model makes them itself.
_MADE = ("num_batches_tracked", "cell_anchors", "pixel_mean", "pixel_std", "anchor_generator")


def load(file: File, found: Recognised) -> tuple[Detector, dict[str, Any]]:
    """The model, and a report: of each tensor its source's name and shape, and what was not used.

    Raises CheckpointError for a tensor that is missing, unknown or of another shape.
    """
    theirs = modern(file.tensors) if found.framework == "torchvision" else file.tensors
    recipe = found.recipe
    model = build(recipe, found.classes.num_classes)
    left, report = dict(theirs), {}
    for entry in entries(found.framework, recipe, [*model.state_dict()], found.rpn):
        own = model.state_dict()[entry.ours]
        tensor = left.pop(entry.theirs, None)
        if tensor is None:
            tensor = _missing(file.path, entry.theirs, own)
            report[entry.ours] = {"from": None, "shape": [*own.shape]}
        else:
            report[entry.ours] = {"from": entry.theirs, "shape": [*tensor.shape]}
        if not tensor.is_floating_point():
            raise CheckpointError(f"{file.path}: {entry.theirs}: {tensor.dtype}: is no weight")
        tensor = entry.take(tensor)
        if found.rows is not None and "box_predictor" in entry.ours:
            per_class = 4 if "bbox_pred" in entry.ours else 1
            tensor = tensor.view(-1, per_class, *tensor.shape[1:])[found.rows].flatten(0, 1)
        if tensor.shape != own.shape:
            raise CheckpointError(
                f"{file.path}: {entry.theirs}: shape {tuple(tensor.shape)}, "
                f"{recipe.backbone.name} as recognised has {tuple(own.shape)}"
            )
        own.copy_(tensor)
    unused = [name for name in left if any(part in name for part in _MADE)]
    unknown = [name for name in left if name not in unused]
    if unknown:
        raise CheckpointError(
            f"{file.path}: {unknown[0]}: unknown ({len(unknown)} such tensors); this detector has "
            "parts that are not supported"
        )
    return model.eval(), {"tensors": report, "not_used": unused}


def dump(
    model: Detector, recipe: Recipe, framework: str, rpn: str = "rpn_head"
) -> dict[str, Tensor]:
    """The model's tensors as `framework` names and orders them. Raises UsageError where it could
    not compute the same with them."""
    check_expressible(recipe, framework)
    state = model.state_dict()
    tensors = {
        entry.theirs: entry.give(state[entry.ours]).contiguous()
        for entry in entries(framework, recipe, [*state], rpn)
    }
    if framework == "mmdetection":  # its norms count batches; nobody reads the count
        for name in [n for n in tensors if n.endswith("running_var")]:
            counter = name.removesuffix("running_var") + "num_batches_tracked"
            tensors[counter] = torch.zeros((), dtype=torch.int64)
    if framework == "torchvision":
        tensors |= {n: v for n, v in state.items() if n.endswith("num_batches_tracked")}
    return tensors


def config_text(recipe: Recipe) -> str:
    """What MMDetection's tensors cannot tell, as the config text that its files store."""
    inputs, backbone, rpn, heads = recipe.input, recipe.backbone, recipe.rpn, recipe.roi_heads
    style = "caffe" if backbone.stride_in_1x1 else "pytorch"
    nms = f"nms=dict(type='nms', iou_threshold={rpn.nms_thresh!r})"
    test = (
        f"dict(nms_pre={rpn.pre_nms_top_n_test}, max_per_img={rpn.post_nms_top_n_test}, {nms}, "
        f"min_bbox_size={rpn.min_side!r})"
    )
    box = (
        f"dict(score_thr={heads.score_thresh!r}, nms=dict(type='nms', "
        f"iou_threshold={heads.nms_thresh!r}), max_per_img={heads.detections_per_img})"
    )
    both = f"rpn={test}" + (f", rcnn={box}" if recipe.detector != "rpn" else "")
    return (
        f"model = dict(data_preprocessor=dict(mean={[*inputs.image_mean]}, "
        f"std={[*inputs.image_std]}, bgr_to_rgb={inputs.channel_order == 'rgb'}, "
        f"pad_size_divisor={inputs.size_divisible}), backbone=dict(norm_cfg=dict(type='BN', "
        f"requires_grad={backbone.norm != 'frozen'}), style='{style}'), test_cfg=dict({both}))\n"
    )


# Fields that a framework's own config can say; all others have to be what it always does.
_SAYABLE = {
    "rpn.anchor_sizes", "rpn.aspect_ratios", "rpn.pre_nms_top_n_train", "rpn.pre_nms_top_n_test",
    "rpn.post_nms_top_n_train", "rpn.post_nms_top_n_test", "rpn.nms_thresh", "rpn.fg_iou_thresh",
    "rpn.bg_iou_thresh", "rpn.batch_size_per_image", "rpn.positive_fraction", "rpn.beta",
    "rpn.all_sizes_per_level", "rpn.low_quality_iou", "rpn.score_thresh", "rpn.conv_depth",
    "roi_heads.head", "roi_heads.representation_size", "roi_heads.pool_size",
    "roi_heads.fg_iou_thresh", "roi_heads.bg_iou_thresh", "roi_heads.batch_size_per_image",
    "roi_heads.positive_fraction", "roi_heads.bbox_reg_weights", "roi_heads.beta",
    "roi_heads.score_thresh", "roi_heads.nms_thresh", "roi_heads.detections_per_img",
    "roi_heads.sampling_ratio", "roi_heads.aligned",
}  # fmt: skip
_ALWAYS = {"mmdetection": conventions.MMDETECTION, "detectron2": conventions.DETECTRON2,
           "torchvision": {}}  # fmt: skip


def check_expressible(recipe: Recipe, framework: str) -> None:
    """Raise UsageError that names what `framework` computes differently whatever its config."""
    base = change(Recipe(name=""), **_ALWAYS[framework])
    here, there = flat(recipe), flat(base)
    sayable = _SAYABLE if framework != "torchvision" else _SAYABLE - {"roi_heads.aligned"}
    different = [
        f"{name} is {here[name]}, there {there[name]}"
        for name in here
        if name.startswith(("rpn.", "roi_heads.", "input.resize", "input.rounding"))
        and not (recipe.detector == "rpn" and name.startswith("roi_heads."))
        and name not in sayable
        and here[name] != there[name]
    ]
    if framework == "torchvision":
        if recipe.detector == "rpn":
            different.append("torchvision has no RPN alone")
        if recipe.backbone.stride_in_1x1 or recipe.backbone.neck == "none":
            different.append("torchvision's bodies stride in 3x3 convolutions, under a pyramid")
        if recipe.input.channel_order != "rgb":
            different.append("torchvision's pixels are RGB")
    elif (
        recipe.backbone.name in ("mobilenet_v3_large", "vgg16")
        or recipe.roi_heads.head == "4conv1fc"
    ):
        different.append(f"{framework} has no such network here")
    if recipe.detector == "fast_rcnn":
        different.append("it has a region proposal network; python -m fasterrcnn.assemble adds one")
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise UsageError(
            f"--format: {framework}: would not compute the same: {'; '.join(different[:3])}{more}"
        )


def _missing(path: Path, name: str, own: Tensor) -> Tensor:
    """Detectron2's oldest bodies leave the statistics of folded norms out."""
    leaf = name.rsplit(".", 1)[-1]
    if ".norm." in name and leaf in IDENTITY:
        return torch.full_like(own, IDENTITY[leaf])
    raise CheckpointError(f"{path}: {name}: missing; is the file complete?")
