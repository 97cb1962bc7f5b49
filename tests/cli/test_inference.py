"""Choices at inference change the model, and say what they changed."""

from __future__ import annotations

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.cli.inference import Inference, apply
from fasterrcnn.data.annotations import Classes
from fasterrcnn.errors import UsageError
from fasterrcnn.models.build import build

RECIPE = recipes.fasterrcnn_r10_fpn_shapes()
CLASSES = Classes(("cat", "dog"), (1, 2))


def changed(options: Inference, **changes: object):
    recipe = recipes.change(RECIPE, **changes)
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
