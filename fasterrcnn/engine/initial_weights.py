"""Initial weights of a run.

In this order, where later ones replace earlier ones:
  1. random weights from the seed (residual branches scaled down under frozen norms);
  2. ``--weights imagenet``: torchvision's ImageNet weights for the body, or
     ``--weights coco``: torchvision's COCO_V1 detector, or
     ``--weights PATH``: a run or checkpoint of this project, a .safetensors or .pth state dict of a
     torchvision-style detector, or an ImageNet body of torchvision, MMDetection, Detectron2 or
     Detectron (.safetensors, .pth, .pkl);
  3. from the box head of a detector only the rows of classes in the data; others stay random. So
     does an RPN's predictor of another number of anchors.

Every setting in which a detector's weights are used otherwise than they were trained is logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from fasterrcnn import recipes
from fasterrcnn.data.annotations import Classes
from fasterrcnn.engine import checkpoint, download
from fasterrcnn.errors import CheckpointError, DownloadError, UsageError
from fasterrcnn.importers.names import body, is_body, with_current_names
from fasterrcnn.models import any_backbone, first_conv
from fasterrcnn.models.any_backbone import AnyBackbone, PlainBackbone
from fasterrcnn.models.backbones import C4, VGG
from fasterrcnn.models.build import Detector, FasterRCNN, FastRCNN
from fasterrcnn.models.stages import Body
from fasterrcnn.models.timm_networks import PREFIX
from fasterrcnn.safe_load import reading

_COCO = FasterRCNN_ResNet50_FPN_Weights.COCO_V1
_HEAD = "roi_heads.box_predictor."
_RPN_PREDICTOR = tuple(
    f"rpn.head.{layer}.{kind}"
    for layer in ("cls_logits", "bbox_pred")
    for kind in ("weight", "bias")
)


@dataclass
class Source:
    """A state dict and, for a detector, the class name of each head row (row 0: background)."""

    tensors: dict[str, Tensor]
    names: list[str] | None
    origin: str
    recipe: recipes.Recipe | None = None

    @property
    def input(self) -> recipes.Input:
        """What it was trained on; RGB, if the file does not say."""
        return self.recipe.input if self.recipe else recipes.Input()


def initialize(model: Detector, recipe: recipes.Recipe, classes: Classes) -> list[str]:
    """Copy the weights named by `recipe.weights` into `model`, in place; returns log lines.

    The lines say which tensors are not loaded. Raises UsageError, DownloadError or CheckpointError.
    """
    if recipe.weights == "none":
        return _rescale_random(model, recipe)
    source = _find(recipe.weights, recipe.backbone)
    if isinstance(model.backbone, (AnyBackbone, PlainBackbone)) and not any(
        name.startswith("backbone.") for name in source.tensors
    ):
        return _load_classifier(model.backbone.body, source, recipe) + _notes(
            source, recipe, ("input.channel_order", "input.image_")
        )
    if is_body(source.tensors):
        return _load_body(model, source, recipe) + _notes(
            source, recipe, ("input.channel_order", "input.image_")
        )
    parts = ["input.", "backbone."]
    parts += [f"{part}." for part in ("rpn", "roi_heads") if hasattr(model, part)]
    log = _load_detector(model, source, classes, recipe)
    if source.recipe is None:
        log.append("note: the file does not say what pixels, sizes and anchors it was trained with")
    return log + _notes(source, recipe, tuple(parts))


def _notes(source: Source, recipe: recipes.Recipe, parts: tuple[str, ...]) -> list[str]:
    """A log line for each difference in `parts` from how the weights were trained, if known."""
    return [
        f"note: differs from the training of these weights: {line}"
        for line in _differences(source.recipe or recipe, recipe)
        if line.startswith(parts)
    ]


def _differences(trained: recipes.Recipe, recipe: recipes.Recipe) -> list[str]:
    """What decides how weights are used and is not as it was when they were trained. Pixel values
    are compared in one unit."""
    before, after = (
        recipes.change(
            r,
            input=dict(
                pixel_scale=1.0,
                image_mean=tuple(round(v * r.input.pixel_scale, 3) for v in r.input.image_mean),
                image_std=tuple(round(v * r.input.pixel_scale, 3) for v in r.input.image_std),
            ),
        )
        for r in (trained, recipe)
    )
    lines = recipes.difference(before, after)
    return [line for line in lines if line.partition(":")[0] in _USE_OF_WEIGHTS]


_USE_OF_WEIGHTS = {
    *(f"input.{name}" for name in (
        "min_size", "max_size", "train_min_sizes", "rounding", "resize", "channel_order",
        "image_mean", "image_std", "size_divisible")),
    *(f"backbone.{name}" for name in ("stride_in_1x1", "norm", "norm_eps", "fpn_norm", "dilation")),
    *(f"rpn.{name}" for name in (
        "anchor_sizes", "all_sizes_per_level", "aspect_ratios", "round_anchors", "anchor_strides",
        "clamp")),
    *(f"roi_heads.{name}" for name in (
        "pooling", "pool_size", "sampling_ratio", "aligned", "level_map", "bbox_reg_weights",
        "stage_reg_weights", "stage_average", "clamp")),
}  # fmt: skip


@torch.no_grad()
def _rescale_random(model: Detector, recipe: recipes.Recipe) -> list[str]:
    """Rescale random weights in place: frozen norms do not normalize their activations. Returns log
    lines."""
    line = "weights: fresh, from the seed"
    if recipe.backbone.norm in ("batch", "group"):
        return [line]
    if isinstance(model.backbone, (AnyBackbone, PlainBackbone)):
        if model.backbone.body.batch_norms():
            raise UsageError(
                f"--weights: none: the batch norms of {recipe.backbone.name} have no statistics "
                f"without trained weights; needs --backbone.norm batch"
            )
        return [line]
    if not isinstance(model.backbone, VGG):
        line += "; frozen norms, so residual branches start scaled by 0.2"
    if recipe.input.pixel_scale * max(recipe.input.image_std) < 2:
        first = next(m for m in model.backbone.body.modules() if isinstance(m, nn.Conv2d))
        first.weight.div_(57)  # ImageNet's std, by which this recipe does not divide pixels
        line += "; the first convolution is scaled by 1/57"
    return [line]


def _find(weights: str, config: recipes.Backbone) -> Source:
    """What ``--weights`` names. Raises UsageError, DownloadError or CheckpointError."""
    if weights == "":
        raise UsageError(
            "--weights: this recipe fine-tunes a detector; give its run folder or its file"
        )
    if weights == "imagenet":
        try:
            if not any_backbone.is_own(config):
                return _published(config.name)
            if config.stride_in_1x1:
                raise KeyError
            url = get_model_weights(config.name)["IMAGENET1K_V1"].url
        except (ValueError, KeyError):
            style = " with strides in 1x1 convolutions" if config.stride_in_1x1 else ""
            raise UsageError(
                f"--weights: imagenet: torchvision publishes none for {config.name}{style}; use "
                "--weights none or a file"
            ) from None
        return Source(_download(url), None, url, recipes.Recipe(name=""))  # its pixel values
    if weights == "coco":
        trained = recipes.change(
            recipes.get("fasterrcnn_r50_fpn_torchvision"), backbone=dict(norm_eps=0.0)
        )
        return Source(_download(_COCO.url), list(_COCO.meta["categories"]), _COCO.url, trained)
    path = Path(weights)
    if path.is_dir():
        path = checkpoint.weights_file(checkpoint.find(path))
    if not path.is_file():
        raise UsageError(
            f"--weights: {weights}: not imagenet, coco, none, a run or a file; a detector of "
            "another framework is imported first: fasterrcnn import"
        )
    if path.suffix == ".safetensors":
        tensors = checkpoint.load_tensors(path)
        if not (path.parent / "state.json").is_file():
            return Source(tensors, None, str(path))
        state = checkpoint.load_state(path.parent)
        return Source(tensors, ["__background__", *state.classes.names], str(path), state.recipe)
    file = reading.read(path)
    tensors = with_current_names(file.tensors, "torchvision")
    rows = len(tensors.get(f"{_HEAD}cls_score.bias", ()))
    coco = list(_COCO.meta["categories"])
    origin = f"{path}, {file.entry} (not {', '.join(file.others)})" if file.others else str(path)
    return Source(tensors, coco if rows == len(coco) else None, origin)


def _published(name: str) -> Source:
    """The default set of a library's ImageNet weights. Raises DownloadError."""
    trained = recipes.change(recipes.Recipe(name=""), **any_backbone.stated(name))
    if name.startswith(PREFIX):
        tensors, origin = any_backbone.published(name)
        return Source(tensors, None, origin, trained)
    url = get_model_weights(name).DEFAULT.url
    return Source(_download(url), None, url, trained)


