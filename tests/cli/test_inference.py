"""Choices at inference change the model, and say what they changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.cli.inference import Inference, apply
from fasterrcnn.data.annotations import Classes
from fasterrcnn.errors import UsageError
from fasterrcnn.models.build import build
from fasterrcnn.models.views import Views

RECIPE = recipes.fasterrcnn_r10_fpn_shapes()
CLASSES = Classes(("cat", "dog"), (1, 2))


def changed(options: Inference, **changes: object):
    recipe = recipes.change(RECIPE, **changes)
    torch.manual_seed(0)
    model = build(recipe, CLASSES.num_classes).eval()
    return model, *apply(model, recipe, CLASSES, options)


def test_nothing_given_changes_nothing():
    model, recipe, lines = changed(Inference())
    assert recipe == RECIPE
    assert lines == []
    assert model.roi_heads.score_thresh == RECIPE.roi_heads.score_thresh


def test_what_is_given_is_in_the_model_and_named():
    options = Inference(score_threshold=0.2, nms_threshold=0.7, detections_per_image=300,
                        min_size=100, max_size=200, limit=5)  # fmt: skip
    model, recipe, lines = changed(options)
    heads = RECIPE.roi_heads
    assert lines == [
        f"input.min_size: {RECIPE.input.min_size} -> 100",
        f"input.max_size: {RECIPE.input.max_size} -> 200",
        f"roi_heads.score_thresh: {heads.score_thresh} -> 0.2",
        f"roi_heads.nms_thresh: {heads.nms_thresh} -> 0.7",
        f"roi_heads.detections_per_img: {heads.detections_per_img} -> 300",
        "limit: the first 5 images",
    ]
    assert model.roi_heads.config == recipe.roi_heads
    assert model.roi_heads.score_thresh == 0.2
    assert model.transform.config == recipe.input
    assert model.transform([torch.zeros(3, 50, 60, dtype=torch.uint8)]).sizes.tolist() == [
        [100, 120]
    ]


def test_of_other_classes_nothing_is_detected_and_scores_stay():
    torch.manual_seed(1)
    images = [torch.randint(256, (3, 120, 160), dtype=torch.uint8)]
    model, _, _ = changed(Inference(score_threshold=0.0, nms_threshold=1.0))
    (both,) = model(images)
    _, lines = apply(model, RECIPE, CLASSES, Inference(score_threshold=0.0, nms_threshold=1.0,
                                                       classes=("dog",)))  # fmt: skip
    (one,) = model(images)
    assert lines[-1] == "classes: dog of 2"
    assert set(one["labels"].tolist()) == {2}
    assert len(one["labels"]) == RECIPE.roi_heads.detections_per_img, "the other takes no place"
    dogs = both["scores"][both["labels"] == 2]
    assert 0 < len(dogs) < len(one["scores"])
    assert one["scores"][: len(dogs)].equal(dogs)


@pytest.mark.parametrize(
    "flag, value", [("score_threshold", -0.1), ("nms_threshold", 1.1), ("detections_per_image", 0),
                    ("min_size", 0), ("max_size", -1), ("limit", 0)]
)  # fmt: skip
def test_wrong_values(flag: str, value: float):
    with pytest.raises(UsageError, match=f"--{flag.replace('_', '-')}: {value}: must be"):
        changed(Inference(**{flag: value}))


def test_sizes_that_do_not_go_together_and_unknown_classes():
    with pytest.raises(UsageError, match="--min-size: 9000: larger than --max-size"):
        changed(Inference(min_size=9000))
    with pytest.raises(UsageError, match="--classes: cow: not in the data; choose from cat, dog"):
        changed(Inference(classes=("cow",)))


def test_a_proposal_network_has_no_classes():
    _, recipe, _ = changed(Inference(min_size=100), detector="rpn")
    assert recipe.input.min_size == 100
    with pytest.raises(UsageError, match="--nms-threshold: this run proposes"):
        changed(Inference(nms_threshold=0.5), detector="rpn")
    for options in (Inference(slice=100), Inference(tta=("flip",)), Inference(slice_overlap=0.1)):
        with pytest.raises(UsageError, match="is for the whole detector of a run"):
            changed(options, detector="rpn")


def test_tiles_and_augmentation_are_named():
    _, recipe, lines = changed(Inference(slice=640, tta=("flip", "0.75", "1.25", "0.75")))
    assert recipe == RECIPE
    assert lines == [
        "also detected in: tiles of 640 px, overlap 0.2; mirrored; scale 0.75; scale 1.25"
    ]
    assert Inference().views(RECIPE) is None
    assert Inference(tta=("2",)).views(RECIPE) == Views(scales=(2.0,))
    assert Inference(slice=64, slice_overlap=0.0).views(RECIPE) == Views(slice=64, overlap=0.0)


def test_a_run_on_tiles_detects_in_them_unless_told_otherwise():
    tiles = dict(tile=128, tile_overlap=0.3)
    own = Views(slice=128, overlap=0.3, whole=False)
    for options, expected, said in (
        (Inference(), own, []),
        (Inference(slice=0), None, ["detected in whole images only, unlike in training"]),
        (Inference(slice=64), Views(64), ["also detected in: tiles of 64 px, overlap 0.2"]),
        (Inference(slice_overlap=0.5), replace(own, overlap=0.5),
         ["detected in: tiles of 128 px, overlap 0.5"]),
        (Inference(tta=("flip",)), replace(own, flip=True),
         ["detected in: tiles of 128 px, overlap 0.3; mirrored"]),
    ):  # fmt: skip
        _, recipe, lines = changed(options, data=tiles)
        assert options.views(recipe) == expected
        assert lines == said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(slice=31), "--slice: 31: must be 32 or more"),
        (dict(slice=64, slice_overlap=1.0), "--slice-overlap: 1.0: must be 0 to 0.9"),
        (dict(slice_overlap=0.1), "--slice-overlap: is of tiles; give --slice too"),
        (dict(tta=("flop",)), "--tta: flop: must be flip, or a scale from 0.1 to 10 other than 1"),
        (dict(tta=("0",)), "--tta: 0: must be flip"),
        (dict(tta=("nan",)), "--tta: nan: must be flip"),
        (dict(tta=("1.0",)), "--tta: 1.0: must be flip"),
    ],
)
def test_wrong_tiles_and_augmentation(options: dict, message: str):
    with pytest.raises(UsageError, match=message):
        changed(Inference(**options))
