"""Convolutions with a norm of fixed statistics folded into them.

In half precision, the weights of a whole stage are folded and rounded together, by a few operators
on lists of tensors instead of two for each convolution in each direction.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from fasterrcnn.models.conv_relu import add_bias_relu_, by_kernel, conv_relu, sum_relu_
from fasterrcnn.models.deformable import deformable_conv


class Residual(NamedTuple):
    """What a block adds to its last convolution's output."""

    map: Tensor  # (N, C, H, W)
    bias: Tensor | None = None  # (C,), where it is not in `map` yet


def conv_norm(
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.Module,
    offset: nn.Conv2d | None = None,
    *,
    relu: bool = False,
    residual: Residual | None = None,
) -> Tensor:
    """``norm(conv(x))``, with a norm of fixed statistics folded into the convolution's weight; with
    `relu`, of that ``relu(... + residual)``.

    Folding saves a pass over the activations and keeps autocast from promoting them to float32.
    Gradients are those of the unfolded weights. With `offset`, the convolution is deformable.
    """
    added, bias = residual or (None, None)
    if not isinstance(norm, FrozenBatchNorm2d):
        out = norm(conv(x) if offset is None else deformable_conv(x, conv, offset, conv.weight))
        return sum_relu_(out, added) if relu else out
    dtype = _dtype(x) if offset is None else torch.float32
    _, shift = _scale_and_shift(norm, dtype)
    weight = _weight(conv, norm, dtype)
    if offset is not None:
        out = deformable_conv(x, conv, offset, weight, shift)
        return sum_relu_(out, added) if relu else out
    if relu:
        shift = shift if bias is None else shift + bias
        return conv_relu(x, weight, shift, *_geometry(conv), residual=added)
    return functional.conv2d(x, weight, shift, *_geometry(conv))  # type: ignore[arg-type]


