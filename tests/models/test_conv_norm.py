"""Folded norms: the same bits as folding each time, computed once, and again when they change."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import FrozenBatchNorm2d

from fasterrcnn import recipes
from fasterrcnn.models import conv_norm as module
from fasterrcnn.models.backbones import AffineBatchNorm2d, build_backbone
from fasterrcnn.models.conv_norm import conv_norm, fold_stage
from fasterrcnn.models.deformable import offset_conv


class Operators(TorchDispatchMode):
    """Counts the operators that compute something: each is about one launch on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        space, name = func._schema.name.split("::")
        aliases = [r.alias_info for r in func._schema.returns]
        is_view = any(a is not None and not a.is_write for a in aliases)
        if space == "aten" and not is_view and name != "empty_like":
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def made(kind: type[nn.Module] = FrozenBatchNorm2d) -> nn.Sequential:
    """A convolution and a norm of other than fresh values."""
    torch.manual_seed(0)
    pair = nn.Sequential(nn.Conv2d(6, 6, 3, bias=False), kind(6))
    with torch.no_grad():
        for value in (pair[1].weight, pair[1].bias, pair[1].running_mean, pair[1].running_var):
            value.copy_(0.5 + torch.rand(6))
    return pair


def expected(pair: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """By torchvision's norm, after the convolution."""
    return pair[1](pair[0](x))


X = torch.rand(2, 6, 5, 5)


def test_of_a_resnet_50_the_trained_weights_are_folded_together():
    """Before scale and shift were kept, 544 operators; before stages were folded, 226."""
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16):
        body = build_backbone(recipes.Backbone(name="resnet50"))[0].body
        x = torch.empty(2, 3, 64, 64)
        body(x)
        with Operators() as later:
            body(x)
    assert later.found == dict(
        convolution=53,
        _foreach_mul=3,  # scale the weights of a stage
        _foreach_copy_=3,  # round them
        _to_copy=1,  # round the pixels
        relu_=49,
        add_=16,
        max_pool2d_with_indices=1,
    )


def load(pair: nn.Sequential, *, assign: bool) -> None:
    # Changed in place once, as those that they replace: as many versions tell nothing.
    values = {name: (value + 0.2).add_(0.05) for name, value in pair.state_dict().items()}
    pair.load_state_dict(values, assign=assign)


@torch.no_grad()
def change(pair: nn.Sequential) -> None:
    pair[1].running_mean.mul_(1.5)


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "loaded": lambda pair: load(pair, assign=False),
    "loaded by assignment": lambda pair: load(pair, assign=True),
    "in place": change,
    "in inference mode": torch.inference_mode()(change),
    "in float64 and back": lambda pair: change(pair.double().float()),
    "frozen weights": lambda pair: change(pair.requires_grad_(False)),
}


@pytest.mark.parametrize("kind", [FrozenBatchNorm2d, AffineBatchNorm2d])
@pytest.mark.parametrize("name", CHANGES)
def test_a_norm_that_was_changed_is_folded_again(kind: type[nn.Module], name: str):
    pair = made(kind).requires_grad_(kind is FrozenBatchNorm2d)
    names = [*pair.state_dict()]
    for _ in range(2):
        torch.testing.assert_close(conv_norm(X, *pair), expected(pair, X))
    before = expected(pair, X)
    CHANGES[name](pair)
    assert (expected(pair, X) - before).abs().max() > 0.1
    torch.testing.assert_close(conv_norm(X, *pair), expected(pair, X))
    assert [*pair.state_dict()] == names


def test_a_copy_follows_its_own_values():
    pair = made()
    conv_norm(X, *pair)
    other = copy.deepcopy(pair)
    change(other)
    for each in (pair, other):
        torch.testing.assert_close(conv_norm(X, *each), expected(each, X))
    del pair, other, each
    assert not [norm for norm in module._KEPT if norm.num_features == 6]


