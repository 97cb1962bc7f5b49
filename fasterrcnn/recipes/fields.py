"""The fields of a recipe: everything that decides the weights of a run, not where it runs.

Flags, help, checkpoint and log follow from the fields: a new hyperparameter is one field here and
its use. Names and defaults are torchvision's (`torchvision.models.detection.FasterRCNN`) wherever
it has the same thing; lengths are in pixels of the resized image, schedules in epochs and optimizer
steps. Where frameworks differ, a field's choices say what each computes; `conventions` has the set
of every framework. `gt` is ground truth.
"""

from __future__ import annotations

from dataclasses import dataclass

from fasterrcnn.pixel_format import PixelFormat
from fasterrcnn.recipes.head_fields import RPN, RoIHeads
from fasterrcnn.settings import setting
from fasterrcnn.tile_grid import SMALLEST

AUTO = -1  # images per GPU that are chosen when a run begins


@dataclass(frozen=True)
class Input:
    """Resizing, normalization and augmentation: from a decoded image to the network's input."""

    min_size: int = setting(800, "length of the short side after resizing (px)", least=1)
    max_size: int = setting(1333, "maximum length of the long side after resizing (px)", least=1)
    train_min_sizes: tuple[int, ...] = setting(
        (), "short sides sampled in training, one per micro-batch (px); empty: min-size", least=1
    )
    train_sampling: str = setting(
        "list",
        "how train-min-sizes are sampled: one of the list, or any size in the range of two",
        choices=("list", "range"),
    )
    rounding: str = setting(
        "floor",
        "how resized sides are rounded to whole pixels: floor (torchvision) or nearest "
        "(MMDetection, Detectron2)",
        choices=("floor", "nearest"),
    )
    resize: str = setting(
        "float",
        "how images are resized bilinearly: float after normalization (torchvision), or 8-bit "
        "before it as opencv (MMDetection) or pillow (Detectron2) does",
        choices=("float", "opencv", "pillow"),
    )
    channel_order: str = setting("rgb", "order of the input channels", choices=("rgb", "bgr"))
    pixel_scale: float = setting(
        255.0, "divisor of 8-bit pixel values, before mean and std", above=0
    )
    image_mean: tuple[float, ...] = setting(
        (0.485, 0.456, 0.406),
        "mean per channel, subtracted from scaled pixels; empty, or with other channels than RGB "
        "not given: that of the training images",
    )
    image_std: tuple[float, ...] = setting(
        (0.229, 0.224, 0.225),
        "standard deviation per channel, by which they are divided; likewise",
        above=0,
    )
    size_divisible: int = setting(
        32, "multiple to which images are padded in evaluation (px)", least=1
    )
    flip: float = setting(0.5, "probability of a horizontal flip in training", least=0, most=1)
    value_range: str = setting(
        "dataset",
        "of images of more than 8 bits, the values that become 0 and 255: LOW,HIGH; dataset (0.1 "
        "and 99.9 percentiles of the training images), image (those of each image), window (that "
        "of each DICOM file) or full (of the data type: 16 bits are divided by 256)",
    )
    channels: int = setting(
        0,
        "input channels of the network: 3 (RGB; gray is repeated), 1 (gray), or as many as the "
        "files have bands; 0: those that data.yaml states, else 3",
        least=0,
    )
    bands: tuple[int, ...] = setting(
        (), "bands of the files, from 1, that become the channels: 4,3,2; empty: all", least=1
    )
    rgb_bands: tuple[int, ...] = setting(
        (),
        "bands that are red, green and blue, which get the filters of weights for RGB images; "
        "empty: the first three channels, if there are more than two",
        least=1,
    )
    nodata: str = setting(
        "dataset",
        "value of pixels without data, in each band for itself: they become the mean, and are not "
        "measured; a number; dataset (the one that all training files state: GDAL_NODATA of "
        "GeoTIFF), file (the one of each file) or none",
    )

    @property
    def in_channels(self) -> int:
        """The number of input channels, once it is known what data.yaml states."""
        return len(self.bands) or self.channels or 3

    @property
    def colors(self) -> tuple[int | None, ...]:
        """Of each channel, in the order of the bands: 0 red, 1 green, 2 blue, None: no color."""
        count = self.in_channels
        if not self.rgb_bands:
            return tuple(k if k < 3 <= count else None for k in range(count))
        chosen = self.bands or range(1, count + 1)
        return tuple(
            self.rgb_bands.index(band) if band in self.rgb_bands and count > 1 else None
            for band in chosen
        )

    @property
    def pixel_format(self) -> PixelFormat:
        """How image files are read."""
        plain = PixelFormat(self.value_range, self.in_channels, self.bands, self.nodata)
        if not plain.has_nodata or len(self.image_mean) != plain.channels:
            return plain
        order = -1 if self.channel_order == "bgr" else 1
        return plain._replace(fill=tuple(m * self.pixel_scale for m in self.image_mean[::order]))


