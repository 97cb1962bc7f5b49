"""timm's networks as bodies: what timm gives with `features_only`, and plain vision transformers.

Channels and strides are those of timm's `feature_info`; which sizes of images a network takes is
tried out on the meta device. timm is an extra: it is imported when a name asks for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fasterrcnn.errors import DownloadError, UsageError
from fasterrcnn.models.stages import LEVELS, Body, OnMeta

PREFIX = "timm:"
PATCH = 16  # px: the stride of plain transformers; others have their patches resampled to it
_USABLE = "timm:convnextv2_tiny, timm:hrnet_w18 and timm:vit_small_patch16_dinov3"
# What timm's networks need to take images of any size; each has at most one of them.
_ANY_SIZE: tuple[dict[str, Any], ...] = (
    {}, dict(strict_img_size=False), dict(dynamic_img_size=True),
)  # fmt: skip
# What timm raises for a network without features, or for an argument that it does not have.
_REFUSALS = (RuntimeError, AttributeError, AssertionError, TypeError, ValueError, KeyError)


@dataclass(frozen=True)
class Timm:
    """A network of timm, and what timm states about it."""

    name: str  # without `PREFIX`
    arguments: tuple[tuple[str, Any], ...]  # with which it is made
    plain: bool  # a transformer with one map of stride 16
    channels: tuple[int, ...]  # of the levels, or of the one map
    channels_last: bool
    modules: tuple[str, ...]  # where the first of four stages begins, and each of them ends
    has_layer_norm: bool
    norm_eps: float | None  # of its batch norms; None if it has none
    size_divisible: int  # px
    mean: tuple[float, ...]
    std: tuple[float, ...]


class TimmBody(Body):
    """A network as timm cuts it for `features_only`; names in ``network`` are timm's."""

    def __init__(self, found: Timm, *, pretrained: bool = False, drop_path: float = 0.0) -> None:
        super().__init__()
        self.network = _make(found, pretrained=pretrained, drop_path=drop_path)
        self.channels = [*found.channels]
        self.has_layer_norm = found.has_layer_norm
        self.level_norms = nn.ModuleList(
            nn.LayerNorm(channels)
            for channels in found.channels
            if found.has_layer_norm and not found.plain
        )
        self._channels_last, self._ends = found.channels_last, found.modules
        self._plain = found.plain

    def maps(self, x: Tensor) -> list[Tensor]:
        """As of the base class; of a plain transformer the one map, after its last norm."""
        maps = self.network(x)
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last else [*maps]

    def stages(self) -> list[list[nn.Parameter]]:
        """As of the base class."""
        return self._cut(*self._ends)

    def layers(self) -> list[list[nn.Parameter]]:
        """As of the base class; of a plain transformer its blocks."""
        if not self._plain:
            return self.stages()
        blocks = len(self.network.model.blocks)  # type: ignore[union-attr, arg-type]
        return self._cut("blocks.0", *(f"blocks.{i}" for i in range(blocks)))

    def _cut(self, first_module: str, *modules: str) -> list[list[nn.Parameter]]:
        """The parameters before `first_module`, and those up to the end of each of `modules`. timm
        registers parameters in the order of their use."""
        named = [(_flat(name), p) for name, p in self.network.named_parameters()]
        first, *ends = (
            [i for i, (name, _) in enumerate(named) if name.startswith(f"{_flat(module)}_")]
            for module in (first_module, *modules)
        )
        found: list[list[nn.Parameter]] = [[] for _ in range(len(modules) + 1)]
        last = [max(places, default=-1) for places in ends]
        for i, (_, parameter) in enumerate(named):
            passed = sum(i > end for end in last[:-1])
            found[0 if i < min(first, default=0) else 1 + passed].append(parameter)
        return found

    def from_classifier(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A classifier's tensors under the names of this body, as far as it has them, else under
        theirs. Patches of another size are resampled, as timm does."""
        theirs = {_flat(name): name for name in tensors}
        found, used = {}, set()
        for name, own in self.state_dict().items():
            known = theirs.get(_flat(name.removeprefix("network.")))
            if known is None:
                continue
            used.add(known)
            tensor = tensors[known]
            patches = name.endswith("patch_embed.proj.weight") and tensor.shape != own.shape
            if patches and tensor.shape[:2] == own.shape[:2]:
                tensor = import_timm("").layers.resample_patch_embed(tensor, [*own.shape[2:]])
            found[name] = tensor
        return found | {name: value for name, value in tensors.items() if name not in used}


class PlainTransformer(nn.Module):
    """The map of a transformer's last block, after its last norm; without its classifier."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        model.prune_intermediate_layers(1)
        self.model = model
        self.pretrained_cfg = model.pretrained_cfg

    def forward(self, x: Tensor) -> list[Tensor]:
        """``(N, 3, H, W)`` -> one map, ``(N, C, H / 16, W / 16)``."""
        return self.model.forward_intermediates(
            x, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )


def _flat(name: str) -> str:
    """A name as both a classifier and its features have it: the latter write some dots as
    underscores, and wrap transformers in ``model``."""
    return name.removeprefix("model.").removeprefix("body.").replace(".", "_")


def import_timm(name: str) -> ModuleType:
    """The package. Raises UsageError that names it if it is missing."""
    try:
        import timm
        import timm.layers
        import timm.models
    except ModuleNotFoundError:
        raise UsageError(
            f"--backbone.name: {PREFIX}{name}: needs timm; pip install timm (the extra timm of "
            "this package)"
        ) from None
    return timm


@cache
def describe(name: str) -> Timm:
    """The network that timm calls `name`. Raises UsageError for one that cannot be a backbone."""
    timm, shown = import_timm(name), f"--backbone.name: {PREFIX}{name}"
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3, 0.5)
        raise UsageError(f"{shown}: unknown to timm {timm.__version__}; {_or_else(near)}")
    try:
        network = _on_meta(name)
    except _REFUSALS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(
            f"{shown}: timm gives no features of it ({reason}); {_or_else()}"
        ) from None
    info = network.feature_info
    all_strides = [*info.reduction()]
    if len({*all_strides}) == 1 and hasattr(getattr(network, "model", None), "blocks"):
        return _describe_plain(name, network)
    if not set(LEVELS) <= {*all_strides}:
        strides = ", ".join(map(str, sorted({*all_strides})))
        raise UsageError(
            f"{shown}: has features of strides {strides}, and a pyramid needs 4, 8, 16 and 32; "
            f"{_or_else()}"
        )
    at = [max(i for i, s in enumerate(all_strides) if s == stride) for stride in LEVELS]
    levels = dict(out_indices=tuple(info.out_indices[i] for i in at))  # DLA's begin at 1
    arguments, divisor, channels_last = _sizes(name, network, [{**a, **levels} for a in _ANY_SIZE])
    modules = [str(m) for m in (info.module_name()[i] for i in at)]
    if name.startswith("hrnet"):
        modules[0] = "layer1"  # timm calls it "stage1", which the network does not have
    channels = tuple(info.channels()[i] for i in at)
    return _found(network, name, arguments, False, channels, channels_last, modules, divisor)


