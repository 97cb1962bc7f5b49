"""What decides the weights of a run, and nothing about where it happens: the fields of a recipe.

Flags, help, checkpoint and log follow from the fields: a new hyperparameter is one field here and
its use. Names and defaults are torchvision's (`torchvision.models.detection.FasterRCNN`) wherever
it has the same thing; lengths are in pixels of the resized image, schedules in epochs and optimizer
steps. Where frameworks differ, the choices say what each computes; `conventions` names the sets.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from typing import Any

from fasterrcnn.errors import UsageError


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    flag: str = "",
    choices: tuple | None = None,
    positional: bool = False,
):
    """A dataclass field that `cli` turns into a flag; `flag`: its everyday short names, if any."""
    metadata = {
        "help": help, "flags": flag.split(), "choices": choices, "positional": positional
    }  # fmt: skip
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Input:
    """From a decoded image to the network's input."""

    min_size: int = setting(800, "short side after resizing (px)")
    max_size: int = setting(1333, "upper bound of the long side (px)")
    train_min_sizes: tuple[int, ...] = setting(
        (), "short sides to draw from in training, per micro-batch; none: min-size"
    )
    train_sampling: str = setting(
        "list", "list: one of them; range: any between two", choices=("list", "range")
    )
    rounding: str = setting(
        "floor",
        "resized sides: floor as torchvision, nearest as others",
        choices=("floor", "nearest"),
    )
    resize: str = setting(
        "float",
        "float: bilinear after normalising, as torchvision; opencv, pillow: as those libraries, "
        "in whole numbers",
        choices=("float", "opencv", "pillow"),
    )
    channel_order: str = setting("rgb", "order of the network's channels", choices=("rgb", "bgr"))
    pixel_scale: float = setting(255.0, "pixels are divided by this before mean and std")
    image_mean: tuple[float, ...] = setting((0.485, 0.456, 0.406), "mean of scaled pixels")
    image_std: tuple[float, ...] = setting((0.229, 0.224, 0.225), "std of scaled pixels")
    size_divisible: int = setting(32, "evaluation pads sides to multiples of this (px)")
    flip: float = setting(0.5, "probability of a horizontal flip")


@dataclass(frozen=True)
class Backbone:
    """Convolutional body and feature pyramid."""

    name: str = setting("resnet50", "torchvision's name: resnet50, resnext101_64x4d, ...")
    stride_in_1x1: bool = setting(
        False, "stages stride in their first 1x1 convolution (caffe style), not in the 3x3"
    )
    norm: str = setting(
        "frozen",
        "batch norm frozen: fixed statistics and weights; affine: fixed statistics; batch: trained",
        choices=("frozen", "affine", "batch"),
    )
    norm_eps: float = setting(1e-5, "epsilon of the norm (torchvision's COCO_V1 weights need 0)")
    trainable_layers: int = setting(3, "stages trained, counted from the last; 5 trains all")
    fixed: bool = setting(False, "nothing of the backbone is trained, norms and pyramid included")
    base_channels: int = setting(64, "channels of VGG's first stage; the later ones follow")
    neck: str = setting(
        "fpn",
        "fpn: pyramid; none: one level of stride 16 (a ResNet's stage 3, C4; VGG's last)",
        choices=("fpn", "none"),
    )
    fpn_channels: int = setting(256, "channels of every pyramid level")
    fpn_norm: str = setting("none", "norm of the pyramid's layers", choices=("none", "batch"))