@dataclass(frozen=True)
class Augment:
    """Augmentation of training images besides flips, in this order, by torchvision.transforms.v2's
    classes with their defaults."""

    zoom_out: bool = setting(
        False, "put every other image on a canvas of 1 to 4 times its sides (SSD)"
    )
    iou_crop: bool = setting(
        False, "crop 0.3 to 1 of each side, around the center of at least one gt box (SSD)"
    )
    jitter: bool = setting(
        False,
        "large-scale jitter: resize to 0.1 to 2 times what fits a square, then crop or pad to the "
        "square; in training it takes the place of input.min-size, max-size and train-min-sizes",
    )
    jitter_size: int = setting(1024, "side of the square of large-scale jitter (px)", least=1)
    photometric: bool = setting(
        False, "distort brightness, contrast, saturation, hue and the order of channels (SSD)"
    )

    @property
    def moves_boxes(self) -> bool:
        """Whether images change in more than their colors."""
        return self.zoom_out or self.iou_crop or self.jitter


@dataclass(frozen=True)
class Backbone:
    """Convolutional body and feature pyramid (FPN)."""

    name: str = setting(
        "resnet50",
        "body, by torchvision's name: resnet50, swin_t, regnet_y_1_6gf, ...; or timm:NAME of timm",
    )
    stride_in_1x1: bool = setting(
        False,
        "downsample in the first 1x1 convolution of a stage (caffe style) instead of the 3x3 "
        "(pytorch style)",
    )
    norm: str = setting(
        "frozen",
        "batch norm of the body: frozen (statistics, weight and bias fixed), affine (statistics "
        "fixed, weight and bias trained) or batch (trained); or group norm in a ResNet instead",
        choices=("frozen", "affine", "batch", "group"),
    )
    norm_eps: float = setting(
        1e-5, "epsilon of the body's norm (0 for torchvision's COCO_V1 weights)", least=0
    )
    trainable_layers: int = setting(
        3,
        "number of stages that are trained, of a stem and four, counted from the last; 5: all",
        least=0,
        most=5,
    )
    fixed: bool = setting(False, "freeze the whole backbone, norms and FPN included")
    base_channels: int = setting(
        64, "channels of VGG's first stage; later stages scale with it", least=1
    )
    neck: str = setting(
        "fpn",
        "fpn: feature pyramid; none: one feature map of stride 16 (C4 of a ResNet, the last of "
        "VGG)",
        choices=("fpn", "none"),
    )
    dilation: int = setting(
        1,
        "dilation of the last stage of a ResNet; 2: its stride is 1, and its features are the one "
        "feature map of stride 16 (DC5)",
        least=1,
        most=2,
    )
    deformable: str = setting(
        "none",
        "deformable 3x3 convolutions in the last three stages of a ResNet: none, v1, or v2 "
        "(modulated)",
        choices=("none", "v1", "v2"),
    )
    deformable_groups: int = setting(1, "groups of channels with offsets of their own", least=1)
    fpn_channels: int = setting(256, "output channels of every FPN level", least=1)
    fpn_norm: str = setting(
        "none", "norm of the FPN's convolutions", choices=("none", "batch", "group")
    )
    drop_path: float = setting(
        0.0, "stochastic depth: probability with which the last block is left out", least=0, below=1
    )


@dataclass(frozen=True)
class Data:
    """Which images and classes of the data set are trained on."""

    classes: tuple[str, ...] = setting((), "class names to train on; empty: all", flag="--classes")
    train_split: str = setting(
        "train",
        "split to train on; PASCAL VOC: 2007_trainval, 2007_trainval+2012_trainval or 07+12, ...",
        flag="--train-split --voc-sets",
    )
    keep_empty: bool = setting(False, "train on images without boxes too (all negatives)")
    min_image_side: int = setting(0, "minimum width and height of a training image (px)", least=0)
    repeat_threshold: float = setting(
        0.0,
        "repeat images of classes that are in less than this fraction of the training images: "
        "sqrt(threshold / fraction) times (LVIS: 0.001); 0: off",
        least=0,
        most=1,
    )
    tile: int = setting(
        0,
        "train on square tiles of this side (px of the image), for small objects in large images; "
        "evaluation and prediction do likewise; 0: on whole images",
        words={"none": 0, "0": 0},
        least=SMALLEST,
    )
    tile_overlap: float = setting(
        0.2,
        "part of a tile that it shares with the next; best at least the largest object's side",
        least=0,
        most=0.9,
    )
    tile_min_visible: float = setting(
        0.5,
        "a box of whose area a tile shows less than this is ignored there: neither positive nor "
        "negative",
        least=0,
        most=1,
    )
    tile_empty: float = setting(
        0.1, "part of the tiles without boxes that is trained on too", least=0, most=1
    )


