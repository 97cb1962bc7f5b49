"""Group norm in body, pyramid and box head."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import resnet18

from fasterrcnn import recipes
from fasterrcnn.data.annotations import Classes
from fasterrcnn.engine import initial_weights
from fasterrcnn.errors import UsageError
from fasterrcnn.models.build import build

RECIPE = recipes.change(
    recipes.get("scratch_fasterrcnn_r50_fpn_3x_gn_detectron2"),
    input=dict(min_size=96, max_size=128, train_min_sizes=()),
    backbone=dict(name="resnet18", fpn_channels=32),
    roi_heads=dict(representation_size=16, batch_size_per_image=8),
)


def test_the_body_is_torchvisions_with_group_norm():
    torch.manual_seed(0)
    mine = build(RECIPE, 3).backbone.body.eval()
    theirs = resnet18(norm_layer=lambda c: nn.GroupNorm(32, c)).eval()
    theirs.load_state_dict(mine.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 96)
    hidden = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    with torch.no_grad():
        for layer, feature in zip(
            ("layer1", "layer2", "layer3", "layer4"), mine(x).values(), strict=True
        ):
            hidden = getattr(theirs, layer)(hidden)
            torch.testing.assert_close(feature, hidden)


def test_the_box_head_is_convolution_norm_relu_four_times():
    heads = build(RECIPE, 3).roi_heads.eval()
    weights = heads.box_head.state_dict()
    pooled = torch.rand(2, 32, 7, 7)
    hidden = pooled
    with torch.no_grad():
        for i in range(4):
            hidden = functional.conv2d(hidden, weights[f"{i}.0.weight"], padding=1)
            scale, shift = weights[f"{i}.1.weight"], weights[f"{i}.1.bias"]
            hidden = functional.group_norm(hidden, 32, scale, shift, 1e-5).relu()
        expected = functional.linear(hidden.flatten(1), weights["5.weight"], weights["5.bias"])
        torch.testing.assert_close(heads.box_head(pooled), expected.relu())


@pytest.mark.parametrize("stages", [1, 3])
def test_a_step_trains_every_parameter(stages: int):
    torch.manual_seed(0)
    model = build(recipes.change(RECIPE, roi_heads=dict(stages=stages)), 3).train()
    images = [torch.randint(0, 255, (3, 96, 96), dtype=torch.uint8)]
    target = {"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1])}
    sum(model(images, [target]).values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(("changes", "message"), [
    (dict(backbone=dict(fpn_channels=40)), "--backbone.fpn-channels: 40: group norm needs a mul"),
    (dict(backbone=dict(name="swin_t")), "--backbone.norm: group: only resnet10 to resnet152"),
    (dict(backbone=dict(name="timm:resnet50")), "--backbone.norm: group: only resnet10"),
    (dict(roi_heads=dict(head="2fc")), "--roi-heads.head-norm: is of --roi-heads.head 4conv1fc"),
])  # fmt: skip
def test_refusals(changes: dict, message: str):
    with pytest.raises(UsageError, match=message):
        recipes.check(recipes.change(RECIPE, **changes))


def test_weights_of_batch_norms_are_refused(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(resnet18().state_dict(), path)
    recipe = recipes.change(RECIPE, weights=str(path))
    start = partial(initial_weights.initialize, build(recipe, 3), recipe)
    with pytest.raises(
        UsageError, match=r"of a body with batch norms; --backbone\.norm group takes"
    ):
        start(Classes(("a", "b"), (1, 2)))
    torch.save(resnet18(norm_layer=lambda c: nn.GroupNorm(32, c)).state_dict(), path)
    start(Classes(("a", "b"), (1, 2)))
