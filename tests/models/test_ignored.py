"""Boxes that a tile shows too little of, in the samplings of every stage."""

from __future__ import annotations

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.models.boxes import Proposals
from fasterrcnn.models.build import build
from fasterrcnn.models.roi_heads import sample_rois
from tests.models.test_cascade import DETECTRON2, MMDETECTION

RECIPES = (recipes.fasterrcnn_r10_fpn_shapes(), DETECTRON2, MMDETECTION)
BOX = torch.tensor([[30.0, 40, 70, 90]])


def padded(recipe: recipes.Recipe, ignored: bool | None):
    """The batch of one image with one box."""
    target = {"boxes": BOX, "labels": torch.tensor([2])}
    if ignored is not None:
        target["ignored"] = torch.tensor([ignored])
    model = build(recipe, 4).train()
    return model, model.transform([torch.zeros(3, 128, 128, dtype=torch.uint8)], [target])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_what_would_be_positive_for_an_ignored_box_is_not_sampled(recipe: recipes.Recipe):
    recipe = recipes.change(recipe, input=dict(min_size=128, max_size=128, train_min_sizes=()))
    labels = {}
    for ignored in (None, False, True):
        torch.manual_seed(0)
        model, images = padded(recipe, ignored)
        assert (images.gt_ignored is None) == (ignored is None)
        shapes = tuple((128 // s, 128 // s) for s in model.rpn.strides)
        anchors = torch.cat(model.rpn.anchors(images.pixels, shapes))[None]
        torch.manual_seed(0)
        anchor_sample, _ = model.rpn.sample(images, shapes, anchors)
        near = BOX[None] + torch.tensor([[0.0, 0, 2, 2]])
        proposals = Proposals(torch.cat([near, near + 500], dim=1), torch.tensor([[True, True]]))
        config = recipe.roi_heads
        rois, _ = sample_rois(images, proposals, config, 0.5, 0.5)
        found = [anchor_sample.positive.sum(), rois.positive.sum(), rois.valid.sum()]
        if config.stages > 1:
            found.append(model.roi_heads.rois_of(1, images, proposals, [])[0].positive.sum())
        labels[ignored] = [int(n) for n in found]
    assert labels[None] == labels[False]
    assert labels[None][0] > 0
    assert labels[None][1:3] == [2, 3], "the proposal and the box; the far one is a negative"
    assert labels[True][0] == labels[True][1] == 0
    assert labels[True][2] == 1, "neither the proposal nor the box"
    assert labels[True][3:] == [0] * (len(labels[True]) - 3)