@dataclass(frozen=True)
class Schedule:
    """Optimization: SGD or AdamW, linear warm-up, then steps or a cosine down."""

    epochs: float = setting(
        12.0, "passes over the training data; milestones scale with it", flag="--epochs", above=0
    )
    lr_scheduler: str = setting(
        "multistep",
        "how the learning rate falls: multistep (by gamma at each milestone) or cosine (to 0 at "
        "the end of the epochs)",
        flag="--lr-scheduler",
        choices=("multistep", "cosine"),
    )
    milestones: tuple[float, ...] = setting(
        (8.0, 11.0), "epochs after which the learning rate is multiplied by gamma", above=0
    )
    gamma: float = setting(0.1, "factor of the learning rate at each milestone", least=0)
    lr: float = setting(
        0.02, "learning rate after warm-up; scales with images-per-step", flag="--lr", least=0
    )
    bias_lr_factor: float = setting(1.0, "factor of the learning rate for biases", least=0)
    optimizer: str = setting(
        "sgd",
        "optimizer: sgd (with momentum) or adamw, which brings its own --lr and weight decay",
        flag="--optimizer",
        choices=("sgd", "adamw"),
    )
    momentum: float = setting(0.9, "momentum of SGD", least=0, below=1)
    betas: tuple[float, ...] = setting(
        (0.9, 0.999),
        "decays per step of AdamW's averages of the gradient and of its square",
        least=0,
        below=1,
        count=2,
    )
    weight_decay: float = setting(
        1e-4, "weight decay of every trained parameter: L2 in SGD, decoupled in AdamW", least=0
    )
    decay_norms: bool = setting(True, "apply weight decay to norms too")
    decay_weights_only: bool = setting(False, "none for norms, biases and position embeddings")
    layer_decay: float = setting(
        1.0, "factor of the learning rate from a stage or block to the one before", above=0, most=1
    )
    warmup_steps: int = setting(
        500, "optimizer steps of linear warm-up; scales inversely with images-per-step", least=0
    )
    warmup_factor: float = setting(
        0.001, "first learning rate as a fraction of lr", least=0, most=1
    )
    images_per_step: int = setting(
        16,
        "global batch size: images per optimizer step over all GPUs",
        flag="--images-per-step",
        least=1,
    )
    images_per_gpu: int = setting(
        2,
        "micro-batch size: images per GPU and forward pass; auto: when a run begins, the fastest "
        "that fits its GPU",
        flag="--images-per-gpu",
        words={"auto": AUTO},
        least=1,
    )
    clip_grad_norm: float = setting(0.0, "maximum L2 norm of the gradient; 0: no clipping", least=0)
    ema_decay: float = setting(
        0.0, "decay per step of the weights' moving average; 0: none", least=0, below=1
    )


@dataclass(frozen=True)
class Recipe:
    """One training run up to its data. See the groups for the fields."""

    name: str
    detector: str = setting(
        "faster_rcnn",
        "what is trained: faster_rcnn (the whole detector), rpn (the region proposal network "
        "alone) or fast_rcnn (backbone and box head on stored --proposals)",
        flag="--detector",
        choices=("faster_rcnn", "rpn", "fast_rcnn"),
    )
    weights: str = setting(
        "imagenet",
        "initial weights: imagenet, coco, none, a run folder, or a .pth or .safetensors file",
        flag="--weights",
    )
    freeze: tuple[str, ...] = setting(
        (),
        "parts that keep their first weights, by the beginnings of parameter names: "
        "backbone.body,rpn",
        flag="--freeze",
    )
    amp: str = setting(
        "off",
        "mixed precision: fp16 (with GradScaler), bf16, off (fp32), or auto (fp16 on a GPU, bf16 "
        "on a CPU that has it)",
        flag="--amp",
        choices=("auto", "fp16", "bf16", "off"),
    )
    seed: int = setting(
        0, "random seed of data order, augmentation, sampling and fresh weights", flag="--seed"
    )
    input: Input = Input()
    augment: Augment = Augment()
    backbone: Backbone = Backbone()
    rpn: RPN = RPN()  # noqa: RUF009 - frozen
    roi_heads: RoIHeads = RoIHeads()  # noqa: RUF009 - frozen
    data: Data = Data()
    schedule: Schedule = Schedule()
