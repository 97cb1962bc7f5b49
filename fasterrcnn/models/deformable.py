"""Deformable 3x3 convolutions, by torchvision's operator.

v1: Dai et al., "Deformable Convolutional Networks", arXiv 1703.06211. v2 also weighs the samples:
Zhu et al., arXiv 1811.11168. As Detectron2 and MMDetection compute them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from fasterrcnn import recipes


class ModulatedOffsets(nn.Conv2d):
    """Predicts the logits of the samples' weights too."""


def offset_conv(conv: nn.Conv2d, config: recipes.Backbone) -> nn.Conv2d:
    """What predicts, for every cell of the output of `conv`, offsets (y, x) of the 9 taps of each
    group (cells), and for v2 then the logits of their weights. It starts with zeros."""
    per_tap = 3 if config.deformable == "v2" else 2
    kind = ModulatedOffsets if config.deformable == "v2" else nn.Conv2d
    made = kind(
        conv.in_channels,
        per_tap * 9 * config.deformable_groups,
        3,
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
    )
    nn.init.zeros_(made.weight)
    assert made.bias is not None
    nn.init.zeros_(made.bias)
    return made


def deformable_conv(
    x: Tensor, conv: nn.Conv2d, offset: nn.Conv2d, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """``(N, C, H, W)`` through `conv` with other weights, its taps moved by what `offset` says.

    Samples are taken in float32; autocast computes the offsets in its own precision.
    """
    moved, weights = offset(x).float(), None
    if isinstance(offset, ModulatedOffsets):
        taps = moved.shape[1] // 3
        moved, weights = moved[:, : 2 * taps], moved[:, 2 * taps :].sigmoid()
    return deform_conv2d(
        x.float(), moved, weight.float(), bias,
        stride=conv.stride, padding=conv.padding, dilation=conv.dilation, mask=weights,
    )  # fmt: skip
