"""Convolutions with a norm of fixed statistics folded into them."""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from fasterrcnn.models.cpu import conv_relu
from fasterrcnn.models.deformable import deformable_conv


def conv_norm(
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.Module,
    offset: nn.Conv2d | None = None,
    *,
    relu: bool = False,
) -> Tensor:
    """``norm(conv(x))``, with a norm of fixed statistics folded into the convolution's weight; of
    that ``relu``, if asked for.

    Folding saves a pass over the activations and keeps autocast from promoting them to float32.
    Gradients are those of the unfolded weights. With `offset`, the convolution is deformable.
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        out = norm(conv(x) if offset is None else deformable_conv(x, conv, offset, conv.weight))
        return out.relu_() if relu else out
    kind = x.device.type
    half = offset is None and kind != "meta" and torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if half else torch.float32
    scale, shift = _scale_and_shift(norm, dtype)
    weight = (conv.weight * scale).float()
    if offset is not None:
        out = deformable_conv(x, conv, offset, weight, shift)
        return out.relu_() if relu else out
    compute = conv_relu if relu else functional.conv2d
    return compute(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


class _Kept(NamedTuple):
    """What was folded, and of what."""

    key: tuple  # dtype; identity and version of each tensor of the norm
    of: tuple[Tensor, ...]  # these tensors, so that no other gets the identity of one
    found: tuple[Tensor, Tensor]


_KEPT: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def _scale_and_shift(norm: FrozenBatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`_fold`, which is computed again only when a tensor of the norm was replaced or changed.

    Compiled programs compute it each time, which costs them next to nothing.
    """
    of = norm.weight, norm.bias, norm.running_mean, norm.running_var
    if torch.compiler.is_compiling() or any(t.requires_grad or t.is_inference() for t in of):
        return _fold(norm, dtype)
    key = (dtype, *((id(t), t._version) for t in of))
    kept = _KEPT.get(norm)
    if kept is not None and kept.key == key:
        return kept.found
    with torch.inference_mode(False), torch.no_grad():  # training may use what inference computed
        found = _fold(norm, dtype)
    if type(found[0]) is type(of[0]):  # not of real tensors in a mode of fake ones
        _KEPT[norm] = _Kept(key, of, found)
    return found


def _fold(norm: FrozenBatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The factor of the convolution's weight ``(C, 1, 1, 1)`` and its bias ``(C,)`` of `dtype`.

    A trained norm's weight is folded in float64: its gradient is a difference of large sums, which
    float32 would round by up to 1.4e-4 of its norm.
    """
    kind = torch.float64 if norm.weight.requires_grad else torch.float32
    scale = norm.weight.to(kind) * (norm.running_var.to(kind) + norm.eps).rsqrt()
    shift = (norm.bias - norm.running_mean * scale).float()
    return scale[:, None, None, None], shift.to(dtype)
