"""Convolutions and linear layers in the ways that are fast on a CPU. Two of torch 2.11's are slow:

- float32 weight gradients of large ungrouped 3 x 3 convolutions on CPUs with AVX2 but not AVX-512,
  in the layout of the activations, channels last; in contiguous order they are 1.2 to 3.5 times as
  fast, copies included;
- bf16 and fp16 where oneDNN has no kernels for them (on x86 bf16 wants AVX-512, fp16 its FP16).
  torch emulates them 4 to 8 times slower than float32 forward, 13 to 60 times backward. Here
  operands and results are rounded as autocast rounds them, and the arithmetic between is float32's,
  which half precision instructions accumulate in as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def _emulated() -> set[torch.dtype]:
    """What oneDNN has no kernels for on this CPU; nothing where torch is without oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return set()
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return {dtype for dtype, is_supported in supported.items() if not is_supported}


_EMULATED = _emulated()
_AVX2_ALONE = torch.backends.cpu.get_cpu_capability() == "AVX2"
_LARGE = 2**21  # numbers that no longer fit in a cache; below, copies cost what the order gains


def fast_layers(device: torch.device) -> AbstractContextManager:
    """Inside, layers are computed as above if `device` is a CPU.

    Microseconds are added to every call of torch inside: keep it around layers.
    """
    return Layers() if device.type == "cpu" else nullcontext()


class Layers(TorchFunctionMode):
    """Inside, `conv2d` and `linear` are computed as above."""

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
        if dtype not in _EMULATED:
            return function(*args, **kwargs)
        args = [_rounded(value, dtype) for value in args]
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
    """`functional.conv2d`, large 3 x 3 weight gradients in contiguous order where that is fast."""
    simple = weight.shape[2:] == (3, 3) and groups == 1 and not isinstance(padding, str)
    if not (_AVX2_ALONE and simple and x.numel() >= _LARGE):
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
    geometry = ((p, p) if isinstance(p, int) else p for p in (stride, padding, dilation))
    return _Convolution.apply(x, weight, bias, *geometry)


_LAYERS = {functional.conv2d: conv2d, functional.linear: functional.linear}


class _Convolution(torch.autograd.Function):
    """`conv2d` of one group whose weight gradient is computed in contiguous order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias = None if bias is None else [len(bias)]
        ctx.geometry = *geometry, False, (0, 0), 1  # not transposed, one group
        return functional.conv2d(x, weight, bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_x, *of_weight_and_bias = ctx.needs_input_grad[:3]
        backward, tensors = torch.ops.aten.convolution_backward, (gradient, *ctx.saved_tensors)
        x = backward(*tensors, None, *ctx.geometry, [of_x, False, False])[0]
        if not any(of_weight_and_bias):
            return x, None, None, None, None, None
        tensors = (tensor.contiguous() for tensor in tensors)
        _, weight, bias = backward(*tensors, ctx.bias, *ctx.geometry, [False, *of_weight_and_bias])
        return x, weight, bias, None, None, None
