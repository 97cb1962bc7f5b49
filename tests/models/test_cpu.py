"""Layers computed in the ways that are fast on a CPU are torch's."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from fasterrcnn import recipes
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.models import cpu
from fasterrcnn.models.build import build


@pytest.fixture(autouse=True)
def _an_older_cpu(monkeypatch):
    monkeypatch.setattr(cpu, "has_avx2_only", lambda: True)
    monkeypatch.setattr(cpu, "slow_dtypes", lambda: {torch.bfloat16, torch.float16})


def _channels_last(*shape: int, dtype: torch.dtype = torch.float) -> Tensor:
    return torch.randn(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"stride": 2, "padding": (1, 2)},
        {"padding": 2, "dilation": 2},
        {"padding": "same"},
        {"groups": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("without", ["nothing", "weight gradient", "bias gradient", "bias"])
def test_values_and_gradients_of_convolutions(
    monkeypatch, geometry: dict, kernel: int, without: str
):
    monkeypatch.setattr(cpu, "_MIN_INPUT", 0)
    monkeypatch.setattr(cpu, "_MIN_CHANNELS", 0)
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, kernel, bias=without != "bias", **geometry).double()
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(f"{name} gradient" != without)
    ours = copy.deepcopy(plain)
    image = _channels_last(2, 4, 9, 8, dtype=torch.double)
    inputs = [image.clone().requires_grad_() for _ in range(2)]
    with cpu.Layers():
        outputs = [ours(inputs[0])]
    outputs.append(plain(inputs[1]))
    for output in outputs:
        (output * torch.linspace(0, 1, output.numel()).view_as(output)).sum().backward()
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) == (not b.requires_grad)
        if b.requires_grad:
            torch.testing.assert_close(a.grad, b.grad)


def test_large_weight_gradients_are_matrix_products(monkeypatch):
    """In float32 too, where it is used: about as close to float64's as torch's."""
    torch.manual_seed(0)
    calls, exactly = [], cpu.weight_gradient
    monkeypatch.setattr(cpu, "weight_gradient", lambda *args: calls.append(args) or exactly(*args))
    weight = _channels_last(2, 64, 3, 3).requires_grad_()
    for side, alone, products in ((256, True, 1), (255, True, 0), (256, False, 0)):
        calls.clear()
        monkeypatch.setattr(cpu, "has_avx2_only", lambda alone=alone: alone)
        x, found = _channels_last(1, 64, side, 32), []
        for convolve, dtype in (
            (functional.conv2d, torch.double),
            (functional.conv2d, torch.float),
            (cpu.conv2d, torch.float),
        ):
            y = convolve(x.to(dtype), weight.to(dtype), padding=1)
            (gradient,) = torch.autograd.grad(y.sin().sum(), weight)
            found.append(gradient)
        exact, torchs, ours = found
        assert len(calls) == products
        assert (ours - exact).norm() <= (torchs - exact).norm() * 1.5
        assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (1, 2, 32)])
def test_a_convolution_and_its_relu_in_one_pass_have_the_same_bits(stride, dilation, groups):
    torch.manual_seed(0)
    x, weight = _channels_last(1, 64, 96, 96), torch.randn(32, 64 // groups, 3, 3)
    geometry = (stride, stride), (dilation, dilation), (dilation, dilation), groups
    bias = torch.randn(32)
    plain = cpu.conv_relu(x, weight, bias, *geometry)
    with torch.no_grad(), profile(acc_events=True) as passes:
        fused = cpu.conv_relu(x, weight, bias, *geometry)
    assert fused.equal(plain)
    assert {event.name for event in passes.events()}.isdisjoint({"aten::relu_", "aten::clamp_min_"})


def test_the_work_of_matrix_products_is_counted():
    """Padding is part of it."""
    layer = nn.Conv2d(64, 8, 3, padding=1).to(memory_format=torch.channels_last)
    x, counts = _channels_last(1, 64, 128, 64), []
    for layers in (nullcontext(), cpu.Layers()):
        with FlopCounterMode(display=False) as counter:
            with layers:
                y = layer(x)
            y.sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] < counts[1] <= 1.1 * counts[0]


def test_compiled_weight_gradients_are_not_products(monkeypatch):
    monkeypatch.setattr(cpu, "_MIN_INPUT", 0)
    monkeypatch.setattr(cpu, "weight_gradient", lambda *_: pytest.fail("products in the program"))
    layer = nn.Conv2d(64, 2, 3).to(memory_format=torch.channels_last)

    def squares(x: Tensor) -> Tensor:
        return layer(x).square().sum()

    x = _channels_last(1, 64, 8, 8)
    squares_compiled = torch.compile(squares, fullgraph=True, backend="aot_eager")
    with cpu.Layers():
        (found,) = torch.autograd.grad(squares_compiled(x), layer.weight)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "layer", [nn.Conv2d(5, 7, 3), nn.Conv2d(5, 7, 1), nn.Linear(8, 7)], ids=str
)
def test_half_precision_is_exact_but_for_one_rounding(layer: nn.Module, dtype: torch.dtype):
    """Of the operands, then of the result; so are gradients, before autocast makes them float32."""
    torch.manual_seed(0)
    exact = copy.deepcopy(layer).to(dtype).double()
    image = _channels_last(2, 5, 9, 8)
    x, rounded = image.clone().requires_grad_(), image.to(dtype).double().requires_grad_()
    with torch.autocast("cpu", dtype), cpu.Layers():
        output = layer(x)
    assert output.dtype == dtype
    upstream = torch.randn(output.shape).to(dtype)
    ours = torch.autograd.grad(output, (x, *layer.parameters()), upstream)
    expected = exact(rounded)
    gradients = torch.autograd.grad(expected, (rounded, *exact.parameters()), upstream.double())
    for found, true in zip((output, *ours), (expected, *gradients), strict=True):
        assert torch.equal(found, found.to(dtype).to(found.dtype))
        torch.testing.assert_close(
            found.double(), true, rtol=0.6 * torch.finfo(dtype).eps, atol=1e-5
        )


def test_what_is_too_large_for_fp16_is_infinite():
    with torch.autocast("cpu", torch.float16), cpu.Layers():
        assert functional.linear(torch.full((1, 2), 300.0), torch.full((1, 2), 300.0)).isinf()


def test_what_a_newer_cpu_has_it_computes(monkeypatch):
    monkeypatch.setattr(cpu, "slow_dtypes", lambda: {torch.float16})
    layer, x, made = nn.Linear(8, 7), torch.randn(4, 8), []
    monkeypatch.setattr(cpu, "_rounded", lambda value, dtype: made.append(dtype) or value)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype), cpu.Layers():
            assert layer(x).dtype == dtype
    assert set(made) == {torch.float16}


@pytest.mark.parametrize(
    ("device", "autocast", "avx2", "emulated", "used"),
    [
        ("cpu", None, True, set(), True),
        ("cpu", None, False, {torch.bfloat16}, False),
        ("cpu", torch.bfloat16, False, {torch.bfloat16}, True),
        ("cpu", torch.bfloat16, True, {torch.float16}, False),
        ("cuda", None, True, {torch.bfloat16}, False),
    ],
)
def test_only_where_torch_is_slow(monkeypatch, device, autocast, avx2, emulated, used: bool):
    monkeypatch.setattr(cpu, "has_avx2_only", lambda: avx2)
    monkeypatch.setattr(cpu, "slow_dtypes", lambda: emulated)
    assert isinstance(cpu.fast_layers(torch.device(device), autocast), cpu.Layers) == used


def test_a_torch_that_cannot_tell_computes_bf16_itself(monkeypatch):
    """The probe is private: without it, layers stay torch's, and the import works."""
    monkeypatch.undo()
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    cpu.slow_dtypes.cache_clear()
    assert cpu.slow_dtypes() == {torch.float16}
    cpu.slow_dtypes.cache_clear()


@pytest.mark.parametrize("name", ["fasterrcnn_r10_fpn_shapes", "rpn_r50_fpn_1x_mmdetection"])
def test_every_layer_of_training_and_detecting_is_one(monkeypatch, name: str):
    layers, kinds = [], {functional.conv2d, functional.linear}
    monkeypatch.setattr(
        cpu,
        "_LAYERS",
        {
            kind: lambda *args, f=kind, **kwargs: layers.append(f) or f(*args, **kwargs)
            for kind in kinds
        },
    )
    detector, seen = build(recipes.get(name), 3), []

    class Every(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function in kinds:
                seen.append(function)
            return function(*args, **(kwargs or {}))

    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    target = {"boxes": torch.tensor([[8.0, 8.0, 50.0, 50.0]]), "labels": torch.tensor([1])}
    with Every(), Runtime(torch.device("cpu")).precision("off"):
        detector.train()([image], [target])
        detector.eval()([image])
    assert seen == layers
    assert {functional.conv2d, functional.linear} == set(seen)
