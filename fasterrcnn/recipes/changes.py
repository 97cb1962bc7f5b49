"""Recipes changed, compared, printed and read back."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_origin, get_type_hints

from fasterrcnn.recipes.aliases import RENAMED_FIELDS, RENAMED_RECIPES
from fasterrcnn.recipes.fields import Recipe


def change(recipe: Recipe, **changes: Any) -> Recipe:
    """`recipe` with other values: ``change(r, name="x", schedule=dict(epochs=24.0))``."""
    for group, value in changes.items():
        if isinstance(value, dict):
            changes[group] = dataclasses.replace(getattr(recipe, group), **value)
    return dataclasses.replace(recipe, **changes)


def flat(recipe: Recipe) -> dict[str, Any]:
    """``{"seed": 0, "schedule.lr": 0.02, ...}``: every value under its dotted name."""
    values: dict[str, Any] = {}
    for name, value in vars(recipe).items():
        if dataclasses.is_dataclass(value):
            values |= {f"{name}.{leaf}": item for leaf, item in vars(value).items()}
        else:
            values[name] = value
    return values


def with_values(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """`recipe` with other values, by their dotted names, as `flat` gives them; lists are tuples."""
    for name, value in values.items():
        group, _, leaf = name.rpartition(".")
        item = tuple(value) if isinstance(value, list) else value
        recipe = change(recipe, **({group: {leaf: item}} if group else {leaf: item}))
    return recipe


def as_text(value: Any) -> str:
    """A value as its flag takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def difference(old: Recipe, new: Recipe) -> list[str]:
    """``["schedule.lr: 0.02 -> 0.01", ...]``: the fields whose values differ."""
    before, after = flat(old), flat(new)
    return [f"{k}: {before[k]} -> {after[k]}" for k in before if before[k] != after[k]]


def as_flags(recipe: Recipe, base: Recipe) -> list[str]:
    """What to type to make `recipe` of `base`."""
    before, words = flat(base), []
    for name, value in flat(recipe).items():
        if name == "name" or value == before[name]:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", as_text(value)]
    return words


def from_dict(saved: dict[str, Any]) -> Recipe:
    """The inverse of `dataclasses.asdict` after a trip through json (lists become tuples).

    Former names are translated (`aliases`). Raises ValueError that names a field which this version
    does not know, or whose value is of another type.
    """
    recipe = _build(Recipe, saved)
    return change(recipe, name=RENAMED_RECIPES.get(recipe.name, recipe.name))


def _build(kind: type, saved: dict[str, Any], group: str = "") -> Any:
    """The dataclass `kind` from what was saved; `group` stands before its fields' names."""
    types = get_type_hints(kind)
    values = {}
    for old, value in dict(saved).items():
        name = RENAMED_FIELDS.get(f"{group}{old}", f"{group}{old}").removeprefix(group)
        if name not in types:
            raise ValueError(f"{group}{name}: unknown recipe field")
        if dataclasses.is_dataclass(types[name]):
            values[name] = _build(types[name], value, f"{name}.")
            continue
        values[name] = tuple(value) if isinstance(value, list) else value
        if not _is_of(values[name], types[name]):
            wanted = getattr(types[name], "__name__", types[name])  # tuple[int, ...] for example
            raise ValueError(f"{group}{name}: {str(value)[:60]}: not of the type {wanted}")
    return kind(**values)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of a field: a whole number stands for a float too."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(item, get_args(kind)[0]) for item in value)
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


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


def with_optimizer(recipe: Recipe, optimizer: str) -> Recipe:
    """Another optimizer. AdamW gets the learning rate, of 16 images, and the weight decay with
    which Swin Transformer's detectors were trained: Liu et al. (2021), section 4.2."""
    schedule: dict[str, Any] = dict(optimizer=optimizer)
    if optimizer == "adamw" != recipe.schedule.optimizer:
        schedule |= dict(lr=1e-4 * recipe.schedule.images_per_step / 16, weight_decay=0.05)
    return change(recipe, schedule=schedule)


def with_lr_scheduler(recipe: Recipe, lr_scheduler: str) -> Recipe:
    """Another way for the learning rate to fall; only steps have milestones."""
    schedule: dict[str, Any] = dict(lr_scheduler=lr_scheduler)
    if lr_scheduler != "multistep":
        schedule |= dict(milestones=())
    return change(recipe, schedule=schedule)


def with_coco_weights(recipe: Recipe) -> Recipe:
    """Start from torchvision's COCO_V1 detector, which was trained with epsilon 0 in its norms."""
    return change(recipe, weights="coco", backbone=dict(norm_eps=0.0))


def with_measured_pixels(recipe: Recipe) -> Recipe:
    """Mean and std of the training images in place of those of RGB images. Stds of 1 stay: weights
    that were trained without a division are used without one."""
    std = recipe.input.image_std
    return change(recipe, input=dict(image_mean=(), image_std=std if {*std} == {1.0} else ()))