@dataclass(frozen=True)
class RPN:
    """Region proposal network."""

    anchor_sizes: tuple[int, ...] = setting((32, 64, 128, 256, 512), "anchor side per level (px)")
    all_sizes_per_level: bool = setting(False, "every level has anchors of all sizes")
    aspect_ratios: tuple[float, ...] = setting((0.5, 1.0, 2.0), "height / width of anchors")
    round_anchors: bool = setting(True, "anchors at a cell are rounded to whole pixels")
    anchor_strides: str = setting(
        "grid",
        "grid: padded side // cells (61 on some P6); fixed: 4 to 64",
        choices=("grid", "fixed"),
    )
    conv_depth: int = setting(1, "3x3 convolutions of the head")
    pre_nms_top_n_train: int = setting(2000, "best anchors per level kept before NMS, training")
    pre_nms_top_n_test: int = setting(1000, "the same, evaluation")
    post_nms_top_n_train: int = setting(2000, "proposals per image kept after NMS, training")
    post_nms_top_n_test: int = setting(1000, "the same, evaluation")
    rank: str = setting("logits", "what the best are chosen by", choices=("logits", "scores"))
    clamp: str = setting("max", "bounds of dw and dh when decoding", choices=("max", "both"))
    score_thresh: float = setting(0.0, "proposals below this score are dropped")
    min_side: float = setting(1e-3, "proposals with a shorter side are dropped (px)")
    nms_thresh: float = setting(0.7, "IoU above which a proposal is suppressed")
    fg_iou_thresh: float = setting(0.7, "an anchor with at least this IoU is positive")
    bg_iou_thresh: float = setting(0.3, "an anchor below this IoU is negative")
    low_quality_iou: float = setting(0.0, "least IoU of a truth's best anchor that is positive too")
    low_quality_truth: str = setting(
        "own",
        "such an anchor learns the truth it overlaps most (own) or the one it is best for (best)",
        choices=("own", "best"),
    )
    padding_anchors: bool = setting(True, "anchors in the padding are sampled as negatives")
    border_anchors: bool = setting(True, "anchors that reach beyond their image are sampled")
    beta: float = setting(1 / 9, "smooth L1 turns linear there; 0: L1")
    normalizer: str = setting(
        "sampled",
        "losses are divided by the anchors sampled, or by batch-size-per-image times images",
        choices=("sampled", "batch-size"),
    )
    batch_size_per_image: int = setting(256, "anchors sampled per image for the loss")
    positive_fraction: float = setting(0.5, "upper bound of positives among them")


@dataclass(frozen=True)
class RoIHeads:
    """Box head: classification and regression of proposals."""

    head: str = setting(
        "2fc",
        "2fc: two fully connected layers; 4conv1fc: convolutions with batch norm and one; "
        "res5: the body's last stage (C4)",
        choices=("2fc", "4conv1fc", "res5"),
    )
    representation_size: int = setting(1024, "width of the fully connected layers")
    dropout: float = setting(0.0, "probability of dropping an output of a fully connected layer")
    pooling: str = setting(
        "align", "RoIAlign, or RoIPool: the maximum of whole cells", choices=("align", "pool")
    )
    pool_size: int = setting(7, "output side of RoIAlign or RoIPool (bins)")
    sampling_ratio: int = setting(2, "RoIAlign samples per bin and axis; 0: one per cell")
    aligned: bool = setting(False, "RoIAlign shifts by half a cell and keeps tiny rois tiny")
    level_map: str = setting(
        "torchvision",
        "where the epsilon of the level equation stands",
        choices=("torchvision", "detectron2", "mmdetection"),
    )
    fg_iou_thresh: float = setting(0.5, "a proposal with at least this IoU is positive")
    bg_iou_thresh: float = setting(0.5, "a proposal below this IoU is background")
    batch_size_per_image: int = setting(512, "proposals sampled per image for the loss")
    positive_fraction: float = setting(0.25, "upper bound of positives among them")
    bbox_reg_weights: tuple[float, ...] = setting(
        (10.0, 10.0, 5.0, 5.0), "weights of the dx, dy, dw, dh targets"
    )
    clamp: str = setting("max", "bounds of dw and dh when decoding", choices=("max", "both"))
    beta: float = setting(1 / 9, "smooth L1 turns linear there; 0: L1")
    score_thresh: float = setting(0.05, "detections below this score are dropped")
    min_side: float = setting(1e-2, "detections with a shorter side are dropped (px)")
    nms_thresh: float = setting(0.5, "IoU above which a detection of the same class is suppressed")
    drop_empty: bool = setting(False, "after NMS, detections without area are dropped")
    detections_per_img: int = setting(100, "detections kept per image")