def shortcut(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Residual:
    """``norm(conv(x))`` as the residual of a `conv_norm` that gives a map of the same size."""
    if not isinstance(norm, FrozenBatchNorm2d) or not by_kernel(x, conv.weight, conv.stride):
        return Residual(conv_norm(x, conv, norm))
    return Residual(*_without_shift(x, conv, norm))


def pooled_conv_norm(
    x: Tensor, conv: nn.Conv2d, norm: nn.Module, pool: Callable[[Tensor], Tensor]
) -> Tensor:
    """``pool(relu(norm(conv(x))))``, of the largest values.

    Where a kernel adds the shift, it does so to what is left of them. The bits are the same:
    adding, rounding and ReLU never turn a larger value into a smaller one.
    """
    if not isinstance(norm, FrozenBatchNorm2d) or not by_kernel(x, conv.weight, conv.stride):
        return pool(conv_norm(x, conv, norm, relu=True))
    out, shift = _without_shift(x, conv, norm)
    return add_bias_relu_(pool(out), shift)


def _without_shift(x: Tensor, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """``norm(conv(x))`` as two terms: a map, and what is to be added to its channels."""
    dtype = _dtype(x)
    weight, (_, shift) = _weight(conv, norm, dtype), _scale_and_shift(norm, dtype)
    out = functional.conv2d(x, weight, None, *_geometry(conv))  # type: ignore[arg-type]
    return out, shift


def _geometry(
    conv: nn.Conv2d,
) -> tuple[tuple[int, ...], tuple[int, ...] | str, tuple[int, ...], int]:
    """What `functional.conv2d` needs to know beside the weights."""
    return conv.stride, conv.padding, conv.dilation, conv.groups


def fold_stage(stage: nn.Module, x: Tensor) -> None:
    """Fold all trained weights that `conv_norm` will take in `stage`, of an input like `x`.

    In half precision only: in float32, folding takes little time beside the convolutions.
    """
    dtype = _dtype(x)
    if dtype == torch.float32 or torch.compiler.is_compiling():
        return
    pairs = [pair for module in stage.modules() for pair in _trained_pairs(module)]
    if not pairs:
        return
    convs = [conv for conv, _ in pairs]
    scales = [_whole_scale(conv, norm) for conv, norm in pairs]
    folded = _FoldedWeights.apply(*(conv.weight for conv in convs), scales, dtype)
    for conv, weight in zip(convs, folded, strict=True):
        _OF_STAGE[conv] = _Kept(_stage_key(conv, dtype), (conv.weight,), (weight,))


def _dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a convolution of `x` is computed."""
    kind = x.device.type
    half = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if half else torch.float32


def _trained_pairs(block: nn.Module) -> list[tuple[nn.Conv2d, FrozenBatchNorm2d]]:
    """Convolutions of a block with trained weights, and the norms of fixed values after them."""
    deformed = block.conv2 if getattr(block, "conv2_offset", None) is not None else None
    return [
        (conv, norm)
        for conv, norm in itertools.pairwise(block.children())
        if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d)
        if conv.weight.requires_grad and not norm.weight.requires_grad and conv is not deformed
    ]


class _FoldedWeights(torch.autograd.Function):
    """Weights times scales of the same shapes, rounded to `dtype`."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        *weights, ctx.scales, dtype = given
        rounded = [torch.empty_like(weight, dtype=dtype) for weight in weights]
        torch._foreach_copy_(rounded, torch._foreach_mul(weights, ctx.scales))
        return tuple(rounded)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        found = [torch.empty_like(scale) for scale in ctx.scales]
        torch._foreach_copy_(found, gradients)
        torch._foreach_mul_(found, ctx.scales)
        return *found, None, None


class _Kept(NamedTuple):
    """What was computed, and of what."""

    key: tuple  # dtype; identity and version of each tensor
    of: tuple[Tensor, ...]  # these tensors, so that no other gets the identity of one
    found: tuple[Tensor, ...]


_Store = WeakKeyDictionary[nn.Module, _Kept]
_KEPT: _Store = WeakKeyDictionary()  # of norms: scale and shift
_SCALES: _Store = WeakKeyDictionary()  # of convolutions: their norm's scale in their weight's shape
_FROZEN: _Store = WeakKeyDictionary()  # of convolutions that are not trained: the folded weight
_OF_STAGE: _Store = WeakKeyDictionary()  # of the others: as `fold_stage` found it


def _weight(conv: nn.Conv2d, norm: FrozenBatchNorm2d, dtype: torch.dtype) -> Tensor:
    """The convolution's weight, folded; of `dtype` or, rounded by autocast, float32."""

    def fold() -> Tensor:
        return (conv.weight * _scale_and_shift(norm, dtype)[0]).float()

    if dtype == torch.float32 or torch.compiler.is_compiling():
        return fold()
    if not conv.weight.requires_grad:
        tensors = *_tensors(norm), conv.weight
        return _keep(_FROZEN, conv, dtype, tensors, lambda: (fold().to(dtype),))[0]
    kept = _OF_STAGE.get(conv)
    if kept is not None and kept.key == _stage_key(conv, dtype):
        return kept.found[0]
    return fold()


def _stage_key(conv: nn.Conv2d, dtype: torch.dtype) -> tuple:
    return _key(dtype, (conv.weight,)), torch.is_grad_enabled()


def _whole_scale(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Tensor:
    """The norm's scale in the shape of the weight, as operators on lists need it to be fast."""

    def expand() -> tuple[Tensor, ...]:
        scale, _ = _scale_and_shift(norm, torch.float32)
        return (torch.empty_like(conv.weight).copy_(scale),)

    return _keep(_SCALES, conv, torch.float32, _tensors(norm), expand)[0]


def _scale_and_shift(norm: FrozenBatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """`_fold`, which is computed again only when a tensor of the norm was replaced or changed."""
    return _keep(_KEPT, norm, dtype, _tensors(norm), lambda: _fold(norm, dtype))


def _tensors(norm: FrozenBatchNorm2d) -> tuple[Tensor, ...]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


def _keep(
    store: _Store,
    owner: nn.Module,
    dtype: torch.dtype,
    of: tuple[Tensor, ...],
    compute: Callable[[], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """What `compute` makes `of` some tensors, again only when one was replaced or changed.

    Compiled programs compute it each time, which costs them next to nothing.
    """
    if torch.compiler.is_compiling() or any(t.requires_grad or t.is_inference() for t in of):
        return compute()
    key = _key(dtype, of)
    kept = store.get(owner)
    if kept is not None and kept.key == key:
        return kept.found
    with torch.inference_mode(False), torch.no_grad():  # training may use what inference computed
        found = compute()
    if type(found[0]) is type(of[0]):  # not of real tensors in a mode of fake ones
        store[owner] = _Kept(key, of, found)
    return found


def _key(dtype: torch.dtype, of: tuple[Tensor, ...]) -> tuple:
    return (dtype, *((id(tensor), tensor._version) for tensor in of))


def _fold(norm: FrozenBatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The factor of the convolution's weight ``(C, 1, 1, 1)`` and its bias ``(C,)`` of `dtype`.

    A trained norm's weight is folded in float64: its gradient is a difference of large sums, which
    float32 would round by up to 1.4e-4 of its norm.
    """
    kind = torch.float64 if norm.weight.requires_grad else torch.float32
    scale = norm.weight.to(kind) * (norm.running_var.to(kind) + norm.eps).rsqrt()
    shift = (norm.bias - norm.running_mean * scale).float()
    return scale[:, None, None, None], shift.to(dtype)
