"""Recipes: everything that decides the weights, and nothing about where the run happens.

A recipe is a function that returns a `Recipe`; its docstring is its label (source, published number
and whose). A variant calls its parent and changes what differs. Flags, help, checkpoint and log
follow from the fields: a new hyperparameter is one field here and its use.

Names and defaults are torchvision's (`torchvision.models.detection.FasterRCNN`) wherever it has the
same thing; lengths are in pixels of the resized image, schedules in epochs and optimizer steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from typing import Any, get_type_hints

from fasterrcnn.errors import UsageError


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    flag: str | None = None,
    choices: tuple | None = None,
    positional: bool = False,
):
    """A dataclass field that `cli` turns into a flag; `flag` is its everyday short name."""
    metadata = {"help": help, "flag": flag, "choices": choices, "positional": positional}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Input:
    """From a decoded image to the network's input."""

    min_size: int = setting(800, "short side after resizing (px)")
    max_size: int = setting(1333, "upper bound of the long side (px)")
    image_mean: tuple[float, ...] = setting((0.485, 0.456, 0.406), "RGB mean, of pixels in 0..1")
    image_std: tuple[float, ...] = setting((0.229, 0.224, 0.225), "RGB std, of pixels in 0..1")
    flip: float = setting(0.5, "probability of a horizontal flip")


@dataclass(frozen=True)
class Backbone:
    """Convolutional body and feature pyramid."""

    name: str = setting("resnet50", "torchvision ResNet: resnet10, resnet18, resnet50, ...")
    norm: str = setting(
        "frozen",
        "frozen: batch norm with fixed statistics and weights; batch: trained",
        choices=("frozen", "batch"),
    )
    norm_eps: float = setting(1e-5, "epsilon of the norm (torchvision's COCO_V1 weights need 0)")
    trainable_layers: int = setting(3, "stages trained, counted from the last; 5 trains all")
    fpn_channels: int = setting(256, "channels of every pyramid level")


@dataclass(frozen=True)
class RPN:
    """Region proposal network."""

    anchor_sizes: tuple[int, ...] = setting((32, 64, 128, 256, 512), "anchor side per level (px)")
    aspect_ratios: tuple[float, ...] = setting((0.5, 1.0, 2.0), "height / width of anchors")
    pre_nms_top_n_train: int = setting(2000, "best anchors per level kept before NMS, training")
    pre_nms_top_n_test: int = setting(1000, "the same, evaluation")
    post_nms_top_n_train: int = setting(2000, "proposals per image kept after NMS, training")
    post_nms_top_n_test: int = setting(1000, "the same, evaluation")
    nms_thresh: float = setting(0.7, "IoU above which a proposal is suppressed")
    fg_iou_thresh: float = setting(0.7, "an anchor with at least this IoU is positive")
    bg_iou_thresh: float = setting(0.3, "an anchor below this IoU is negative")
    batch_size_per_image: int = setting(256, "anchors sampled per image for the loss")
    positive_fraction: float = setting(0.5, "upper bound of positives among them")


@dataclass(frozen=True)
class RoIHeads:
    """Box head: classification and regression of proposals."""

    representation_size: int = setting(1024, "width of the two fully connected layers")
    pool_size: int = setting(7, "RoIAlign output side (bins)")
    sampling_ratio: int = setting(2, "RoIAlign samples per bin and axis")
    fg_iou_thresh: float = setting(0.5, "a proposal with at least this IoU is positive")
    bg_iou_thresh: float = setting(0.5, "a proposal below this IoU is background")
    batch_size_per_image: int = setting(512, "proposals sampled per image for the loss")
    positive_fraction: float = setting(0.25, "upper bound of positives among them")
    bbox_reg_weights: tuple[float, ...] = setting(
        (10.0, 10.0, 5.0, 5.0), "weights of the dx, dy, dw, dh targets"
    )
    score_thresh: float = setting(0.05, "detections below this score are dropped")
    nms_thresh: float = setting(0.5, "IoU above which a detection of the same class is suppressed")
    detections_per_img: int = setting(100, "detections kept per image")


@dataclass(frozen=True)
class Data:
    """Which part of the data set is used, and how."""

    classes: tuple[str, ...] = setting((), "class names to use; none: all", flag="--classes")
    train_split: str = setting("train", "split to train on", flag="--train-split")
    keep_empty: bool = setting(False, "train on images without boxes (as negatives)")


