"""Which parameters decay, and how fast they learn by depth."""

from __future__ import annotations

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.cli.flags import parse_with_recipe
from fasterrcnn.commands import train
from fasterrcnn.engine.parameter_groups import parameter_groups
from fasterrcnn.errors import UsageError
from fasterrcnn.models.build import build
from tests.models.test_any_backbone import recipe_of


def settings(recipe: recipes.Recipe) -> dict[str, tuple[float, float]]:
    """Factor of the learning rate and weight decay of every trained parameter."""
    with torch.device("meta"):
        model = build(recipe, 7)
    names = {p: name for name, p in model.named_parameters()}
    groups = parameter_groups(model, recipe.schedule)
    found = {names[p]: (g["lr_factor"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(found)
    assert {*found} == {name for name, p in model.named_parameters() if p.requires_grad}
    return found


def test_norms_biases_and_positions_do_not_decay_where_asked():
    schedule = dict(weight_decay=0.05, decay_weights_only=True)
    recipe = recipe_of("swin_v2_t", backbone=dict(trainable_layers=5), schedule=schedule)
    found = settings(recipe)
    vectors = {
        name for name, p in build(recipe, 7).named_parameters() if p.dim() == 1
    } | {name for name in found if "logit_scale" in name}  # fmt: skip
    assert {name for name, (_, decay) in found.items() if decay == 0} == vectors
    assert "backbone.body.features.1.0.attn.logit_scale" in vectors
    plain = settings(recipes.change(recipe, schedule=dict(decay_weights_only=False)))
    assert {decay for _, decay in plain.values()} == {0.05}
    tables = settings(recipe_of("swin_t", schedule=schedule))
    assert tables["backbone.body.features.7.0.attn.relative_position_bias_table"] == (1.0, 0.0)


def test_networks_with_layer_norms_are_asked():
    for name, asked in (("swin_t", True), ("regnet_y_400mf", False), ("resnet101", False)):
        recipe, _ = parse_with_recipe(train.Options, ["--backbone.name", name], "")
        assert recipe.schedule.decay_weights_only == asked


STAGES = {  # a parameter of each stage, the first of the stem
    "resnet18": ["conv1.weight", *(f"layer{i}.0.conv1.weight" for i in (1, 2, 3, 4))],
    "swin_t": ["features.0.0.weight", "features.1.0.mlp.0.weight", "features.2.reduction.weight",
               "features.5.1.mlp.0.weight", "norm.weight"],
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_the_learning_rate_falls_with_depth(name: str):
    recipe = recipe_of(name, backbone=dict(trainable_layers=5), schedule=dict(layer_decay=0.5))
    found = settings(recipe)
    for i, parameter in enumerate(STAGES[name]):
        assert found[f"backbone.body.{parameter}"][0] == 0.5 ** (5 - i), parameter
    others = {f for n, (f, _) in found.items() if not n.startswith("backbone.body.")}
    assert others == {1.0}
    fresh = [f for n, (f, _) in found.items() if "level_norms" in n]
    assert fresh == [1.0] * len(fresh)
    biases = settings(recipes.change(recipe, schedule=dict(bias_lr_factor=2.0)))
    assert biases["rpn.head.conv.0.0.bias"][0] == 2.0
    last = "backbone.body.norm.bias" if name == "swin_t" else "backbone.fpn.inner_blocks.3.0.bias"
    assert biases[last][0] == (0.5 if name == "swin_t" else 2.0)


def test_a_plain_transformer_has_layers():
    pytest.importorskip("timm", reason="timm, an extra, is not installed")
    recipe = recipe_of(
        "timm:vit_tiny_patch16_224",
        backbone=dict(trainable_layers=5),
        schedule=dict(layer_decay=0.5, decay_weights_only=True),
    )
    found, inside = settings(recipe), "backbone.body.network.model."
    assert found[f"{inside}patch_embed.proj.weight"][0] == 0.5**13
    assert found[f"{inside}pos_embed"] == (0.5**13, 0.0)
    assert found[f"{inside}cls_token"] == (0.5**13, 0.0)
    for i in range(12):
        assert found[f"{inside}blocks.{i}.attn.qkv.weight"][0] == 0.5 ** (12 - i)
    assert found[f"{inside}norm.weight"][0] == 0.5


def test_values_that_cannot_be():
    for flag, value, message in (
        ("--schedule.layer-decay", "0", "layer-decay: 0.0: must be above 0, at most 1"),
        ("--schedule.layer-decay", "1.5", "layer-decay: 1.5: must be above 0, at most 1"),
        ("--backbone.drop-path", "1.0", "drop-path: 1.0: must be 0 to below 1"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_with_recipe(train.Options, [flag, value], "")
    recipe = recipe_of(
        "mobilenet_v3_large", schedule=dict(layer_decay=0.5), rpn=dict(anchor_sizes=(32, 64, 128))
    )
    with pytest.raises(UsageError, match="layer-decay: vgg16 and mobilenet_v3_large do not"):
        parameter_groups(build(recipe, 7), recipe.schedule)


def test_groups_of_a_recipe_without_decay_by_depth_are_as_they_were():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    conv, norm = model
    groups = parameter_groups(model, recipes.Schedule(bias_lr_factor=2.0, decay_norms=False))
    assert [(g["params"], g["lr_factor"], g["weight_decay"]) for g in groups] == [
        ([conv.weight], 1.0, 1e-4), ([conv.bias], 2.0, 1e-4), ([norm.weight, norm.bias], 1.0, 0.0),
    ]  # fmt: skip