def _download(url: str) -> dict[str, Tensor]:
    """The state dict at `url`. Raises DownloadError or CheckpointError."""
    try:
        return with_current_names(reading.read(download.cached(url)).tensors, "torchvision")
    except DownloadError as error:
        raise DownloadError(f"{error}; or train from scratch with --weights none") from None


def _load_body(model: Detector, source: Source, recipe: recipes.Recipe) -> list[str]:
    """Copy ImageNet weights into the body, and for C4 and VGG its last layers into the box head, in
    place; the classifier is not used. Returns log lines."""
    parts, names = [model.backbone.body], "body"
    if isinstance(model.backbone, (C4, VGG)) and isinstance(model, (FasterRCNN, FastRCNN)):
        parts, names = [*parts, model.roi_heads.box_head], "body and box head"
    ours = [name for part in parts for name in part.state_dict()]
    tensors = body(source.tensors, ours)
    if recipe.backbone.norm == "group" and any(name.endswith("running_var") for name in tensors):
        raise UsageError(
            f"--weights: {source.origin}: of a body with batch norms; --backbone.norm group takes "
            "a file of one with group norm, or none"
        )
    lines = first_conv.adapt(tensors, model.backbone.body, source.input, recipe.input)
    for part in parts:
        _copy(part, tensors, source.origin)
    log = [f"weights: {names} from {source.origin}, the rest fresh", *lines]
    return log + _not_used({*tensors} - {*ours})


