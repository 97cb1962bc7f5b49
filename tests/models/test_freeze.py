"""Parts of a detector that are named to be frozen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fasterrcnn import recipes
from fasterrcnn.engine.step import make_optimizer
from fasterrcnn.errors import UsageError
from fasterrcnn.models.build import Detector, build

SMALL = recipes.change(
    recipes.fasterrcnn_r10_fpn_shapes(),
    backbone=dict(fpn_channels=8),
    roi_heads=dict(head="4conv1fc", representation_size=8),
)


def detector(*prefixes: str) -> Detector:
    return build(recipes.change(SMALL, freeze=prefixes), 3)


def trained(model: Detector) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_what_is_named_is_not_trained_and_the_rest_is():
    everything = trained(detector())
    frozen = everything - trained(detector("rpn.head.cls_logits", "backbone.body.layer4"))
    assert {name for name in frozen if not name.startswith("backbone.body.layer4.")} == {
        "rpn.head.cls_logits.weight", "rpn.head.cls_logits.bias",
    }  # fmt: skip
    assert {n for n in everything if n.startswith("backbone.body.layer4.")} <= frozen


def test_one_parameter_can_be_named_but_not_half_a_word():
    name = "rpn.head.cls_logits.bias"
    assert trained(detector()) - trained(detector(name)) == {name}
    with pytest.raises(UsageError, match=r"--freeze: rpn.head.cls: no parameter's name begins so"):
        detector("rpn.head.cls")


@pytest.mark.parametrize(
    ("prefix", "there"),
    [
        ("rnp", "backbone, roi_heads, rpn"),
        ("", "backbone, roi_heads, rpn"),
        ("rpn.hed", "rpn.head"),
        ("roi_heads.box_predictor.x.y", "roi_heads.box_predictor.bbox_pred, "
         "roi_heads.box_predictor.cls_score"),
    ],
)  # fmt: skip
def test_an_unknown_part_is_answered_with_those_that_exist(prefix: str, there: str):
    with pytest.raises(UsageError) as error:
        detector("rpn", prefix)
    assert str(error.value) == (
        f"--freeze: {prefix}: no parameter's name begins so; there are {there}"
    )


def test_norms_of_a_frozen_part_keep_their_statistics_in_an_average_too():
    model = detector("roi_heads.box_head")
    average = copy.deepcopy(model)
    for each in (model, average):
        each.train()
        norms = [m for m in each.roi_heads.box_head.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == 4
        assert not any(norm.training for norm in norms)
        assert each.backbone.body.bn1.training
    assert model.state_dict().keys() == detector().state_dict().keys()


def test_frozen_parameters_have_no_optimizer_state_and_do_not_decay():
    model = detector("backbone", "rpn")
    optimizer = make_optimizer(model, recipes.Schedule())
    names = {n for n, parameter in model.named_parameters() if parameter in optimizer.state}
    assert names == {name for name in trained(detector()) if name.startswith("roi_heads.")}


def test_something_must_be_left_to_train():
    with pytest.raises(UsageError, match="--freeze: leaves nothing to train"):
        make_optimizer(detector("backbone", "rpn", "roi_heads"), recipes.Schedule())


@pytest.mark.parametrize("kind", ["faster_rcnn", "rpn"])
@pytest.mark.parametrize("prefix", ["backbone", "backbone.body", "rpn", "rpn.head.conv"])
def test_gradients_of_the_rest_are_those_of_an_unfrozen_detector(kind: str, prefix: str):
    """Norms without statistics of the batch, which frozen ones do not take."""
    changes = dict(backbone=dict(norm="affine"), roi_heads=dict(head="2fc"))
    recipe = recipes.change(SMALL, detector=kind, **changes)
    images = [torch.randint(0, 255, (3, 96, 96), dtype=torch.uint8)]
    boxes = torch.tensor([[10.0, 10, 60, 60]])
    found = []
    for prefixes in ((), (prefix,)):
        torch.manual_seed(0)
        model = build(
            recipes.change(recipe, freeze=prefixes, roi_heads=dict(head="2fc")), 3
        ).train()
        torch.manual_seed(1)
        sum(model(images, [{"boxes": boxes, "labels": torch.tensor([1])}]).values()).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    whole, rest = found
    assert rest.keys() == {n for n in whole if not n.startswith(f"{prefix}.")}
    assert rest
    for name, gradient in rest.items():
        torch.testing.assert_close(gradient, whole[name])
