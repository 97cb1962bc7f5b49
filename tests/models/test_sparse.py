"""Patches of a pyramid that is not finished are those of the finished one, gradients included."""

from __future__ import annotations

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.models.backbones import build_backbone
from fasterrcnn.models.build import build
from fasterrcnn.models.sparse import Pyramid, UnfinishedPyramid
from tests.models.test_build import example

RECIPE = recipes.change(
    recipes.get("rpn_r50_fpn_1x_mmdetection"),
    input=dict(min_size=256, max_size=320),
    backbone=dict(name="resnet18", fpn_channels=16),
    rpn=dict(batch_size_per_image=32),
)


@pytest.mark.parametrize("size", [(256, 320), (96, 160)])  # an even and an odd last level
def test_values_and_gradients(size: tuple[int, int]):
    torch.manual_seed(0)
    backbone = build_backbone(RECIPE.backbone)[0]
    image = torch.randn(2, 3, *size)
    dense, sparse = Pyramid(backbone(image)), backbone.pyramid(image, 1)
    assert isinstance(sparse, UnfinishedPyramid)
    assert sparse.shapes == dense.shapes
    cells = sum(h * w for h, w in dense.shapes)
    index = torch.stack([torch.randperm(cells)[:200], torch.arange(cells - 200, cells)])
    index[0, :2] = torch.tensor([0, cells - 1])
    found = []
    for pyramid in (dense, sparse):
        backbone.zero_grad()
        patches = pyramid.patches(index)
        (patches * torch.linspace(-1, 1, patches.shape[-1])).sum().backward()
        grads = [p.grad for p in backbone.parameters() if p.requires_grad]
        found.append([patches.detach(), *(g.clone() for g in grads if g is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-4 * a.norm()


def test_an_rpn_alone_trains_on_the_unfinished_pyramid(monkeypatch):
    """With the same losses and gradients, and without proposals."""
    torch.manual_seed(0)
    model = build(RECIPE, 7).train()
    monkeypatch.setattr(model.rpn, "select", None)  # no top-k, decoding or NMS
    images, targets = example()
    runs = []
    for finished in (False, True):
        if finished:
            monkeypatch.setattr(model.backbone, "pyramid", lambda x, _: Pyramid(model.backbone(x)))
        else:
            monkeypatch.setattr(model.backbone, "forward", None)
        torch.manual_seed(1)
        model.zero_grad()
        losses = model(images, targets)
        sum(losses.values()).backward()
        runs.append([*losses.values(), *(p.grad for p in model.parameters() if p.requires_grad)])
        monkeypatch.undo()
    for a, b in zip(*runs, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


def test_small_images_and_normed_pyramids_are_computed_whole():
    backbone = build_backbone(RECIPE.backbone)[0]
    assert isinstance(backbone.pyramid(torch.zeros(1, 3, 64, 64), 32), Pyramid)
    normed = recipes.change(RECIPE, backbone=dict(fpn_norm="batch")).backbone
    assert isinstance(build_backbone(normed)[0].pyramid(torch.zeros(1, 3, 256, 256), 1), Pyramid)
