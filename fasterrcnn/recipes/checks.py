"""What the values of a recipe must be, alone and together."""

from __future__ import annotations

from fasterrcnn import value_range
from fasterrcnn.errors import UsageError
from fasterrcnn.recipes.fields import Input, Recipe, Schedule
from fasterrcnn.settings import check_fields


def check(recipe: Recipe) -> None:
    """Raise UsageError for values that cannot mean what they say."""
    check_fields(recipe)
    _check_sizes(recipe.input)
    _check_value_range(recipe.input)
    _check_augment(recipe)
    _check_network(recipe)
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


def _check_value_range(config: Input) -> None:
    try:
        value_range.limits(config.value_range)
    except ValueError as error:
        raise UsageError(f"--input.value-range: {config.value_range}: {error}") from None


def _check_augment(recipe: Recipe) -> None:
    augment = recipe.augment
    if recipe.detector == "fast_rcnn" and augment.moves_boxes:
        raise UsageError(
            "--augment: Fast R-CNN takes only --augment.photometric; its stored proposals do not "
            "follow zoom-out, iou-crop and jitter"
        )


def _check_network(recipe: Recipe) -> None:
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
    if recipe.roi_heads.pooling == "pool" and not one_level:
        raise UsageError("--roi-heads.pooling: pool: needs --backbone.neck none")


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
