"""Bodies: what is frozen is frozen, as torchvision counts it."""

import pytest
import torch
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.models.backbones import build_backbone


@pytest.mark.parametrize("layers", range(6))
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_trainable_layers_are_torchvisions(layers: int, norm: str):
    kinds = {"frozen": "FrozenBatchNorm2d", "batch": "BatchNorm2d"}
    ours = build_backbone(recipes.Backbone(name="resnet18", norm=norm, trainable_layers=layers))[0]
    norm_layer = type(ours.body.bn1)
    assert norm_layer.__name__ == kinds[norm]
    theirs = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=norm_layer, trainable_layers=layers
    )
    expected = {n: p.requires_grad for n, p in theirs.named_parameters()}
    assert {n: p.requires_grad for n, p in ours.named_parameters()} == expected


def test_levels_and_strides():
    backbone = build_backbone(recipes.Backbone(name="resnet10", fpn_channels=8))[0].eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 128, 192))
    assert [tuple(f.shape[1:]) for f in features] == [
        (8, 128 // stride, 192 // stride) for stride in backbone.strides
    ]


def test_wrong_names_and_numbers():
    with pytest.raises(UsageError, match="choose from resnet10, resnet18"):
        build_backbone(recipes.Backbone(name="resnet49"))
    with pytest.raises(UsageError, match="0 to 5"):
        build_backbone(recipes.Backbone(name="resnet10", trainable_layers=6))


def test_eps_reaches_every_norm():
    backbone = build_backbone(recipes.Backbone(name="resnet10", norm_eps=0.0))[0]
    assert {m.eps for m in backbone.modules() if hasattr(m, "eps")} == {0.0}
