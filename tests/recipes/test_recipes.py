"""Recipes: what a user's change changes, and what is refused."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from fasterrcnn import recipes
from fasterrcnn.commands.recipes import main as show
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


def test_v2_recipe_is_torchvisions_run():
    """Pull request 5763: 32 GPUs x 2 images, --lr 0.1 --data-augmentation lsj, 1024 px."""
    recipe = recipes.get("fasterrcnn_r50_fpn_v2_torchvision")
    assert (recipe.schedule.images_per_step, recipe.schedule.lr) == (64, 0.1)
    assert (recipe.schedule.epochs, recipe.schedule.milestones) == (400, (352, 384))
    assert recipe.schedule.weight_decay == 4e-5
    assert recipe.augment == recipes.Augment(jitter=True, jitter_size=1024)
    assert (recipe.input.min_size, recipe.input.max_size) == (800, 1333)  # in evaluation


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
        (dict(schedule=dict(milestones=(0.0,))), "milestones: 0.0: must be positive"),
        (dict(schedule=dict(milestones=(11.0, 8.0))), "must increase"),
        (dict(schedule=dict(images_per_gpu=3)), "choose from 1, 2, 4, 8, 16"),
        (dict(schedule=dict(images_per_step=0)), "images-per-step: 0: must be 1 or more"),
        (dict(schedule=dict(epochs=-1.0)), "must be positive"),
        (dict(data=dict(repeat_threshold=-0.1)), "repeat-threshold: -0.1: must be 0 to 1"),
        (dict(data=dict(repeat_threshold=5.0)), "repeat-threshold: 5.0: must be 0 to 1"),
        (dict(data=dict(repeat_threshold=float("nan"))), "repeat-threshold: nan: must be 0 to 1"),
        (dict(roi_heads=dict(sampling_ratio=-1)), "sampling-ratio: -1: must be 0 or more"),
        (dict(input=dict(min_size=2000)), "larger than --input.max-size"),
        (dict(input=dict(train_min_sizes=(640, 900))), "900: must be 1 to --input.min-size 800"),
        (dict(input=dict(train_sampling="range", train_min_sizes=(640,))), "needs two"),
        (dict(augment=dict(jitter_size=0)), "jitter-size: 0: must be 1 or more"),
        (dict(augment=dict(jitter=True), detector="fast_rcnn"), "do not follow"),
        (dict(augment=dict(zoom_out=True), detector="fast_rcnn"), "do not follow"),
        (dict(augment=dict(iou_crop=True), detector="fast_rcnn"), "do not follow"),
        (dict(backbone=dict(neck="none")), "res5 goes with"),
        (dict(roi_heads=dict(head="res5")), "res5 goes with"),
        (dict(backbone=dict(dilation=2)), "dilation: needs --backbone.neck none"),
        (dict(backbone=dict(deformable_groups=2)), "deformable-groups: needs"),
        (
            dict(backbone=dict(name="resnet18", deformable="v1")),
            "deformable: only ResNets of three",
        ),
        (dict(roi_heads=dict(stages=0)), "stages: 0: must be 1 to 8"),
        (dict(roi_heads=dict(stages=2)), "stage-iou-thresh: 3 values, 2 stages have 2"),
        (
            dict(roi_heads=dict(stages=3, stage_reg_weights=(1.0,) * 4)),
            "stage-reg-weights: 4 values, 3 stages have 12",
        ),
        (dict(roi_heads=dict(stages=3, fg_iou_thresh=0.6)), "fg-iou-thresh: a cascade has"),
        (dict(roi_heads=dict(stage_average="logits")), "stage-average: needs --roi-heads.stages"),
        (
            dict(
                roi_heads=dict(stages=3, head="res5"),
                backbone=dict(neck="none"),
                rpn=dict(all_sizes_per_level=True),
            ),
            "a cascade cannot have --roi-heads.head res5",
        ),
        (dict(rpn=dict(edge_anchors=False)), "needs --no-rpn.border-anchors"),
        (dict(backbone=dict(fpn_norm="0")), "--backbone.fpn-norm: 0: must be one of none, "),
        (dict(backbone=dict(neck="none"), detector="rpn"), "needs --rpn.all-sizes-per-level"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict, message: str):
    with pytest.raises(UsageError, match=message):
        recipes.check(recipes.change(recipes.fasterrcnn_r50_fpn_1x(), **changes))


@pytest.mark.parametrize(("given", "message"), [
    (dict(bands=(4, 3, 4)), "--input.bands: 4,3,4: names a band twice"),
    (dict(bands=(4, 3), channels=4), "--input.channels: 4: --input.bands are 2; leave it out"),
    (dict(channels=4, rgb_bands=(1, 2)), "--input.rgb-bands: 1,2: must be three"),
    (dict(channels=4, image_mean=(0.5, 0.5)), "--input.image-mean: 2 values; must be 4"),
    (dict(channels=4, rgb_bands=(5, 2, 1)), "--input.rgb-bands: 5,2,1: the input has 4 channels"),
    (dict(channels=-1), "--input.channels: -1: must be 0 or more"),
    (dict(bands=(0, 1)), "--input.bands: 0,1: must be 1 or more"),
])  # fmt: skip
def test_channels_and_bands_must_go_together(given: dict, message: str):
    recipe = recipes.change(recipes.fasterrcnn_r50_fpn_1x(), input=given)
    with pytest.raises(UsageError, match=re.escape(message)):
        recipes.check(recipe)


def test_colors_are_distorted_only_where_there_are_colors():
    recipe = recipes.change(recipes.fasterrcnn_r50_fpn_1x(), augment=dict(photometric=True))
    recipes.check(recipes.change(recipe, input=dict(bands=(3, 2, 1))))
    for given in (dict(channels=4), dict(channels=1), dict(bands=(8, 4, 3), rgb_bands=(4, 3, 2))):
        with pytest.raises(UsageError, match=r"--augment\.photometric: .* red, green and blue"):
            recipes.check(recipes.change(recipe, input=given))


def test_colors_can_be_distorted_where_stored_proposals_stay_valid():
    base = recipes.fasterrcnn_r50_fpn_1x()
    recipes.check(recipes.change(base, augment=dict(photometric=True), detector="fast_rcnn"))


def test_a_recipe_saved_before_there_was_augmentation_has_none():
    saved = asdict(recipes.fasterrcnn_r50_fpn_1x())
    del saved["augment"]
    assert recipes.from_dict(saved) == recipes.fasterrcnn_r50_fpn_1x()


def test_unknown_names():
    with pytest.raises(UsageError, match=r"did you mean .*fasterrcnn_r50_fpn_1x or"):
        recipes.get("fasterrcnn_r50")
    saved = asdict(recipes.fasterrcnn_r50_fpn_1x())
    saved["input"]["sparkle"] = 1
    with pytest.raises(ValueError, match="sparkle"):
        recipes.from_dict(saved)


def test_a_recipe_saved_before_a_field_existed_has_its_default():
    saved = asdict(recipes.fasterrcnn_r50_fpn_1x())
    del saved["data"]["repeat_threshold"]
    assert recipes.from_dict(saved) == recipes.fasterrcnn_r50_fpn_1x()


def test_all_are_listed(capsys):
    show([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["recipe", "backbone", "style", "schedule"]
    assert [line.split()[0] for line in lines[1:]] == list(recipes.RECIPES)
    (row,) = (line for line in lines if line.startswith("rpn_r50_caffe_fpn_1x_mmdetection "))
    assert row.split(maxsplit=6)[1:6] == ["resnet50", "caffe", "1x", "AR_1000", "58.7"]
    assert row.endswith("MMDetection 3.3 configs/rpn/rpn_r50-caffe_fpn_1x_coco.py")


def test_one_in_full(capsys):
    show(["fasterrcnn_r50_fpn_1x"])
    out = capsys.readouterr().out
    assert "box AP 37.4" in out
    assert "not yet measured" in out
    assert "41,704,036 parameters" in out
    assert "0.002 from step 58640, 0.0002 from step 80630" in out
    assert "anchor_sizes=32,64,128,256,512" in out


def test_what_differs(capsys):
    show(["--diff", "rpn_r50_fpn_1x_mmdetection", "rpn_r50_fpn_2x_mmdetection"])
    assert capsys.readouterr().out.splitlines() == [
        "name: rpn_r50_fpn_1x_mmdetection -> rpn_r50_fpn_2x_mmdetection",
        "schedule.epochs: 12.0 -> 24.0",
        "schedule.milestones: (8.0, 11.0) -> (16.0, 22.0)",
    ]
    with pytest.raises(UsageError, match="needs two recipes, 1 given"):
        show(["--diff", "rpn_r50_fpn_1x_mmdetection"])


def test_as_json(capsys):
    show(["--json", "rpn_x101_64x4d_fpn_1x_mmdetection"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["published"]["value"] == 61.0
    assert found["backbone"]["name"] == "resnext101_64x4d"
    assert found["rpn"]["beta"] == 0.0


def test_plot(tmp_path: Path, capsys):
    names = "rpn_r50_fpn_1x_mmdetection", "fasterrcnn_r50_fpn_3x_detectron2"
    show(["--plot", str(tmp_path / "lr.png"), *names])
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="name the recipes"):
        show(["--plot", str(tmp_path / "x.png")])


def test_a_fine_tuning_recipe_asks_for_weights():
    recipe = recipes.get("fasterrcnn_r50_caffe_fpn_ms_1x_person_mmdetection")
    assert recipe.weights == ""
    assert recipe.data.classes == ("person",)