def _not_used(names: set[str]) -> list[str]:
    """The log line about tensors of a file that the model has no place for, if there are any."""
    unused = sorted(name for name in names if not name.endswith("num_batches_tracked"))
    more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
    return [f"weights: not used: {', '.join(unused[:3])}{more}"] if unused else []


def _load_classifier(body: Body, source: Source, recipe: recipes.Recipe) -> list[str]:
    """Copy a classifier's weights into the body, in place. Returns log lines."""
    tensors = any_backbone.named_as(body, source.tensors)
    lines = first_conv.adapt(tensors, body, source.input, recipe.input)
    _copy(body, tensors, source.origin, optional=("level_norms.",))
    return [
        f"weights: body from {source.origin}, the rest fresh",
        *lines,
        *_not_used({*tensors} - {*body.state_dict()}),
    ]


def _load_detector(
    model: Detector, source: Source, classes: Classes, recipe: recipes.Recipe
) -> list[str]:
    """Copy the weights of a detector, in place. Heads that the file lacks stay random, and so do
    box head rows of classes that it does not name. Returns log lines."""
    tensors = dict(source.tensors)
    log = [f"weights: {source.origin}"]
    log += first_conv.adapt(
        tensors, model.backbone.body, source.input, recipe.input, "backbone.body."
    )
    heads = _predictors(model)
    rows = {
        head: {
            key: tensors.pop(f"{head}{key}") for key in _head_keys() if f"{head}{key}" in tensors
        }
        for head in heads
    }
    fresh = [_HEAD]
    if line := _other_anchors(model, tensors):
        fresh += _RPN_PREDICTOR
        log.append(line)
    for prefix, part in (("rpn.", "region proposal network"), ("roi_heads.", "box head")):
        if not any(key.startswith(prefix) for key in tensors):
            fresh.append(prefix)
            if hasattr(model, prefix[:-1]):
                log.append(f"{part}: none in the file, fresh")
    _copy(model, tensors, source.origin, optional=tuple(fresh))
    for head, predictor in heads.items():
        if [*rows[head]] == _head_keys():
            lines = _load_rows(predictor, rows[head], source, classes, head)
            log += [line for line in lines if line not in log]
    if unused := len(source.tensors.keys() - model.state_dict().keys()):
        log.append(f"{unused} tensors of the file not used")
    return log