@dataclass(frozen=True)
class Schedule:
    """Optimisation: SGD with momentum, linear warm-up, steps down at milestones."""

    epochs: float = setting(12.0, "passes over the data; milestones scale along", flag="--epochs")
    milestones: tuple[float, ...] = setting((8.0, 11.0), "epochs after which lr is multiplied")
    gamma: float = setting(0.1, "factor at each milestone")
    lr: float = setting(0.02, "learning rate after warm-up; follows images-per-step", flag="--lr")
    momentum: float = setting(0.9, "SGD momentum")
    weight_decay: float = setting(1e-4, "L2 on every trained parameter")
    warmup_steps: int = setting(500, "steps of linear warm-up; follows images-per-step")
    warmup_factor: float = setting(0.001, "first learning rate as a fraction of lr")
    images_per_step: int = setting(16, "global batch, all GPUs together", flag="--images-per-step")
    images_per_gpu: int = setting(2, "micro-batch of one GPU", flag="--images-per-gpu")
    clip_grad_norm: float = setting(0.0, "upper bound of the gradient's L2 norm; 0: none")
    ema_decay: float = setting(0.0, "decay per step of averaged weights; 0: none")


@dataclass(frozen=True)
class Recipe:
    """One training run up to its data. See the groups for the fields."""

    name: str
    weights: str = setting(
        "imagenet",
        "initial weights: imagenet, coco, none, a run, or a .pth or .safetensors file",
        flag="--weights",
    )
    amp: str = setting(
        "off",
        "fp16 (GradScaler), bf16, off (fp32), or auto: fp16 on a GPU, bf16 on a CPU that has it",
        flag="--amp",
        choices=("auto", "fp16", "bf16", "off"),
    )
    seed: int = setting(0, "decides order, flips, sampling and fresh weights", flag="--seed")
    input: Input = Input()
    backbone: Backbone = Backbone()
    rpn: RPN = RPN()
    roi_heads: RoIHeads = RoIHeads()
    data: Data = Data()
    schedule: Schedule = Schedule()


def change(recipe: Recipe, **changes: Any) -> Recipe:
    """`recipe` with other values: ``change(r, name="x", schedule=dict(epochs=24.0))``."""
    for group, value in changes.items():
        if isinstance(value, dict):
            changes[group] = dataclasses.replace(getattr(recipe, group), **value)
    return dataclasses.replace(recipe, **changes)


def flat(recipe: Recipe) -> dict[str, Any]:
    """``{"seed": 0, "schedule.lr": 0.02, ...}``: every value under its dotted name."""
    values = {}
    for name, value in vars(recipe).items():
        if dataclasses.is_dataclass(value):
            values |= {f"{name}.{leaf}": item for leaf, item in vars(value).items()}
        else:
            values[name] = value
    return values


def as_text(value: Any) -> str:
    """A value as its flag takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def difference(old: Recipe, new: Recipe) -> list[str]:
    """``["schedule.lr: 0.02 -> 0.01", ...]``: the fields whose values differ."""
    before, after = flat(old), flat(new)
    return [f"{k}: {before[k]} -> {after[k]}" for k in before if before[k] != after[k]]


def from_dict(saved: dict[str, Any]) -> Recipe:
    """The inverse of `dataclasses.asdict` after a trip through json (lists become tuples).

    Raises ValueError that names a field this version does not know.
    """

    def build(kind: type, values: dict[str, Any]):
        types = get_type_hints(kind)
        if unknown := sorted(set(values) - set(types)):
            raise ValueError(f"{unknown[0]}: unknown recipe field")
        for name, value in values.items():
            if dataclasses.is_dataclass(types[name]):
                values = {**values, name: build(types[name], value)}
            elif isinstance(value, list):
                values = {**values, name: tuple(value)}
        return kind(**values)

    return build(Recipe, saved)


def check(recipe: Recipe) -> None:
    """Raise UsageError for values that cannot mean what they say."""
    schedule, sizes = recipe.schedule, recipe.input
    for flag, value in (
        ("--epochs", schedule.epochs),
        ("--images-per-step", schedule.images_per_step),
        ("--images-per-gpu", schedule.images_per_gpu),
        ("--input.min-size", sizes.min_size),
        ("--roi-heads.sampling-ratio", recipe.roi_heads.sampling_ratio),
    ):
        if value <= 0:
            raise UsageError(f"{flag}: {value}: must be positive")
    if sizes.min_size > sizes.max_size:
        raise UsageError(
            f"--input.min-size: {sizes.min_size}: larger than --input.max-size {sizes.max_size}"
        )
    milestones = schedule.milestones
    for milestone in milestones:
        if not 0 < milestone < schedule.epochs:
            raise UsageError(
                f"--schedule.milestones: {milestone:g}: can never fire in a run of "
                f"{schedule.epochs:g} epochs; choose epochs between 0 and {schedule.epochs:g}"
            )
    if list(milestones) != sorted(set(milestones)):
        raise UsageError(f"--schedule.milestones: {milestones}: must increase")
    images = schedule.images_per_step
    if images % schedule.images_per_gpu:
        fits = ", ".join(str(n) for n in range(1, images + 1) if images % n == 0)
        raise UsageError(
            f"--images-per-gpu: {schedule.images_per_gpu}: does not divide --images-per-step "
            f"{images}; choose from {fits}"
        )


def with_images_per_step(recipe: Recipe, images: int) -> Recipe:
    """Another global batch: lr follows linearly, warm-up keeps its length in images.

    Linear scaling rule of Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.1.
    """
    old = recipe.schedule
    return change(
        recipe,
        schedule=dict(
            images_per_step=images,
            lr=old.lr * images / old.images_per_step,
            warmup_steps=round(old.warmup_steps * old.images_per_step / images),
        ),
    )


def with_epochs(recipe: Recipe, epochs: float) -> Recipe:
    """A longer or shorter run whose milestones stay at the same fractions of it."""
    old = recipe.schedule
    milestones = tuple(round(m * epochs / old.epochs, 3) for m in old.milestones)
    return change(recipe, schedule=dict(epochs=epochs, milestones=milestones))


def with_coco_weights(recipe: Recipe) -> Recipe:
    """Start from torchvision's COCO_V1 detector, which was trained with epsilon 0 in its norms."""
    return change(recipe, weights="coco", backbone=dict(norm_eps=0.0))


