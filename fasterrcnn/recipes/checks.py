"""What the values of a recipe must be, alone and together."""

from __future__ import annotations

from dataclasses import fields

from fasterrcnn import nodata, value_range
from fasterrcnn.errors import UsageError
from fasterrcnn.recipes.changes import as_text
from fasterrcnn.recipes.fields import AUTO, Backbone, Data, Input, Recipe, Schedule
from fasterrcnn.recipes.head_fields import RoIHeads
from fasterrcnn.settings import as_flag, check_fields


def check(recipe: Recipe) -> None:
    """Raise UsageError for values that cannot mean what they say."""
    if recipe.schedule.images_per_gpu == AUTO:
        raise UsageError("--images-per-gpu: auto: only when a run begins; give a number")
    check_fields(recipe)
    _check_sizes(recipe.input)
    _check_values(recipe.input)
    _check_channels(recipe.input)
    _check_augment(recipe)
    _check_tiles(recipe)
    _check_network(recipe)
    _check_stages(recipe.roi_heads)
    if not recipe.rpn.edge_anchors and recipe.rpn.border_anchors:
        raise UsageError("--no-rpn.edge-anchors: needs --no-rpn.border-anchors")
    _check_schedule(recipe.schedule)


def _check_sizes(sizes: Input) -> None:
    if sizes.min_size > sizes.max_size:
        raise UsageError(
            f"--input.min-size: {sizes.min_size}: larger than --input.max-size {sizes.max_size}"
        )
    for size in sizes.train_min_sizes:
        if size > sizes.min_size:
            raise UsageError(
                f"--input.train-min-sizes: {size}: must be 1 to --input.min-size {sizes.min_size}"
            )
    if sizes.train_sampling == "range" and len(sizes.train_min_sizes) != 2:
        raise UsageError("--input.train-sampling: range: needs two --input.train-min-sizes")


def _check_values(config: Input) -> None:
    try:
        value_range.limits(config.value_range)
    except ValueError as error:
        raise UsageError(f"--input.value-range: {config.value_range}: {error}") from None
    try:
        nodata.value(config.nodata)
    except ValueError as error:
        raise UsageError(f"--input.nodata: {config.nodata}: {error}") from None


def _check_channels(config: Input) -> None:
    count = config.in_channels
    for name in ("bands", "rgb_bands"):
        given = getattr(config, name)
        if len({*given}) != len(given):
            raise UsageError(f"{as_flag(f'input.{name}')}: {as_text(given)}: names a band twice")
    if config.bands and config.channels not in (0, count):
        raise UsageError(
            f"--input.channels: {config.channels}: --input.bands are {count}; leave it out"
        )
    if config.rgb_bands and len(config.rgb_bands) != 3:
        raise UsageError(
            f"--input.rgb-bands: {as_text(config.rgb_bands)}: must be three: red, green, blue"
        )
    if config.channels and not config.bands and max(config.rgb_bands, default=0) > count:
        raise UsageError(
            f"--input.rgb-bands: {as_text(config.rgb_bands)}: the input has {count} channels"
        )
    for name in ("image_mean", "image_std"):
        values = len(getattr(config, name))
        if values not in (0, 3, count):
            raise UsageError(
                f"{as_flag(f'input.{name}')}: {values} values; must be {count}, one per channel "
                "(--input.channels)"
            )


def _check_augment(recipe: Recipe) -> None:
    augment = recipe.augment
    if augment.photometric and recipe.input.colors != (0, 1, 2):
        raise UsageError(
            "--augment.photometric: distorts hue and saturation, which takes red, green and blue; "
            f"the input has {recipe.input.in_channels} channels"
        )
    if recipe.detector == "fast_rcnn" and augment.moves_boxes:
        raise UsageError(
            "--augment: Fast R-CNN takes only --augment.photometric; its stored proposals do not "
            "follow zoom-out, iou-crop and jitter"
        )


def _check_tiles(recipe: Recipe) -> None:
    default = Data()
    for name in ("tile_overlap", "tile_min_visible", "tile_empty"):
        if not recipe.data.tile and getattr(recipe.data, name) != getattr(default, name):
            raise UsageError(f"{as_flag(f'data.{name}')}: is of tiles; give --data.tile too")
    if recipe.data.tile and recipe.detector != "faster_rcnn":
        raise UsageError(
            f"--data.tile: is for whole detectors, not for --detector {recipe.detector}"
        )


