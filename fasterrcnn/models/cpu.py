"""Convolutions and linear layers where torch 2.11 is slow on a CPU.

- Weight gradients in float32 of large ungrouped convolutions, channels last, on CPUs with AVX2 but
  without AVX-512: one matrix product per tap of the kernel is up to 5 times as fast.
- A convolution and the ReLU after it, in float32 without gradients: in one pass, to the same bits.
- bf16 where oneDNN has no kernels for it (on x86 it needs AVX-512), and fp16. torch emulates them,
  4 to 8 times slower than float32 forward and 13 to 60 times backward; on CPUs with AVX-512's FP16
  extension, where it does not emulate, a training step in fp16 was measured to take 17 times as
  long as in float32. Here operands and results are rounded as autocast rounds them and the
  arithmetic between is float32, in which half-precision instructions accumulate as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_MIN_INPUT = 2**19  # elements of the input; below, copies cost what the products gain
_MIN_CHANNELS = 64  # of the input; with fewer, the products are too narrow to be fast
_CELLS = 2048  # multiplied at a time: they stay in a cache while all taps are computed


@torch.compiler.assume_constant_result
@cache
def slow_dtypes() -> frozenset[torch.dtype]:
    """The dtypes in which torch is slow on this CPU; bf16 only where torch can tell."""
    slow = {torch.float16}
    try:  # private in torch 2.11
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            slow.add(torch.bfloat16)
    except (AttributeError, RuntimeError):
        pass
    return frozenset(slow)


@cache
def has_avx2_only() -> bool:
    """Does this CPU have AVX2 but not AVX-512?"""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def fast_layers(device: torch.device, autocast: torch.dtype | None) -> AbstractContextManager:
    """Inside, layers are computed as described above where that is faster.

    `autocast`: the dtype of autocast inside, None without.
    """
    if device.type != "cpu":
        return nullcontext()
    slow = has_avx2_only() if autocast is None else autocast in slow_dtypes()
    return Layers() if slow else nullcontext()


class Layers(TorchFunctionMode):
    """Inside, `conv2d` and `linear` are computed as described above."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Called by torch for every function of its own."""
        kwargs = kwargs or {}
        if function not in _LAYERS:
            return function(*args, **kwargs)
        layer = _LAYERS[function]
        if not torch.is_autocast_enabled("cpu"):
            return layer(*args, **kwargs)
        dtype = torch.get_autocast_dtype("cpu")
        if dtype not in slow_dtypes():
            return function(*args, **kwargs)
        args = tuple(_rounded(value, dtype) for value in args)
        kwargs = {name: _rounded(value, dtype) for name, value in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            return layer(*args, **kwargs).to(dtype)


def _rounded(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype).float() if isinstance(value, Tensor) else value


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | str | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """`functional.conv2d`, with weight gradients by matrix products where that is faster."""
    large = x.numel() >= _MIN_INPUT and weight.shape[1] >= _MIN_CHANNELS
    simple = groups == 1 and not isinstance(padding, str)
    # A compiled graph would hold thousands of products.
    if torch.compiler.is_compiling() or not (large and simple and has_avx2_only()):
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
    geometry = ((p, p) if isinstance(p, int) else p for p in (stride, padding, dilation))
    return _Convolution.apply(x, weight, bias, *geometry)


_LAYERS: dict[Callable, Callable[..., Tensor]] = {
    functional.conv2d: conv2d,
    functional.linear: functional.linear,
}


def conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """``relu(conv2d(...))``; large inputs in float32 without gradients in one pass.

    In one pass NaN becomes 0.
    """
    if isinstance(padding, str) or not _fuses(x):
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups).relu_()
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, groups, "relu", [], ""
    )


def _fuses(x: Tensor) -> bool:
    """Whether `x` is large, and computed with now: not traced, without gradients, by oneDNN."""
    if type(x) is not Tensor or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    now = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
    exact = not torch.is_autocast_enabled("cpu") and bool(torch.backends.mkldnn.enabled)
    return now and exact and x.numel() >= _MIN_INPUT and _has_fused_relu()


@cache
def _has_fused_relu() -> bool:
    """The operator is private in torch 2.11, and there is none without oneDNN."""
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_convolution_pointwise"
    )


class _Convolution(torch.autograd.Function):
    """`conv2d` of one group whose weight gradient is computed by matrix products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return functional.conv2d(x, weight, bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            geometry = *ctx.geometry, False, (0, 0), 1  # not transposed, one group
            of_x, _, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, *geometry, [True, False, False]
            )
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(x, gradient, weight.shape[2:], *ctx.geometry)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None, None


def weight_gradient(
    x: Tensor,
    gradient: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """The weight's gradient ``(O, C, *kernel)``, channels last.

    From the input `x` ``(N, C, H, W)`` and the output's `gradient` ``(N, O, H', W')``: for each tap
    of the kernel, `gradient` times the input cells that the tap is multiplied with. Both are padded
    to one grid, in which these cells are the output's cells shifted by a constant: a view, no copy.
    A stride makes one grid for each phase.
    """
    (down, right), (height, width) = stride, gradient.shape[2:]
    offsets = (range(0, k * d, d) for k, d in zip(kernel, dilation, strict=True))
    taps = [*itertools.product(*offsets)]  # (row, column), the last the furthest
    rows, columns = height + taps[-1][0] // down, width + taps[-1][1] // right
    x = _pad(x, padding, (rows * down, columns * right))
    gradient = _pad(gradient, (0, 0), (rows, columns)).flatten(0, 2)

    phases = {
        (top, left): x[:, top::down, left::right].flatten(0, 2)
        for top, left in {(row % down, column % right) for row, column in taps}
    }
    seen = [
        phases[row % down, column % right][row // down * columns + column // right :]
        for row, column in taps
    ]
    result = x.new_zeros(gradient.shape[1], len(taps), x.shape[3])
    cells = len(seen[-1])  # what lies beyond the last tap's cells is padding
    for start in range(0, cells, _CELLS):
        some = slice(start, min(start + _CELLS, cells))
        for sums, inputs in zip(result.unbind(1), seen, strict=True):
            torch.addmm(sums, gradient[some].T, inputs[some], out=sums)
    return result.unflatten(1, kernel).permute(0, 3, 1, 2)


def _pad(images: Tensor, before: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """``(N, C, H, W)`` -> ``(N, *size, C)``, with `before` rows and columns of zeros in front."""
    pads = [0, 0]
    for axis in (1, 0):
        pads += [before[axis], size[axis] - before[axis] - images.shape[2 + axis]]
    images = images.permute(0, 2, 3, 1)
    return functional.pad(images, pads) if any(pads) else images