def test_kept_in_inference_it_is_trained_with():
    pair = made()
    with torch.inference_mode():
        conv_norm(X, *pair)
    conv_norm(X, *pair).sum().backward()
    gradient = pair[0].weight.grad.clone()
    pair[0].weight.grad = None
    expected(pair, X).sum().backward()
    torch.testing.assert_close(gradient, pair[0].weight.grad)


def test_a_trained_norm_gets_its_gradients():
    pair = made(AffineBatchNorm2d)
    for _ in range(2):
        pair.zero_grad()
        conv_norm(X, *pair).square().sum().backward()
    mine = [p.grad.clone() for p in pair.parameters()]
    pair.zero_grad()
    expected(pair, X).square().sum().backward()
    for a, b in zip(mine, pair.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_bits_are_those_of_folding_in_float32_and_rounding_after(dtype: torch.dtype | None):
    """In one precision after another, too, and with a deformable convolution's float32 shift."""
    pair = made()
    conv, norm = pair
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = conv.weight * scale[:, None, None, None]
    shift = norm.bias - norm.running_mean * scale
    offset = offset_conv(conv, recipes.Backbone(deformable="v1"))
    for enabled in (dtype is not None, False):
        with torch.autocast("cpu", dtype, enabled=enabled):
            assert conv_norm(X, *pair).equal(nn.functional.conv2d(X, weight, shift))
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        moved = conv_norm(X, *pair, offset)
    torch.testing.assert_close(moved, nn.functional.conv2d(X, weight, shift))


def gradients(stage: nn.Sequential, *, together: bool) -> list[torch.Tensor]:
    """The output, and the gradients of the trained weights."""
    stage.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        if together:
            fold_stage(stage, STAGE_X)
        else:
            module._OF_STAGE.clear()
        out = stage(STAGE_X)
    out.float().square().mean().backward()
    return [out, *(p.grad for p in stage.parameters() if p.grad is not None)]


STAGE_X = torch.rand(2, 256, 6, 5)


def test_a_stage_folded_at_once_gives_the_same_bits_and_follows_its_weights():
    stage = build_backbone(recipes.Backbone(name="resnet50"))[0].body.layer2
    stage[1].conv2.requires_grad_(False)
    for _ in range(2):
        each = gradients(stage, together=False)
        at_once = gradients(stage, together=True)
        assert len(each) == len(at_once) == 13
        assert all(map(torch.equal, each, at_once))
        folded = [conv for conv in stage.modules() if conv in module._OF_STAGE]
        assert len(folded) == 12
        with torch.no_grad():  # as an optimizer does
            for parameter in stage.parameters():
                parameter.mul_(1.25)
    assert gradients(stage, together=True)[0].equal(gradients(stage, together=False)[0])


def test_what_a_stage_folded_is_not_used_when_weights_or_the_need_of_gradients_change():
    stage = build_backbone(recipes.Backbone(name="resnet18"))[0].body.layer2
    x = torch.rand(1, 64, 6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            fold_stage(stage, x)
        assert stage(x).requires_grad
        fold_stage(stage, x)
        with torch.no_grad():
            stage[0].conv1.weight.mul_(2)
            changed = stage(x)
            module._OF_STAGE.clear()
            assert changed.equal(stage(x))


def test_frozen_weights_are_folded_once_in_half_precision():
    pair = made().requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        conv_norm(X, *pair)
        with Operators() as later:
            first = conv_norm(X, *pair)
        assert set(later.found) == {"convolution", "_to_copy"}  # of the pixels
        assert later.found["_to_copy"] == 1
        pair[0].weight.mul_(2)
        assert not conv_norm(X, *pair).equal(first)


def test_what_is_folded_of_fake_tensors_is_not_kept_for_real_ones():
    pair = made()
    with FakeTensorMode(allow_non_fake_inputs=True):
        conv_norm(torch.empty_like(X), *pair)
    torch.testing.assert_close(conv_norm(X, *pair), expected(pair, X))
