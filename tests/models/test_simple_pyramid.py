"""ViTDet's pyramid: sizes, and the mathematics of a level written out."""

from __future__ import annotations

import torch
from torch.nn import functional

from fasterrcnn.models.simple_pyramid import SimplePyramid


def test_levels_have_the_strides_4_to_64():
    torch.manual_seed(0)
    levels = SimplePyramid(16, 8)(torch.randn(2, 16, 6, 10))
    assert [tuple(level.shape) for level in levels] == [
        (2, 8, 24, 40), (2, 8, 12, 20), (2, 8, 6, 10), (2, 8, 3, 5), (2, 8, 2, 3),
    ]  # fmt: skip
    assert levels[4].equal(levels[3][:, :, ::2, ::2])


def test_a_level_written_out():
    """Normalized over channels after a convolution of one cell, and of 3 x 3."""
    torch.manual_seed(0)
    pyramid = SimplePyramid(16, 8)
    _, half, same, double, _ = pyramid(x := torch.randn(1, 16, 4, 4))

    def normalized(y: torch.Tensor) -> torch.Tensor:
        mean, var = y.mean(1, keepdim=True), y.var(1, keepdim=True, correction=0)
        return (y - mean) / (var + 1e-6).sqrt()

    def head(y: torch.Tensor, one: torch.Tensor, three: torch.Tensor) -> torch.Tensor:
        inner = normalized(functional.conv2d(y, one))
        return normalized(functional.conv2d(inner, three, padding=1))

    weights = [[p for p in level.parameters() if p.dim() == 4] for level in pyramid.levels]
    torch.testing.assert_close(same, head(x, *weights[2]))
    torch.testing.assert_close(double, head(functional.max_pool2d(x, 2), *weights[3]))
    up, one, three = weights[1]
    larger = functional.conv_transpose2d(x, up, pyramid.levels[1][0].bias, stride=2)
    torch.testing.assert_close(half, head(larger, one, three))
