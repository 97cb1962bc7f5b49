"""Deformable convolutions against a sum over bilinear samples; DC5's strides and dilations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fasterrcnn.models.backbones import build_backbone
from fasterrcnn.models.deformable import deformable_conv, offset_conv
from fasterrcnn.recipes import Backbone


def sampled(x: torch.Tensor, y: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """Bilinear samples of ``(C, H, W)``, zero outside, at ``(...)`` cells."""
    _, h, w = x.shape
    grid = torch.stack([2 * column / (w - 1) - 1, 2 * y / (h - 1) - 1], dim=-1)[None]
    return functional.grid_sample(x[None], grid, align_corners=True)[0]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("stride", [1, 2])
def test_taps_are_moved_and_weighed(version: str, stride: int):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=stride, padding=1, bias=False)
    offset = offset_conv(conv, Backbone(deformable=version))
    x = torch.randn(1, 4, 9, 8)
    plain = conv(x)
    torch.testing.assert_close(
        deformable_conv(x, conv, offset, conv.weight), plain * (0.5 if version == "v2" else 1)
    )
    nn.init.normal_(offset.weight, std=0.3)
    moved = offset(x)[0]
    h, w = plain.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    expected = torch.zeros(6, h, w)
    for tap in range(9):
        y = rows * stride - 1 + tap // 3 + moved[2 * tap]
        column = columns * stride - 1 + tap % 3 + moved[2 * tap + 1]
        value = sampled(x[0], y, column)
        if version == "v2":
            value = value * moved[18 + tap].sigmoid()
        expected += torch.einsum("oc,chw->ohw", conv.weight[:, :, tap // 3, tap % 3], value)
    found = deformable_conv(x, conv, offset, conv.weight)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_only_the_last_three_stages_are_deformable_and_their_offsets_are_trained():
    torch.manual_seed(0)
    backbone, _ = build_backbone(Backbone(deformable="v2", deformable_groups=2, fpn_channels=8))
    convs = {n: m for n, m in backbone.body.named_modules() if n.endswith("conv2_offset")}
    assert len(convs) == 13
    assert {name.split(".")[0] for name in convs} == {"layer2", "layer3", "layer4"}
    assert all(conv.out_channels == 54 for conv in convs.values())
    sum(f.square().mean() for f in backbone(torch.randn(1, 3, 64, 64))).backward()
    assert all(conv.bias.grad.abs().max() > 0 for conv in convs.values())


def test_dc5_has_no_stride_in_the_last_stage_and_dilates_all_of_it():
    backbone, stage = build_backbone(Backbone(neck="none", dilation=2, stride_in_1x1=True))
    assert stage is None
    convs = {n: m for n, m in backbone.body.layer4.named_modules() if isinstance(m, nn.Conv2d)}
    assert all(conv.stride == (1, 1) for conv in convs.values())
    three = [conv for conv in convs.values() if conv.kernel_size == (3, 3)]
    assert [conv.dilation for conv in three] == [(2, 2)] * 3
    assert [conv.padding for conv in three] == [(2, 2)] * 3
    (features,) = backbone(torch.zeros(1, 3, 64, 96))
    assert features.shape == (1, 2048, 4, 6)