def _check_network(recipe: Recipe) -> None:
    one_level = recipe.backbone.neck == "none"
    vgg = recipe.backbone.name == "vgg16" and one_level
    _check_convolutions(recipe.backbone)
    c4 = one_level and not vgg and recipe.backbone.dilation == 1
    if not vgg and recipe.backbone.base_channels != 64:
        raise UsageError(
            "--backbone.base-channels: only vgg16 with --backbone.neck none has it; "
            "--backbone.fpn-channels?"
        )
    res5 = recipe.roi_heads.head == "res5"
    if res5 != c4 and recipe.detector != "rpn":
        raise UsageError(
            "--roi-heads.head: res5 goes with a ResNet and --backbone.neck none, and only with them"
            "; with --backbone.dilation 2, the body keeps its last stage"
        )
    if one_level and not recipe.rpn.all_sizes_per_level:
        raise UsageError("--backbone.neck: none: needs --rpn.all-sizes-per-level")
    if recipe.roi_heads.soft_nms != "none" and recipe.data.tile:
        raise UsageError("--roi-heads.soft-nms: does not go with --data.tile, which merges by NMS")
    if recipe.roi_heads.dropout and recipe.roi_heads.head != "2fc":
        raise UsageError("--roi-heads.dropout: only --roi-heads.head 2fc has it")
    groups = recipe.roi_heads.head_norm == "group" and not one_level
    if (groups or recipe.backbone.fpn_norm == "group") and recipe.backbone.fpn_channels % 32:
        raise UsageError(
            f"--backbone.fpn-channels: {recipe.backbone.fpn_channels}: group norm needs a multiple "
            "of 32"
        )
    if recipe.roi_heads.head_norm != RoIHeads().head_norm and recipe.roi_heads.head != "4conv1fc":
        raise UsageError("--roi-heads.head-norm: is of --roi-heads.head 4conv1fc")
    if recipe.roi_heads.pooling == "pool" and not one_level:
        raise UsageError("--roi-heads.pooling: pool: needs --backbone.neck none")


def _check_convolutions(backbone: Backbone) -> None:
    resnet = backbone.name.startswith(("resnet", "resnext"))
    small = backbone.name in ("resnet10", "resnet18", "resnet34")
    if backbone.norm == "group" and (not resnet or backbone.name == "resnext50_32x4d"):
        raise UsageError(
            "--backbone.norm: group: only resnet10 to resnet152 and resnext101 have it; not "
            f"{backbone.name}"
        )
    for name, given in (("dilation", backbone.dilation > 1),
                        ("deformable", backbone.deformable != "none")):  # fmt: skip
        if given and (small or not resnet):
            raise UsageError(
                f"--backbone.{name}: only ResNets of three convolutions per block have it, such as "
                f"resnet50; not {backbone.name}"
            )
    if backbone.dilation > 1 and backbone.neck != "none":
        raise UsageError("--backbone.dilation: needs --backbone.neck none")
    if backbone.deformable_groups > 1 and backbone.deformable == "none":
        raise UsageError("--backbone.deformable-groups: needs --backbone.deformable")


def _check_stages(heads: RoIHeads) -> None:
    """A cascade has values of each stage, and only a cascade has them."""
    default = RoIHeads()
    cascade = [f.name for f in fields(RoIHeads) if f.name.startswith("stage_")]
    plain = ["fg_iou_thresh", "bg_iou_thresh", "bbox_reg_weights", "class_agnostic"]
    for name in plain if heads.stages > 1 else cascade:
        if getattr(heads, name) != getattr(default, name):
            why = (
                "a cascade has --roi-heads.stage-iou-thresh and --roi-heads.stage-reg-weights"
                if heads.stages > 1
                else "needs --roi-heads.stages 2 or more"
            )
            raise UsageError(f"{as_flag(f'roi_heads.{name}')}: {why}")
    if heads.stages == 1:
        return
    if heads.head == "res5":
        raise UsageError("--roi-heads.stages: a cascade cannot have --roi-heads.head res5")
    for name, each in (("iou_thresh", 1), ("reg_weights", 4), ("loss_weights", 1)):
        count = len(getattr(heads, f"stage_{name}"))
        if count != each * heads.stages:
            raise UsageError(
                f"{as_flag(f'roi_heads.stage_{name}')}: {count} values, {heads.stages} stages have "
                f"{each * heads.stages}"
            )


def _check_schedule(schedule: Schedule) -> None:
    milestones = schedule.milestones
    if milestones and schedule.lr_scheduler != "multistep":
        raise UsageError("--schedule.milestones: only --lr-scheduler multistep has them")
    for milestone in milestones:
        if milestone >= schedule.epochs:
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