def _predictors(model: Detector) -> dict[str, nn.Module]:
    """The box predictors, by what the names of their tensors begin with; a cascade has several."""
    if not isinstance(model, (FasterRCNN, FastRCNN)):
        return {}
    predictor = model.roi_heads.box_predictor
    if isinstance(predictor, nn.ModuleList):
        return {f"{_HEAD}{stage}.": module for stage, module in enumerate(predictor)}
    return {_HEAD: predictor}


def _other_anchors(model: Detector, tensors: dict[str, Tensor]) -> str | None:
    """The log line if the file's RPN predicts another number of anchors per cell, so that its
    predictor cannot be used; None if the number is the same or the file is not consistent."""
    counts = []
    for state in (model.state_dict(), tensors):
        logits = state.get("rpn.head.cls_logits.weight")
        if logits is None:
            return None
        rows = [len(state[key]) for key in _RPN_PREDICTOR if key in state]
        counts.append(len(logits))
        if rows != [len(logits), len(logits), 4 * len(logits), 4 * len(logits)]:
            return None
    if counts[0] == counts[1]:
        return None
    return (
        f"region proposal network: {counts[1]} anchors per cell in the file, {counts[0]} here: "
        "fresh predictor"
    )


def _load_rows(
    predictor: nn.Module,
    rows: dict[str, Tensor],
    source: Source,
    classes: Classes,
    head: str,
) -> list[str]:
    """Copy the rows of classes with the same name into `predictor`, whose tensors' names begin with
    `head`, in place; returns log lines."""
    wanted, log = ["__background__", *classes.names], []
    names = source.names or []
    if source.names is None and len(rows["cls_score.bias"]) == len(wanted):
        names = wanted
        log.append(
            "box head: the file has no class names; assumed to be these classes in this order"
        )
    kept = [(i, names.index(name)) for i, name in enumerate(wanted) if name in names]
    own_rows = predictor.state_dict()
    if rows["cls_score.weight"].shape[1:] != own_rows["cls_score.weight"].shape[1:]:
        raise CheckpointError(f"{source.origin}: {head}cls_score.weight: of another width")
    agnostic = [len(part["bbox_pred.bias"]) == 4 for part in (own_rows, rows)]
    if agnostic[0] != agnostic[1]:
        raise CheckpointError(
            f"{source.origin}: {head}bbox_pred.bias: one of the file and this model regresses the "
            "boxes of all classes alike; give --roi-heads.class-agnostic as in its training"
        )
    for key, own in own_rows.items():
        if agnostic[0] and key.startswith("bbox_pred"):
            own.copy_(rows[key])
            continue
        per_class = 4 if key.startswith("bbox_pred") else 1
        mine = own.view(len(wanted), per_class, *own.shape[1:])
        theirs = rows[key].view(-1, per_class, *own.shape[1:])
        for i, j in kept:
            mine[i].copy_(theirs[j])
    found = [wanted[i] for i, _ in kept[1:]]
    fresh = [name for name in classes.names if name not in found]
    return [
        *log,
        f"box head: rows kept for {', '.join(found) or 'background only'}",
        f"box head: fresh rows for {', '.join(fresh) or 'none'}",
    ]


def _head_keys() -> list[str]:
    """Names of the box predictor's tensors."""
    return [
        f"{layer}.{kind}" for layer in ("cls_score", "bbox_pred") for kind in ("weight", "bias")
    ]


def _copy(
    module: nn.Module, tensors: dict[str, Tensor], origin: str, optional: tuple[str, ...] = ()
) -> None:
    """Copy `tensors` into `module`, in place, except names that start with `optional`.

    Raises CheckpointError for a tensor that is missing or of another shape.
    """
    for key, own in module.state_dict().items():
        if key.startswith(optional) or key.endswith("num_batches_tracked"):
            continue
        if not isinstance(module, Detector) and ".conv2_offset." in key:  # not in an ImageNet body
            continue
        if key not in tensors:
            raise CheckpointError(
                f"{origin}: {key}: missing; the file is of another model, or of "
                "another framework: then import it first"
            )
        if tensors[key].shape != own.shape:
            raise CheckpointError(
                f"{origin}: {key}: shape {tuple(tensors[key].shape)}, this model has "
                f"{tuple(own.shape)}; choose the recipe the file was trained with"
            )
        own.copy_(tensors[key])
