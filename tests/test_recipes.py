"""Recipes: what a user's change changes, and what is refused."""

import json
from dataclasses import asdict

import pytest

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_valid_named_and_labelled(name: str):
    recipe = recipes.get(name)
    recipes.check(recipe)
    assert recipe.name == name
    assert recipes.RECIPES[name].label()
    assert recipes.from_dict(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_torchvision_recipe_is_its_reference_run():
    schedule = recipes.get("fasterrcnn_r50_fpn_torchvision").schedule
    assert (schedule.epochs, schedule.milestones) == (26, (16, 22))
    assert (schedule.lr, schedule.images_per_step, schedule.warmup_steps) == (0.02, 16, 1000)


def test_another_batch_scales_lr_and_keeps_warm_up_in_images():
    base = recipes.fasterrcnn_r50_fpn_1x()
    small = recipes.with_images_per_step(base, 4).schedule
    assert small.lr == pytest.approx(0.005)
    assert small.warmup_steps * 4 == base.schedule.warmup_steps * 16


def test_other_epochs_move_the_milestones():
    assert recipes.with_epochs(recipes.fasterrcnn_r50_fpn_1x(), 24).schedule.milestones == (16, 22)


def test_difference_names_fields():
    base = recipes.fasterrcnn_r50_fpn_1x()
    other = recipes.change(base, seed=3, schedule=dict(lr=0.1))
    assert recipes.difference(base, other) == ["seed: 0 -> 3", "schedule.lr: 0.02 -> 0.1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(schedule=dict(milestones=(8.0, 12.0))), "12: can never fire"),
        (dict(schedule=dict(milestones=(0.0,))), "0: can never fire"),
        (dict(schedule=dict(milestones=(11.0, 8.0))), "must increase"),
        (dict(schedule=dict(images_per_gpu=3)), "choose from 1, 2, 4, 8, 16"),
        (dict(schedule=dict(images_per_step=0)), "must be positive"),
        (dict(schedule=dict(epochs=-1.0)), "must be positive"),
        (dict(roi_heads=dict(sampling_ratio=-1)), "sampling-ratio: must be positive, or 0"),
        (dict(input=dict(min_size=2000)), "larger than --input.max-size"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict, message: str):
    with pytest.raises(UsageError, match=message):
        recipes.check(recipes.change(recipes.fasterrcnn_r50_fpn_1x(), **changes))


def test_unknown_names():
    with pytest.raises(UsageError, match=r"did you mean .*fasterrcnn_r50_fpn_1x or"):
        recipes.get("fasterrcnn_r50")
    saved = asdict(recipes.fasterrcnn_r50_fpn_1x())
    saved["input"]["sparkle"] = 1
    with pytest.raises(ValueError, match="sparkle"):
        recipes.from_dict(saved)
