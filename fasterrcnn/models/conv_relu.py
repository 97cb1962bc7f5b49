"""A convolution with the bias, the sum and the ReLU that follow it, in few passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
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
    """``relu(conv2d(...) + residual)``.

    On a GPU, large outputs in half precision get bias, sum and ReLU from one kernel where torch has
    three. It rounds once where torch rounds three times.
    """
    geometry = stride, padding, dilation, groups
    if by_kernel(x, weight, stride):
        out = functional.conv2d(x, weight, None, *geometry)  # type: ignore[arg-type]
        return add_bias_relu_(out, bias, residual)
    if residual is None:
        return cpu.conv_relu(x, weight, bias, *geometry)
    out = functional.conv2d(x, weight, bias, *geometry)  # type: ignore[arg-type]
    return sum_relu_(out, residual)


def conv_sum(x: Tensor, block: nn.Sequential, above: Tensor) -> Tensor:
    """``block(x)``, a 1 x 1 convolution with bias or norm, plus `above`, the next coarser map of a
    pyramid, enlarged by nearest neighbors.

    On a GPU, maps in half precision of twice the size get bias and sum from one kernel. Autocast
    would enlarge and sum them in float32, in five passes more.
    """
    if _half_by_kernel(x) and len(block) == 1 and _is_half(above, x):
        (conv,) = block
        assert isinstance(conv, nn.Conv2d)
        return _add_bias(functional.conv2d(x, conv.weight), conv.bias, above, relu=False)
    lateral = block(x)
    return lateral + functional.interpolate(above, size=lateral.shape[2:], mode="nearest")


def sum_relu_(out: Tensor, residual: Tensor | None) -> Tensor:
    """``relu(out + residual)``, in place in `out`."""
    return (out if residual is None else out.add_(residual)).relu_()


def add_bias_relu_(out: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    """``relu(out + bias + residual)`` in one pass, in place in `out`; where `by_kernel`."""
    return _add_bias(out, bias, residual, relu=True)


def by_kernel(x: Tensor, weight: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether the convolution's output is large and of half precision, and the kernel works on its
    device."""
    if not _half_by_kernel(x):
        return False
    size = x.numel() // x.shape[1] * len(weight) // (stride[0] * stride[1])
    return size >= _MIN_OUTPUT


def _half_by_kernel(x: Tensor) -> bool:
    """Whether convolutions of `x` are of half precision, and the kernel works on its device."""
    kind = x.device.type
    if kind in ("cpu", "meta") or torch.compiler.is_compiling():
        return False
    return torch.is_autocast_enabled(kind) and kernels.usable("bias_relu_kernels", x.device)


def _is_half(above: Tensor, x: Tensor) -> bool:
    """Whether `above` has half the height and width of `x`."""
    return all(2 * a == b for a, b in zip(above.shape[2:], x.shape[2:], strict=True))


def _add_bias(out: Tensor, bias: Tensor | None, residual: Tensor | None, *, relu: bool) -> Tensor:
    out = out.contiguous(memory_format=torch.channels_last)  # as it is already, after cuDNN
    return _AddBias.apply(out, bias, residual, relu)


class _AddBias(torch.autograd.Function):
    """``x + bias + residual``, with `relu` its ReLU, in place in `x`. A residual of half the size
    is enlarged by nearest neighbors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        if residual is not None:
            residual = residual.to(x.dtype).contiguous(memory_format=torch.channels_last)
            ctx.residual = residual.shape
        torch.ops.fasterrcnn.add_bias_(x, bias, residual, relu)
        ctx.mark_dirty(x)
        ctx.relu = relu
        ctx.save_for_backward(*[x] * relu)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.relu:
            gradient = torch.ops.aten.threshold_backward(gradient, *ctx.saved_tensors, 0)
        of_bias = of_residual = None
        if ctx.needs_input_grad[1]:
            of_bias = gradient.sum((0, 2, 3), dtype=torch.float32)
        if ctx.needs_input_grad[2]:
            of_residual = gradient
            if ctx.residual != gradient.shape:
                of_residual = torch.ops.aten.upsample_nearest2d_backward(
                    gradient, gradient.shape[2:], ctx.residual
                )
        return gradient, of_bias, of_residual, None


def _add_bias_(x: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> None:
    from fasterrcnn.models import bias_relu_kernels

    bias_relu_kernels.add_bias_(x, bias, residual, relu=relu)


# An operator, so that fake tensors have it too. One of `torch.library.custom_op` is slow to call.
_LIBRARY = torch.library.Library("fasterrcnn", "FRAGMENT")
_LIBRARY.define("add_bias_(Tensor(a!) x, Tensor bias, Tensor? residual, bool relu) -> ()")
_LIBRARY.impl("add_bias_", _add_bias_, "CUDA")
_LIBRARY.impl("add_bias_", _add_bias_, "CPU")  # in Triton's interpreter
_LIBRARY.impl("add_bias_", lambda x, bias, residual, relu: None, "Meta")
