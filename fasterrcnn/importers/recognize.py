"""Recognizes the framework, recipe and classes of a detector published as a checkpoint file.

Names and shapes of tensors decide, never the file's name. What they leave open is taken, in this
order, from the name of a published file, from what the file states (`mmdetection_config`,
`detectron2_buffers`), from the user's flags, and from `--source` or the defaults of the framework's
model zoo. What contradicts is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from fasterrcnn import recipes
from fasterrcnn.data.annotations import Classes
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.importers import detectron2_buffers, mmdetection_config
from fasterrcnn.importers.names import entries, with_current_names
from fasterrcnn.importers.network import (
    Network,
    box_rows,
    deformable,
    framework_of,
    network_of,
)
from fasterrcnn.importers.published import PREFIXES, name_of, prefix_of, recipe_of
from fasterrcnn.importers.stated import Stated, settled
from fasterrcnn.recipes import Recipe, change
from fasterrcnn.safe_load.reading import File

_NAMES = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]  # by category id
_IDS = tuple(i for i, name in enumerate(_NAMES) if i > 0 and name != "N/A")
COCO = Classes(tuple(_NAMES[i] for i in _IDS), _IDS)
# First digits of the SHA-256 of torchvision's COCO_V1 of Faster, Mask and Keypoint R-CNN; the norms
# of these R-50 have epsilon 0.
_COCO_V1 = ("258fb6c6", "bf2d0c1e", "fc266e95")


@dataclass
class Hints:
    """What the user says of a file."""

    source: str | None = None  # ``mmdet:NAME``
    names: tuple[str, ...] = ()  # of the classes
    fields: dict[str, Any] = field(default_factory=dict)  # of the recipe, by dotted name
    published: bool = False  # the file was downloaded as `source`, which alone decides


@dataclass
class Recognized:
    """How to read a file."""

    framework: str
    recipe: Recipe
    rpn: str  # prefix of the RPN in MMDetection's file
    classes: Classes
    rows: list[int] | None  # rows of the box head to keep; None: all
    rule: str  # what decided where shapes do not, for the log


def recognize(file: File, hints: Hints) -> Recognized:
    """How to read `file`.

    Raises CheckpointError if this is no supported detector, UsageError if the user must say more or
    said something else than the file holds.
    """
    framework = framework_of(file)
    network = network_of(file, framework)
    source, stated = hints.source, Stated()
    if not hints.published:
        stated = _stated(file, framework)
        stated.put("backbone.name", network.body)
        stated.put("backbone.neck", network.neck)
    if source is not None:
        recipe, rule = _named(source, framework), f"the name {source}"
    else:
        recipe, rule = _by_shape(file, framework, network, stated)
    if (named := Network.of(recipe)) != network:
        raise UsageError(
            f"--source: {source}: is {named}, but {file.path} holds {network}; give the name of "
            "such a detector"
        )
    style = stated.values.get("backbone.stride_in_1x1", recipe.backbone.stride_in_1x1)
    if source is not None and style != recipe.backbone.stride_in_1x1:
        raise UsageError(
            f"--source: {source}: its strides are not where {file.path} says (style "
            f"{'caffe' if style else 'pytorch'}); give the name of a detector of that style"
        )
    rpn = (
        "bbox_head" if any(k.startswith("bbox_head.rpn_conv") for k in file.tensors) else "rpn_head"
    )
    if file.sha256.startswith(_COCO_V1):
        recipe = change(recipe, backbone=dict(norm_eps=0.0))
        rule += "; COCO_V1: norms with epsilon 0"
    stated.values |= _widths(recipe, file, framework, rpn)
    recipe = settled(recipe, stated, hints.fields, file.path)
    classes, rows = classes_of(file, framework, hints.names)
    if not hints.published:
        rule += stated.origins(hints.fields, network.detector)
    return Recognized(framework, recipe, rpn, classes, rows, rule)


def _stated(file: File, framework: str) -> Stated:
    """What the file states beside its weights. Raises CheckpointError."""
    if framework == "detectron2":
        return detectron2_buffers.read(file.tensors)
    if framework == "mmdetection":
        text = file.meta.get("cfg") or file.meta.get("config")
        try:
            return mmdetection_config.read(mmdetection_config.parse(text))
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise CheckpointError(
                f"{file.path}: meta.cfg: values of other kinds than in MMDetection's configs "
                f"({error}); remove it and give --source"
            ) from None
    return Stated()


def _widths(recipe: Recipe, file: File, framework: str, rpn: str) -> dict[str, int]:
    """The widths of the FPN and the box head in the file, as fields of a recipe; whether its boxes
    are class-agnostic."""
    stage = "0." if recipe.roi_heads.stages > 1 else ""
    layer = "5" if recipe.roi_heads.head == "4conv1fc" else "fc6"
    ours = [
        "rpn.head.conv.0.0.weight",
        f"roi_heads.box_head.{stage}{layer}.weight",
        f"roi_heads.box_predictor.{stage}bbox_pred.weight",
    ]
    conv, first, boxes = (
        with_current_names(file.tensors, framework).get(entry.theirs)
        for entry in entries(framework, recipe, ours, rpn)
    )
    widths = {}
    if conv is not None and recipe.backbone.neck == "fpn":
        widths["backbone.fpn_channels"] = int(conv.shape[1])
    if first is not None:
        widths["roi_heads.representation_size"] = int(first.shape[0])
    if boxes is not None and not stage and len(boxes) == 4 and box_rows(file.tensors) > 2:
        widths["roi_heads.class_agnostic"] = True
    if (groups := deformable(file.tensors)[1]) > 1:
        widths["backbone.deformable_groups"] = groups
    return widths


def classes_of(
    file: File, framework: str, names: tuple[str, ...]
) -> tuple[Classes, list[int] | None]:
    """The classes, and the rows of the box head that belong to them (None: all).

    Names are the user's, else those stored by MMDetection, else COCO's for 80 classes (torchvision:
    91). Raises UsageError if there are no names, or another number of them.
    """
    count = box_rows(file.tensors)
    stored = file.meta.get("CLASSES") or (file.meta.get("dataset_meta") or {}).get("classes")
    if isinstance(stored, str):
        stored = (stored,)
    given = names or tuple(map(str, stored or ()))
    if count == 0:
        return (Classes(given, tuple(range(1, len(given) + 1))) if given else COCO), None
    if framework == "torchvision" and count == 91 and not names:
        return COCO, [0, *COCO.category_ids]
    foreground = count - 1
    if foreground == 80 and (not given or set(given) == set(COCO.names)):
        return COCO, None
    if not given:
        raise UsageError(
            f"{file.path}: {foreground} classes without names; give them in the order of the rows: "
            "--class-names A,B,..."
        )
    if len(given) != foreground:
        raise UsageError(f"--class-names: {len(given)} names for {foreground} classes")
    return Classes(given, tuple(range(1, foreground + 1))), None


def _named(source: str, framework: str) -> Recipe:
    """The recipe that `source` stands for. Raises UsageError."""
    if PREFIXES.get(source.partition(":")[0]) != framework:
        raise UsageError(
            f"--source: {source}: the file is {framework}'s; give {prefix_of(framework)}:NAME"
        )
    name = recipe_of(source)
    if name is None:
        raise UsageError(f"--source: {source}: unknown; 'fasterrcnn recipes' lists names")
    return recipes.get(name)


def _by_shape(file: File, framework: str, network: Network, stated: Stated) -> tuple[Recipe, str]:
    """The recipe of this network in the framework's model zoo, and how it was chosen."""
    body = network.body
    if framework == "torchvision":
        return _torchvision_recipe(file, body)
    known = [
        recipe
        for name, entry in recipes.RECIPES.items()
        if entry.framework == framework
        and (recipe := recipes.get(name)).data.classes == ()
        and recipe.roi_heads.box_loss == "smooth_l1"  # others are told by a name or a config
    ]
    plain = replace(network, norm="batch", fpn_norm="none", head_norm="none", rpn_convs=1)
    fitting = [r for r in known if replace(Network.of(r), body=body) == network] or [
        change(r, **network.layers) for r in known if replace(Network.of(r), body=body) == plain
    ]
    if not fitting:
        raise CheckpointError(f"{file.path}: {network}: no such detector of {framework} is known")
    own = [recipe for recipe in fitting if recipe.backbone.name == body]
    if framework == "detectron2":
        recipe = change((own or fitting)[0], backbone=dict(name=body))
        return recipe, f"Detectron2's defaults for {body} ({recipe.name})"
    styles = {recipe.backbone.stride_in_1x1: recipe for recipe in reversed(own or fitting)}
    if (caffe := stated.values.get("backbone.stride_in_1x1")) is not None:
        recipe = change(styles.get(caffe, (own or fitting)[0]), backbone=dict(name=body))
        style = "caffe" if caffe else "pytorch"
        return recipe, f"the config stored in the file (style {style}, {recipe.name})"
    if len(styles) > 1:
        names = " or ".join(sorted(name_of(recipe.name) for recipe in styles.values()))
        raise UsageError(
            f"{file.path}: caffe and pytorch style have the same tensors, and no config is stored; "
            f"say which it is: --source {names}"
        )
    (recipe,) = styles.values()
    return change(
        recipe, backbone=dict(name=body)
    ), f"the only recipe of this network ({recipe.name})"


def _torchvision_recipe(file: File, body: str) -> tuple[Recipe, str]:
    """torchvision's recipe with this body, and how it was chosen."""
    if body == "mobilenet_v3_large":
        recipe = recipes.get("fasterrcnn_mobilenet_v3_large_fpn_torchvision")
        return recipe, "torchvision's fasterrcnn_mobilenet_v3_large_fpn (320: --source)"
    if "rpn.head.conv.1.0.weight" in file.tensors:
        return recipes.get(
            "fasterrcnn_r50_fpn_v2_torchvision"
        ), "an RPN head of two convolutions: v2"
    recipe = change(recipes.get("fasterrcnn_r50_fpn_torchvision"), backbone=dict(name=body))
    return recipe, "torchvision's defaults"