def _describe_plain(name: str, network: nn.Module) -> Timm:
    """`describe` for a transformer without stages, whose blocks are dealt out to four."""
    info: Any = network.feature_info
    tried: list[dict[str, Any]] = [*_ANY_SIZE[::2]]
    if (patch := info.reduction()[0]) != PATCH:
        side = _pretrained(network)["input_size"][1] // patch * PATCH  # as many patches as before
        tried = [dict(a, patch_size=PATCH, img_size=side) for a in tried]
    arguments, divisor, channels_last = _sizes(name, network, tried, plain=True)
    blocks = len(network.model.blocks)  # type: ignore[union-attr, arg-type]
    ends = [f"blocks.{round(blocks * k / 4) - 1}" for k in (1, 2, 3, 4)]
    channels = (info.channels()[-1],)
    return _found(
        network, name, arguments, True, channels, channels_last, ["blocks.0", *ends][1:], divisor
    )


def _found(
    network: nn.Module,
    name: str,
    arguments: dict[str, Any],
    plain: bool,
    channels: tuple[int, ...],
    channels_last: bool,
    ends: list[str],
    divisor: int,
) -> Timm:
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    stated = _pretrained(network)
    return Timm(
        name,
        tuple(arguments.items()),
        plain,
        channels,
        channels_last,
        ("blocks.0" if plain else ends[0], *ends),
        any(isinstance(m, nn.LayerNorm) for m in network.modules()),
        norms[0].eps if norms else None,
        divisor,
        tuple(stated["mean"]),
        tuple(stated["std"]),
    )


