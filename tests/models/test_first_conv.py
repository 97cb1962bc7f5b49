"""The first convolution for other channels than RGB: what its filters compute."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from fasterrcnn import recipes
from fasterrcnn.models import first_conv
from fasterrcnn.models.build import build
from fasterrcnn.recipes import Input

TINY = recipes.change(
    recipes.fasterrcnn_r10_fpn_shapes(),
    input=dict(min_size=64, max_size=96),
    backbone=dict(fpn_channels=8),
    roi_heads=dict(representation_size=16),
)
WEIGHT = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))


def test_three_channels_keep_their_bits():
    assert first_conv.from_rgb(WEIGHT, Input()).equal(WEIGHT)
    assert first_conv.from_rgb(WEIGHT, Input(bands=(4, 3, 2))).equal(WEIGHT)
    swapped = first_conv.from_rgb(WEIGHT, Input(bands=(1, 2, 3), rgb_bands=(3, 2, 1)))
    assert swapped.equal(WEIGHT.flip(1))
    tensors = {"0.weight": WEIGHT}
    assert first_conv.adapt(tensors, torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)),
                            Input(), Input(bands=(4, 3, 2))) == []  # fmt: skip
    assert tensors["0.weight"] is WEIGHT


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("channels", [1, 2, 4, 10])
def test_gray_in_all_channels_has_the_response_of_gray_rgb(channels: int, order: str):
    config = Input(channels=channels, channel_order=order)
    gray = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(2))
    adapted = first_conv.from_rgb(WEIGHT, config)
    assert adapted.shape == (4, channels, 3, 3)
    found = functional.conv2d(gray.expand(1, channels, 9, 9), adapted)
    torch.testing.assert_close(found, functional.conv2d(gray.expand(1, 3, 9, 9), WEIGHT))


def test_colors_keep_their_filters_and_other_bands_get_the_mean():
    config = Input(bands=(8, 4, 3, 2), rgb_bands=(4, 3, 2))
    mean = WEIGHT.mean(dim=1, keepdim=True)
    wanted = torch.cat([mean, WEIGHT], dim=1) * 0.75
    torch.testing.assert_close(first_conv.from_rgb(WEIGHT, config), wanted)
    bgr = first_conv.from_rgb(WEIGHT.flip(1), replace(config, channel_order="bgr"))
    torch.testing.assert_close(bgr, wanted.flip(1))


def test_one_channel_detects_what_rgb_detects_in_the_repeated_image():
    recipe = recipes.change(
        TINY, input=dict(image_mean=(0.45,) * 3, image_std=(0.23,) * 3),
        backbone=dict(norm="frozen"), roi_heads=dict(score_thresh=0.0),
    )  # fmt: skip
    gray = recipes.change(recipe, input=dict(channels=1, image_mean=(0.45,), image_std=(0.23,)))
    torch.manual_seed(0)
    rgb, one = build(recipe, 4).eval(), build(gray, 4).eval()
    tensors = rgb.state_dict()
    log = first_conv.adapt(tensors, one.backbone.body, recipe.input, gray.input, "backbone.body.")
    assert "their mean for each" in log[0]
    one.load_state_dict(tensors)
    image = torch.randint(0, 256, (1, 120, 150), generator=torch.Generator().manual_seed(3))
    image = image.to(torch.uint8)
    with torch.no_grad():
        (there,), (here,) = rgb([image.expand(3, -1, -1)]), one([image])
    assert len(here["boxes"]) == len(there["boxes"]) > 0
    torch.testing.assert_close(here["boxes"], there["boxes"], atol=1e-3, rtol=0)
    assert here["labels"].equal(there["labels"])


def test_a_network_of_any_number_of_channels_is_built_and_its_fresh_filters_keep_their_size():
    torch.manual_seed(0)
    network = build(recipes.change(TINY, input=dict(channels=5, image_mean=(0.5,) * 5,
                                                    image_std=(0.2,) * 5)), 3)  # fmt: skip
    name, conv = first_conv.find(network.backbone.body)
    assert name == "conv1" and conv.in_channels == 5 and conv.weight.shape[1] == 5
    torch.manual_seed(0)
    stock = first_conv.find(build(TINY, 3).backbone.body)[1].weight
    assert conv.weight.pow(2).sum().item() == pytest.approx(stock.pow(2).sum().item(), rel=0.1)
    network.train()
    losses = network(
        [torch.zeros(5, 64, 64, dtype=torch.uint8)],
        [{"boxes": torch.tensor([[4.0, 4, 30, 30]]), "labels": torch.tensor([1])}],
    )
    sum(losses.values()).backward()
    assert conv.weight.grad is None or conv.weight.grad.shape == conv.weight.shape
