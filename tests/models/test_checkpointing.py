"""Activation checkpointing: the same gradients to the bit from less memory."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.engine import runtime
from fasterrcnn.engine.step import make_training, train_step
from fasterrcnn.errors import UsageError
from fasterrcnn.models.any_backbone import build_backbone
from fasterrcnn.models.build import Detector, build
from fasterrcnn.models.checkpointing import checkpoint_activations
from tests.models.test_any_backbone import detector, recipe_of
from tests.test_no_synchronization import batch

NETWORKS = (
    "resnet18", "swin_t", "regnet_y_400mf", "densenet121", "maxvit_t", "timm:convnextv2_atto",
    "timm:test_vit", "timm:hrnet_w18_small",
)  # fmt: skip
FAST = [("resnet18", "off"), ("swin_t", "off"), ("regnet_y_400mf", "bf16")]


def gradients(model: Detector, recipe: recipes.Recipe, root: Path, amp: str) -> tuple[dict, int]:
    """Gradients of a step as its optimizer has them, and how many values autograd kept of it."""
    rt = runtime.start("cpu")
    recipe = recipes.change(recipe, amp=amp)
    training = make_training(model, recipe, rt)
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        train_step(training, [batch(root)], recipe, 0.01, rt, micro_batches=1)
    names = {p: name for name, p in model.named_parameters()}
    state = training.optimizer.state
    return {names[p]: values["momentum_buffer"] for p, values in state.items()}, sum(kept)


@pytest.mark.parametrize(("name", "amp"), [
    pytest.param(name, amp, marks=() if (name, amp) in FAST else pytest.mark.slow)
    for name in NETWORKS for amp in ("off", "bf16")
])  # fmt: skip
def test_the_bits_are_the_same(shapes_folder: Path, name: str, amp: str):
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm, an extra, is not installed")
    own = name == "resnet18"
    config = dict(trainable_layers=3, norm="affine" if own else "frozen")
    recipe = recipe_of(name, backbone=config | dict(drop_path=0.3 if name == "swin_t" else 0.0))
    torch.manual_seed(0)
    plain = build(recipe, 7)
    checkpointed = copy.deepcopy(plain).train()
    assert checkpoint_activations(checkpointed.backbone) > 3
    expected, before = gradients(plain, recipe, shapes_folder, amp)
    found, after = gradients(checkpointed, recipe, shapes_folder, amp)
    assert after < 0.8 * before
    assert [key for key in expected if not expected[key].equal(found[key])] == []
    assert sum(g.abs().max() > 0 for g in found.values()) > 20


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_the_faster_layers_are_those_of_the_forward_pass(amp: str):
    """Of `models.cpu`, where this CPU has them: the backward pass is outside of their scope."""
    recipe, found = recipe_of("resnet18", backbone=dict(norm="affine", trainable_layers=5)), []
    torch.manual_seed(0)
    plain = build(recipe, 7).train()
    again = copy.deepcopy(plain)
    checkpoint_activations(again.backbone)
    x = torch.randn(2, 3, 256, 256)  # from 2**19 values on
    for model in (plain, again):
        with runtime.start("cpu").precision(amp):
            loss = sum(level.square().mean() for level in model.backbone(x))
        loss.backward()
        found.append({name: p.grad for name, p in model.backbone.named_parameters()})
    assert [name for name, grad in found[0].items() if not grad.equal(found[1][name])] == []


def test_a_copy_has_its_own_weights():
    """The averaged weights are a copy; one made afterwards computes with its own too."""
    model = detector("swin_t")[1]
    checkpoint_activations(model.backbone)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data.zero_()
    x = torch.randn(1, 3, 64, 64)
    assert other.backbone(x)[0].abs().max() == 0 < model.backbone(x)[0].abs().max()


def test_what_cannot_be_computed_again():
    norms = recipe_of("regnet_y_400mf", backbone=dict(norm="batch"))
    with pytest.raises(
        UsageError, match=r"checkpoint-activations: .* needs --backbone.norm frozen"
    ):
        checkpoint_activations(build(norms, 7).train().backbone)
    with pytest.raises(UsageError, match="checkpoint-activations: this backbone has no blocks"):
        config = recipes.Backbone(name="vgg16", neck="none", base_channels=4)
        checkpoint_activations(build_backbone(config)[0])