def _pretrained(network: nn.Module) -> dict[str, Any]:
    """What timm states about the pixels of a network's published weights."""
    stated: Any = network.pretrained_cfg
    return stated


def _or_else(near: list[str] | None = None) -> str:
    if near:
        return f"there are {', '.join(PREFIX + name for name in near)}"
    return f"{_USABLE} work"


def _on_meta(name: str, plain: bool = False, **arguments: Any) -> Any:
    """The network on the meta device. Raises one of `_REFUSALS`."""
    with OnMeta():
        return _create(name, plain, **arguments).to("meta").eval()


def _create(name: str, plain: bool, *, pretrained: bool = False, **arguments: Any) -> nn.Module:
    timm = import_timm(name)
    if not plain:
        return timm.create_model(name, pretrained=pretrained, features_only=True, **arguments)
    return PlainTransformer(timm.create_model(name, pretrained=pretrained, **arguments))


def _make(found: Timm, *, pretrained: bool, drop_path: float) -> nn.Module:
    """The network on torch's default device. Raises DownloadError, and UsageError if it has no
    stochastic depth."""
    arguments = dict(found.arguments)
    if drop_path:
        arguments["drop_path_rate"] = drop_path
        try:
            network = _on_meta(found.name, found.plain, **arguments)
        except _REFUSALS:
            network = nn.Identity()
        if not any(type(module).__name__ == "DropPath" for module in network.modules()):
            raise UsageError(
                f"--backbone.drop-path: {PREFIX}{found.name}: has no stochastic depth; {_USABLE} "
                "have it"
            )
    if torch.get_default_device().type == "meta":
        return _on_meta(found.name, found.plain, **arguments)
    try:
        return _create(found.name, found.plain, pretrained=pretrained, **arguments)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = str(error).partition("\n")[0]
        raise DownloadError(
            f"--weights: imagenet: timm could not fetch those of {found.name} ({reason}); or give "
            "a file, or train from scratch with --weights none"
        ) from None


def _sizes(
    name: str, network: nn.Module, tried: list[dict[str, Any]], *, plain: bool = False
) -> tuple[dict[str, Any], int, bool]:
    """With which of the arguments `tried` the network takes images of many sizes, what their sides
    must be multiples of (px), and whether it gives channels last. Raises UsageError."""
    side = _pretrained(network)["input_size"][1]
    for divisor in (LEVELS[-1], side):
        for arguments in tried:
            for channels_last in _tried(name, arguments, plain, divisor):
                return arguments, divisor, channels_last
    raise UsageError(
        f"--backbone.name: {PREFIX}{name}: takes images of {side} x {side} px only; {_or_else()}"
    )


def _tried(name: str, arguments: dict[str, Any], plain: bool, divisor: int) -> Iterator[bool]:
    """Whether the network gives channels last, if it takes an image of such a size."""
    height, width = divisor * max(1, 160 // divisor), divisor * max(2, 352 // divisor)
    try:
        network = _on_meta(name, plain, **arguments)
        with torch.no_grad():
            maps = network(torch.empty(1, 3, height, width, device="meta"))
    except _REFUSALS:
        return
    strides = [PATCH] if plain else LEVELS
    shapes = [(height // stride, width // stride) for stride in strides]
    if [tuple(m.shape[2:]) for m in maps] == shapes:
        yield False
    elif [tuple(m.shape[1:3]) for m in maps] == shapes:
        yield True
