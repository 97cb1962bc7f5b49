"""Bias, sum and ReLU after a convolution, by the Triton kernel: in Triton's interpreter, compiled
without a GPU, and on one."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.models import kernel_code

INTERPRETED = """
import sys
import torch
from fasterrcnn.models import bias_relu_kernels, conv_relu, kernels

kernels.usable = lambda name, device: True  # on a CPU too
conv_relu._by_kernel = lambda x, weight, stride: True
torch.manual_seed(0)
last = dict(memory_format=torch.channels_last)
assert bias_relu_kernels.agrees(torch.device("cpu"))
cases = 0
for dtype in (torch.float16, torch.bfloat16, torch.float32):
    step = torch.finfo(dtype).eps
    for channels in map(int, sys.argv[1:]):
        for shape in ((1, 1, 1), (2, 3, 5), (1, 9, 7), (0, 3, 5)):
            n, h, w = shape
            for residual in (None, "same", "float32", "nchw", "offset"):
                x = torch.randn(n, 4, h, w).to(dtype).contiguous(**last)
                weight = torch.randn(channels, 4, 1, 1).to(dtype)
                bias = torch.randn(channels).to(dtype)
                more = None
                if residual is not None:
                    more = torch.randn(n + 1, channels, h, w).to(dtype).contiguous(**last)[1:]
                    more = more.float() if residual == "float32" else more
                    more = more.contiguous() if residual == "nchw" else more
                    more = more.clone() if residual != "offset" else more
                    more.requires_grad_()
                x.requires_grad_()
                geometry = (1, 1), (0, 0), (1, 1), 1
                found = conv_relu.conv_relu(x, weight, bias, *geometry, residual=more)
                inputs = [x] if more is None else [x, more]
                mine = torch.autograd.grad(found.float().sum(), inputs) if n else []
                out = torch.conv2d(x, weight).float() + bias.float()[:, None, None]
                out = (out if more is None else out + more.to(dtype).float()).relu()
                torch.testing.assert_close(found.float(), out, rtol=step, atol=0)
                theirs = torch.autograd.grad(out.sum(), inputs) if n else []
                for a, b in zip(mine, theirs):
                    assert a.dtype == b.dtype
                    torch.testing.assert_close(a, b, rtol=4 * step, atol=4 * step)
                cases += 1
x = torch.full((1, 3, 2, 2), float("nan")).half().contiguous(**last)
torch.ops.fasterrcnn.bias_relu_(x, torch.zeros(3).half(), None)
assert x.isnan().all()
print(cases, "cases are right")
"""


@pytest.mark.parametrize(
    ("channels", "cases"),
    [(("65",), 60), pytest.param(("1", "63", "64", "300", "512"), 300, marks=pytest.mark.slow)],
)
def test_in_the_interpreter_results_and_gradients_are_torchs(shell, channels, cases: int):
    pytest.importorskip("triton", reason="this torch has no Triton")
    done = shell(
        [sys.executable, "-W", "ignore", "-c", INTERPRETED, *channels], TRITON_INTERPRET="1"
    )
    assert done.out == f"{cases} cases are right\n", done.err


@pytest.mark.parametrize("capability", [80, 90])
def test_compiled_for_a_gpu_nothing_spills_and_offsets_have_64_bits(capability: int):
    code = kernel_code.compile_kernel(
        "bias_relu_kernels",
        "_bias_relu",
        dict(
            x="*fp16", bias="*fp16", residual="*fp16", cells="i32", channels="i32",
            ADD="constexpr", ROWS="constexpr", COLUMNS="constexpr",
        ),
        {"ADD": True, "ROWS": 8, "COLUMNS": 256},
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
    bias_relu_kernels.bias_relu_(found, bias, x)
    expected = (2 * x.float() + bias.float()[:, None, None]).relu()
    torch.testing.assert_close(found.float(), expected, rtol=2**-10, atol=0)
