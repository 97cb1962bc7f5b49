"""Bias, sum and ReLU after a convolution, by the Triton kernel: in Triton's interpreter, compiled
without a GPU, and on one."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.models import kernel_code

SETUP = """
import sys
import torch
from fasterrcnn.models import bias_relu_kernels, conv_norm, conv_relu

conv_relu._half_by_kernel = lambda x: True  # in float32 and on a CPU too
conv_relu._MIN_OUTPUT = 0
torch.manual_seed(0)
last = dict(memory_format=torch.channels_last)
nearest = torch.nn.functional.interpolate
"""

INTERPRETED = (
    SETUP
    + """
def check(found, out, inputs, step):
    torch.testing.assert_close(found.float(), out, rtol=step, atol=0)
    seed = torch.randn(out.shape)
    mine, theirs = (
        torch.autograd.grad(each, inputs, seed.to(each.dtype)) if len(out) else []
        for each in (found, out)
    )
    for a, b, of in zip(mine, theirs, inputs):
        assert a.dtype == of.dtype
        torch.testing.assert_close(a, b, rtol=8 * step, atol=16 * step)

assert bias_relu_kernels.agrees(torch.device("cpu"))
cases = 0
for dtype in (torch.float16, torch.bfloat16, torch.float32):
    step = torch.finfo(dtype).eps
    for channels in map(int, sys.argv[1:]):
        for n, h, w in ((1, 1, 1), (2, 3, 5), (1, 9, 7), (0, 3, 5), (2, 6, 4)):
            for kind in (None, "same", "float32", "nchw", "offset", "half"):
                if kind == "half":
                    h, w = 2 * h, 2 * w
                x = torch.randn(n, 4, h, w).to(dtype).contiguous(**last).requires_grad_()
                conv = torch.nn.Conv2d(4, channels, 1, dtype=dtype)
                conv.bias.data.normal_()
                weight, bias, more = conv.weight, conv.bias, None
                half = 2 if kind == "half" else 1
                if kind is not None:
                    more = torch.randn(n + 1, channels, h // half, w // half).to(dtype)
                    more = more.contiguous(**last)[1:]
                    more = more.float() if kind == "float32" else more
                    more = more.contiguous() if kind == "nchw" else more
                    more = more.clone() if kind != "offset" else more
                    more.requires_grad_()
                out = torch.conv2d(x, weight).float() + bias.float()[:, None, None]
                if kind == "half":
                    found = conv_relu.conv_sum(x, torch.nn.Sequential(conv), more)
                    out = out + (nearest(more.float(), scale_factor=2) if n else 0)
                else:
                    geometry = (1, 1), (0, 0), (1, 1), 1
                    found = conv_relu.conv_relu(x, weight, bias, *geometry, residual=more)
                    out = (out if more is None else out + more.to(dtype).float()).relu()
                check(found, out, [x, bias] + [more] * (more is not None), step)
                cases += 1
x = torch.full((1, 3, 2, 2), float("nan")).half().contiguous(**last)
torch.ops.fasterrcnn.add_bias_(x, torch.zeros(3).half(), None, True)
assert x.isnan().all()
print(cases, "cases are right")
"""
)

BLOCKS = (
    SETUP
    + """
from functools import partial
from fasterrcnn.models.backbones import AffineBatchNorm2d, BasicBlock, Bottleneck

calls = []
kernel = bias_relu_kernels.add_bias_
bias_relu_kernels.add_bias_ = lambda *a, **b: (calls.append(1), kernel(*a, **b))[1]

def norm(channels):
    made = AffineBatchNorm2d(channels)
    for value in (made.weight.data, made.bias.data, made.running_mean, made.running_var):
        value.uniform_(0.5, 1.5)
    return made

def found(compute, module, x):
    module.zero_grad()
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = compute(x)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return [out, x.grad, *(p.grad for p in module.parameters())]

for kind, width in ((BasicBlock, 8), (Bottleneck, 32)):
    down = torch.nn.Sequential(torch.nn.Conv2d(6, width, 1, 2, bias=False), norm(width))
    block = kind(6, 8, 2, down, norm_layer=norm)
    x = torch.randn(2, 6, 9, 8).contiguous(**last)
    mine = found(block, block, x)
    theirs = found(partial(kind.__mro__[1].forward, block), block, x)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
assert len(calls) == 2 + 3
stem = torch.nn.Sequential(torch.nn.Conv2d(3, 65, 7, 2, 3, bias=False), norm(65))
pool = torch.nn.MaxPool2d(3, 2, 1)
for x in (torch.randn(2, 3, 23, 30), torch.zeros(1, 3, 8, 8)):
    x = x.contiguous(**last)
    mine = found(lambda x: conv_norm.pooled_conv_norm(x, *stem, pool), stem, x)
    theirs = found(lambda x: pool(conv_norm.conv_norm(x, *stem, relu=True)), stem, x)
    assert mine[0].equal(theirs[0])
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
values = (torch.randn(2, 3, 9, 9) * 4).half().contiguous(**last)  # ties once they are rounded
bias = torch.randn(3) * 100
both = [each.clone() for each in (values, pool(values))]
for each in both:
    torch.ops.fasterrcnn.add_bias_(each, bias, None, True)
assert pool(both[0]).equal(both[1]) and both[1].any()
print("right")
"""
)


@pytest.mark.parametrize(
    ("channels", "cases"),
    [(("65",), 90), pytest.param(("1", "63", "64", "300", "512"), 450, marks=pytest.mark.slow)],
)
def test_in_the_interpreter_results_and_gradients_are_torchs(shell, channels, cases: int):
    pytest.importorskip("triton", reason="this torch has no Triton")
    done = shell(
        [sys.executable, "-W", "ignore", "-c", INTERPRETED, *channels], TRITON_INTERPRET="1"
    )
    assert done.out == f"{cases} cases are right\n", done.err


def test_in_the_interpreter_blocks_and_stem_are_torchs_with_trained_norms(shell):
    """The stem's bits are those of pooling last."""
    pytest.importorskip("triton", reason="this torch has no Triton")
    done = shell([sys.executable, "-W", "ignore", "-c", BLOCKS], TRITON_INTERPRET="1")
    assert done.out == "right\n", done.err


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("half", [False, True])
def test_compiled_for_a_gpu_nothing_spills_and_offsets_have_64_bits(half: bool, capability: int):
    code = kernel_code.compile_kernel(
        "bias_relu_kernels",
        "_add_bias",
        dict(
            x="*fp16", bias="*fp16", residual="*fp16", cells="i32", channels="i32", width="i32",
            ADD="constexpr", HALF="constexpr", RELU="constexpr",
            ROWS="constexpr", COLUMNS="constexpr",
        ),
        {"ADD": True, "HALF": half, "RELU": not half, "ROWS": 8, "COLUMNS": 256},
        4,
        capability,
        divisible=("x", "bias", "residual", "channels"),
    )  # fmt: skip
    assert code.spilled == 0
    assert "arith.muli" in code.ttir
    assert "8x256xi64" in code.ttir
    assert "ld.global.v4.b32" in code.ptx  # 16 bytes at a time


@pytest.mark.gpu
@torch.no_grad()
def test_on_the_gpu_results_are_torchs():
    from fasterrcnn.models import bias_relu_kernels

    x = torch.randn(2, 256, 200, 267, device="cuda").half()
    x = x.contiguous(memory_format=torch.channels_last)
    bias = torch.randn(256, device="cuda").half()
    found = x.clone(memory_format=torch.preserve_format)
    bias_relu_kernels.add_bias_(found, bias, x, relu=True)
    expected = (2 * x.float() + bias.float()[:, None, None]).relu()
    torch.testing.assert_close(found.float(), expected, rtol=2**-10, atol=0)