@dataclass(frozen=True)
class Data:
    """Which part of the data set is used, and how."""

    classes: tuple[str, ...] = setting((), "class names to use; none: all", flag="--classes")
    train_split: str = setting(
        "train",
        "split to train on; PASCAL VOC: 2007_trainval, 2007_trainval+2012_trainval or 07+12, ...",
        flag="--train-split --voc-sets",
    )
    keep_empty: bool = setting(False, "train on images without boxes (as negatives)")
    min_image_side: int = setting(0, "leave out training images with a shorter side (px)")


@dataclass(frozen=True)
class Schedule:
    """Optimisation: SGD with momentum, linear warm-up, steps down at milestones."""

    epochs: float = setting(12.0, "passes over the data; milestones scale along", flag="--epochs")
    milestones: tuple[float, ...] = setting((8.0, 11.0), "epochs after which lr is multiplied")
    gamma: float = setting(0.1, "factor at each milestone")
    lr: float = setting(0.02, "learning rate after warm-up; follows images-per-step", flag="--lr")
    bias_lr_factor: float = setting(1.0, "biases learn at this multiple of lr")
    momentum: float = setting(0.9, "SGD momentum")
    weight_decay: float = setting(1e-4, "L2 on every trained parameter")
    decay_norms: bool = setting(True, "weights and biases of norms included")
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
    detector: str = setting(
        "faster_rcnn",
        "what is trained: the whole detector, its region proposal network alone, or its backbone "
        "and box head on stored --proposals",
        flag="--detector",
        choices=("faster_rcnn", "rpn", "fast_rcnn"),
    )
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


def check(recipe: Recipe) -> None:
    """Raise UsageError for values that cannot mean what they say."""
    _check_sizes(recipe.input)
    _check_network(recipe)
    _check_schedule(recipe.schedule)


def _positive(flag: str, value: float) -> None:
    if value <= 0:
        raise UsageError(f"{flag}: {value}: must be positive")


def _check_sizes(sizes: Input) -> None:
    _positive("--input.min-size", sizes.min_size)
    if sizes.min_size > sizes.max_size:
        raise UsageError(
            f"--input.min-size: {sizes.min_size}: larger than --input.max-size {sizes.max_size}"
        )
    for size in sizes.train_min_sizes:
        if not 0 < size <= sizes.min_size:
            raise UsageError(
                f"--input.train-min-sizes: {size}: must be 1 to --input.min-size {sizes.min_size}"
            )
    if sizes.train_sampling == "range" and len(sizes.train_min_sizes) != 2:
        raise UsageError("--input.train-sampling: range: needs two --input.train-min-sizes")


def _check_network(recipe: Recipe) -> None:
    if recipe.roi_heads.sampling_ratio < 0:
        raise UsageError("--roi-heads.sampling-ratio: must be positive, or 0 for one per cell")
    vgg, one_level = recipe.backbone.name == "vgg16", recipe.backbone.neck == "none"
    if vgg and not one_level:
        raise UsageError("--backbone.name: vgg16: has no pyramid; needs --backbone.neck none")
    if not vgg and recipe.backbone.base_channels != 64:
        raise UsageError("--backbone.base-channels: only vgg16 has it; --backbone.fpn-channels?")
    res5 = recipe.roi_heads.head == "res5"
    if res5 != (one_level and not vgg) and recipe.detector != "rpn":
        raise UsageError(
            "--roi-heads.head: res5 goes with a ResNet and --backbone.neck none, and only with them"
        )
    if one_level and not recipe.rpn.all_sizes_per_level:
        raise UsageError("--backbone.neck: none: needs --rpn.all-sizes-per-level")
    if recipe.roi_heads.dropout and recipe.roi_heads.head != "2fc":
        raise UsageError("--roi-heads.dropout: only --roi-heads.head 2fc has it")
    if not 0 <= recipe.roi_heads.dropout < 1:
        raise UsageError(f"--roi-heads.dropout: {recipe.roi_heads.dropout}: must be 0 to below 1")
    if recipe.roi_heads.pooling == "pool" and not one_level:
        raise UsageError("--roi-heads.pooling: pool: needs --backbone.neck none")


def _check_schedule(schedule: Schedule) -> None:
    _positive("--epochs", schedule.epochs)
    _positive("--images-per-step", schedule.images_per_step)
    _positive("--images-per-gpu", schedule.images_per_gpu)
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
