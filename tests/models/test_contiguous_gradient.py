"""Convolutions whose weight gradient is computed in contiguous order are torch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fasterrcnn import recipes
from fasterrcnn.models import contiguous_gradient
from fasterrcnn.models.build import build
from fasterrcnn.models.contiguous_gradient import Conv2d, use_contiguous_gradients


@pytest.fixture(autouse=True)
def _an_older_cpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["nothing", "weight", "bias"])
def test_values_and_gradients(stride: int, bias: bool, frozen: str):
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 7, 3, stride, padding=1, bias=bias).double()
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name != frozen)
    ours = copy.deepcopy(plain)
    use_contiguous_gradients(nn.Sequential(ours))
    assert type(ours) is Conv2d
    image = torch.randn(2, 5, 9, 8, dtype=torch.double).contiguous(
        memory_format=torch.channels_last
    )
    inputs = [image.clone().requires_grad_() for _ in range(2)]
    outputs = [conv(x) for conv, x in zip((plain, ours), inputs, strict=True)]
    for output in outputs:
        (output * torch.linspace(0, 1, output.numel()).view_as(output)).sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) == (not b.requires_grad)
        if b.requires_grad:
            torch.testing.assert_close(a.grad, b.grad)


def test_the_weight_gradient_is_computed_in_contiguous_order():
    """In float32 too, where it is used; as torch computes it, it has the order of activations."""
    torch.manual_seed(0)
    x, weight = (
        torch.randn(*shape).contiguous(memory_format=torch.channels_last)
        for shape in ((2, 5, 9, 8), (7, 5, 3, 3))
    )
    weight.requires_grad_()
    gradients = []
    for convolve in (contiguous_gradient._Convolution.apply, nn.functional.conv2d):
        out = convolve(x, weight, None, (1, 1), (1, 1), (1, 1))
        gradients += torch.autograd.grad(out.sin().sum(), weight)
    torch.testing.assert_close(*gradients)
    assert [g.is_contiguous() for g in gradients] == [True, False]


def test_which_convolutions():
    detector = build(recipes.get("fasterrcnn_x101_64x4d_fpn_1x"), 3)
    body = detector.backbone.body
    assert type(body.layer1[0].conv2) is nn.Conv2d  # grouped
    assert type(body.conv1) is type(body.layer1[0].conv1) is nn.Conv2d
    assert type(detector.backbone.fpn.layer_blocks[0][0]) is Conv2d
    assert type(build(recipes.fasterrcnn_r10_fpn_shapes(), 3).backbone.body.layer1[0].conv2) is (
        Conv2d
    )


def test_newer_cpus_do_without(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    conv = nn.Conv2d(3, 3, 3)
    use_contiguous_gradients(conv)
    assert type(conv) is nn.Conv2d


@pytest.mark.parametrize("amp", [False, True])
def test_only_in_float32(monkeypatch, amp: bool):
    calls, apply = [], contiguous_gradient._Convolution.apply
    monkeypatch.setattr(
        contiguous_gradient._Convolution,
        "apply",
        lambda *arguments: calls.append(1) or apply(*arguments),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        Conv2d(3, 3, 3)(torch.rand(1, 3, 5, 5))
    assert bool(calls) != amp
