"""RoIAlign over a pyramid against torchvision's, values and gradients."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from fasterrcnn.models.roi_align import level_of, pyramid_roi_align
from fasterrcnn.recipes import RoIHeads

STRIDES = (4, 8, 16, 32)
SIZE = (256, 320)


def pyramid(n: int, channels: int = 8) -> list[torch.Tensor]:
    return [torch.randn(n, channels, SIZE[0] // s, SIZE[1] // s).requires_grad_() for s in STRIDES]


def some_rois(n: int, count: int) -> torch.Tensor:
    """Of all sizes, some outside the image, some without area."""
    corner = torch.rand(n, count, 2) * 320 - 20
    side = torch.exp(torch.rand(n, count, 2) * 7)
    rois = torch.cat([corner, corner + side], dim=-1)
    rois[:, 0] = 0
    rois[:, 1] = torch.tensor([-500.0, -500.0, -400.0, -450.0])
    rois[:, 2] = torch.tensor([0.0, 0.0, SIZE[1], SIZE[0]])
    return rois


@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
@pytest.mark.parametrize("bins", [3, 7])
def test_values_and_gradients_are_torchvisions(bins: int, sampling_ratio: int):
    torch.manual_seed(2)
    ours = pyramid(2)
    theirs = [f.detach().clone().requires_grad_() for f in ours]
    rois = some_rois(2, 40)
    recipe = RoIHeads(pool_size=bins, sampling_ratio=sampling_ratio)
    pooled = pyramid_roi_align(ours, rois, STRIDES, recipe)
    stock = MultiScaleRoIAlign(["0", "1", "2", "3"], bins, sampling_ratio)
    expected = stock(
        OrderedDict((str(i), f) for i, f in enumerate(theirs)), list(rois), [SIZE, SIZE]
    )
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(expected)
    (pooled * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad - b.grad).norm() <= 1e-5 * b.grad.norm()


def test_levels_are_torchvisions():
    torch.manual_seed(3)
    rois = some_rois(1, 5000)
    sides = torch.tensor([56.0, 112, 224, 448, 896])  # where levels change
    exact = torch.stack([torch.zeros(5), torch.zeros(5), sides, sides], dim=1)
    rois = torch.cat([rois, exact[None]], dim=1)
    assert level_of(rois, STRIDES)[0].equal(LevelMapper(2, 5)([rois[0]]))


def test_half_precision_features_are_summed_in_float32():
    torch.manual_seed(4)
    features = [f.detach() for f in pyramid(1)]
    rois = some_rois(1, 20)
    half = [f.bfloat16() for f in features]
    expected = pyramid_roi_align([f.float() for f in half], rois, STRIDES, RoIHeads())
    assert pyramid_roi_align(half, rois, STRIDES, RoIHeads()).equal(expected)