def fasterrcnn_r50_fpn_1x() -> Recipe:
    """Faster R-CNN, ResNet-50 FPN, COCO, 12 epochs of 16 images per step.

    Network: torchvision's `fasterrcnn_resnet50_fpn` (frozen batch norm, ImageNet weights).
    Schedule: the field's "1x": lr 0.02, steps down after epochs 8 and 11, 500 warm-up steps
    (MMDetection 3.3 `_base_/schedules/schedule_1x.py`).
    Published with this schedule: box AP 37.4 (MMDetection, 8 V100, 4.0 GB). Here: not yet measured.
    """
    return Recipe(name="fasterrcnn_r50_fpn_1x")


def fasterrcnn_r50_fpn_torchvision() -> Recipe:
    """torchvision's reference run: 26 epochs, steps down after 16 and 22, 1000 warm-up steps.

    Source: pytorch/vision references/detection/README.md. Published: box AP 37.0 (torchvision,
    8 V100, `FasterRCNN_ResNet50_FPN_Weights.COCO_V1`). Here: not yet measured.
    """
    return change(
        fasterrcnn_r50_fpn_1x(),
        name="fasterrcnn_r50_fpn_torchvision",
        schedule=dict(epochs=26.0, milestones=(16.0, 22.0), warmup_steps=1000),
    )


def fasterrcnn_r10_fpn_shapes() -> Recipe:
    """The demo: a small Faster R-CNN from scratch on synthetic shapes, minutes on two CPU cores.

    The structure of `fasterrcnn_r50_fpn_1x` with one residual block per stage, trained batch norm,
    narrower pyramid and head, and sizes in proportion to images of 160 px.
    Here: box AP 58.3, AP50 82.0 in 4:26 min (README.md, "Measured so far").
    """
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


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        fasterrcnn_r50_fpn_1x,
        fasterrcnn_r50_fpn_torchvision,
        fasterrcnn_r10_fpn_shapes,
    )
}


def get(name: str) -> Recipe:
    """The recipe called `name`. Raises UsageError that lists the names."""
    if name not in RECIPES:
        raise UsageError(f"--recipe: {name}: unknown; choose from {', '.join(RECIPES)}")
    return RECIPES[name]()


def describe(recipe: Recipe) -> str:
    """The resolved recipe, a line per group, and what the user changed."""
    lines = [
        f"recipe {recipe.name}: weights {recipe.weights}, amp {recipe.amp}, seed {recipe.seed}"
    ]
    for name, group in vars(recipe).items():
        if dataclasses.is_dataclass(group):
            values = " ".join(f"{k}={as_text(v)}" for k, v in vars(group).items())
            lines.append(f"  {name}: {values}")
    changes = difference(get(recipe.name), recipe)
    return "\n".join([*lines, *(f"  changed: {line}" for line in changes)])
