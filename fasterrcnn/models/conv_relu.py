"""A convolution with the bias, the sum and the ReLU that follow it, in few passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fasterrcnn.models import cpu, kernels

_MIN_OUTPUT = 2**23  # elements; a pass over a smaller output takes about as long as its launch


def conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
    dilation: tuple[int, ...],
    groups: int,
    residual: Tensor | None = None,
) -> Tensor:
    """``relu(conv2d(...) + residual)``, of a bias that is not trained.

    On a GPU, large outputs in half precision get bias, sum and ReLU from one kernel where torch has
    three. It rounds once where torch rounds three times.
    """
    geometry = stride, padding, dilation, groups
    if _by_kernel(x, weight, stride):
        out = functional.conv2d(x, weight, None, *geometry)  # type: ignore[arg-type]
        if out.is_contiguous(memory_format=torch.channels_last):
            return _BiasReLU.apply(out, bias, residual)
        out = out + bias.to(out.dtype)[:, None, None]
    elif residual is None:
        return cpu.conv_relu(x, weight, bias, *geometry)
    else:
        out = functional.conv2d(x, weight, bias, *geometry)  # type: ignore[arg-type]
    return sum_relu_(out, residual)


def sum_relu_(out: Tensor, residual: Tensor | None) -> Tensor:
    """``relu(out + residual)``, in place in `out`."""
    return (out if residual is None else out.add_(residual)).relu_()


def _by_kernel(x: Tensor, weight: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether the output is large and of half precision, and the kernel works on its device."""
    kind = x.device.type
    if kind in ("cpu", "meta") or torch.compiler.is_compiling():
        return False
    size = x.numel() // x.shape[1] * len(weight) // (stride[0] * stride[1])
    half = torch.is_autocast_enabled(kind) and size >= _MIN_OUTPUT
    return half and kernels.usable("bias_relu_kernels", x.device)


class _BiasReLU(torch.autograd.Function):
    """``relu(x + bias + residual)``, in place in `x`; without a gradient of the bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
        if residual is not None:
            residual = residual.to(x.dtype).contiguous(memory_format=torch.channels_last)
        torch.ops.fasterrcnn.bias_relu_(x, bias, residual)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        return gradient, None, gradient if ctx.needs_input_grad[2] else None


def _bias_relu_(x: Tensor, bias: Tensor, residual: Tensor | None) -> None:
    from fasterrcnn.models import bias_relu_kernels

    bias_relu_kernels.bias_relu_(x, bias, residual)


# An operator, so that fake tensors have it too. One of `torch.library.custom_op` is slow to call.
_LIBRARY = torch.library.Library("fasterrcnn", "FRAGMENT")
_LIBRARY.define("bias_relu_(Tensor(a!) x, Tensor bias, Tensor? residual) -> ()")
_LIBRARY.impl("bias_relu_", _bias_relu_, "CUDA")
_LIBRARY.impl("bias_relu_", _bias_relu_, "CPU")  # in Triton's interpreter
_LIBRARY.impl("bias_relu_", lambda x, bias, residual: None, "Meta")
