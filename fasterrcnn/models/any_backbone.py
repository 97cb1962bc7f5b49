"""Backbones by name: those of `backbones`, any other classification network of torchvision, timm's.

Life of a batch, step 5. Levels, channels and strides of a network are what `stages` sees in it, or
what timm states; its pixels are what its published weights state.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import get_model_builder, get_model_weights, list_models

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.models import backbones, timm_networks
from fasterrcnn.models.backbones import Backbone, BackboneWithFPN
from fasterrcnn.models.simple_pyramid import SimplePyramid
from fasterrcnn.models.stages import LEVELS, Body, Chain, Description, OnMeta, describe
from fasterrcnn.models.timm_networks import PREFIX, TimmBody

_NO_DEPTH = "has no stochastic depth; swin_t, convnext_tiny and efficientnet_b0 have it"
_USABLE = "swin_t, convnext_tiny and regnet_y_1_6gf have them"


class AnyBackbone(BackboneWithFPN):
    """A classification network and a feature pyramid: levels of strides 4, 8, 16, 32 and 64."""

    body: Body

    def __init__(self, config: recipes.Backbone) -> None:
        # The base class reads a body's channels, and features "0" to "3" that it returns.
        super().__init__(
            _make_body(config),  # type: ignore[arg-type]
            config.fpn_channels,
            config.fpn_norm,
        )


class PlainBackbone(Backbone):
    """A plain vision transformer and ViTDet's pyramid: levels of strides 4, 8, 16, 32 and 64."""

    strides = (*LEVELS, 64)
    roi_levels = 4
    body: Body

    def __init__(self, config: recipes.Backbone) -> None:
        super().__init__()
        self.body = _make_body(config)
        self.fpn = SimplePyramid(self.body.channels[0], config.fpn_channels)
        self.out_channels = config.fpn_channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """The pyramid's levels, finest first."""
        (found,) = self.body.maps(x)
        return self.fpn(found)


def _make_body(config: recipes.Backbone) -> Body:
    """The body with fresh weights, of which is trained what the recipe says."""
    if config.name.startswith(PREFIX):
        found = timm_networks.describe(config.name.removeprefix(PREFIX))
        body: Body = TimmBody(found, drop_path=config.drop_path)
    else:
        body = Chain(_make(config.name), describe_network(config.name))
        if not body.set_drop_path(config.drop_path) and config.drop_path:
            raise UsageError(f"--backbone.drop-path: {config.name}: {_NO_DEPTH}")
    for norm in body.batch_norms():
        norm.eps = config.norm_eps
    body.freeze(config.trainable_layers, config.norm)
    return body


def build_backbone(config: recipes.Backbone) -> tuple[Backbone, nn.Module | None]:
    """As `backbones.build_backbone`, for every network. Raises UsageError for one that cannot be a
    detector's backbone."""
    if is_own(config):
        if config.drop_path:
            raise UsageError(f"--backbone.drop-path: {config.name}: {_NO_DEPTH}")
        return backbones.build_backbone(config)
    facts = facts_of(config.name)
    for field, wrong, reason in (
        ("neck", config.neck == "none", "only the ResNets of this project and vgg16 can have it"),
        ("stride-in-1x1", config.stride_in_1x1, "only ResNets can have it"),
        ("deformable", config.deformable != "none",
         f"only {', '.join(backbones.BODIES)} can have it"),
        ("fpn-norm", facts.plain and config.fpn_norm != "none",
         "the pyramid of a plain transformer has layer norms; needs none"),
    ):  # fmt: skip
        if wrong:
            raise UsageError(f"--backbone.{field}: {config.name}: {reason}")
    backbone = PlainBackbone(config) if facts.plain else AnyBackbone(config)
    return (backbone.requires_grad_(False) if config.fixed else backbone), None


def is_own(config: recipes.Backbone) -> bool:
    """Whether the network is one of `backbones`."""
    return (
        config.name in backbones.BODIES
        or (config.name == "vgg16" and config.neck == "none")
        or config.name == "mobilenet_v3_large"
    )


def layers_of(backbone: Backbone) -> list[list[nn.Parameter]]:
    """The parameters of the backbone's layers, by which the learning rate decays: the blocks of a
    plain transformer, else stem and stages. Raises UsageError for one without them."""
    if isinstance(backbone, (AnyBackbone, PlainBackbone)):
        return backbone.body.layers()
    body = backbone.body
    if not isinstance(body, backbones.ResNet):
        raise UsageError("--schedule.layer-decay: vgg16 and mobilenet_v3_large do not have it")
    parts = [["conv1", "bn1"], *([f"layer{i}"] for i in (1, 2, 3, 4) if hasattr(body, f"layer{i}"))]
    return [[p for name in part for p in getattr(body, name).parameters()] for part in parts]


@dataclass(frozen=True)
class Facts:
    """What a library states about a network."""

    channels: tuple[int, ...]  # of the levels, or of a plain transformer's one map
    plain: bool
    has_layer_norm: bool
    norm_eps: float | None  # of its batch norms; None if it has none
    size_divisible: int  # to what sides of images must be padded (px)
    mean: tuple[float, ...]  # of pixels from 0 to 1, as of the published weights
    std: tuple[float, ...]


def facts_of(name: str) -> Facts:
    """The facts about a network. Raises UsageError for one that cannot be a backbone."""
    if name.startswith(PREFIX):
        timm = timm_networks.describe(name.removeprefix(PREFIX))
        return Facts(*(getattr(timm, field.name) for field in fields(Facts)))
    found, pixels = describe_network(name), get_model_weights(name).DEFAULT.transforms()
    return Facts(
        tuple(found.steps[found.level(stride)].channels for stride in LEVELS),
        False,
        found.has_layer_norm,
        found.norm_eps,
        found.size_divisible,
        tuple(pixels.mean),
        tuple(pixels.std),
    )


def check_sizes(recipe: recipes.Recipe) -> None:
    """Raise UsageError unless images are padded to sizes that the network can take."""
    if is_own(recipe.backbone):
        return
    divisor, given = facts_of(recipe.backbone.name).size_divisible, recipe.input.size_divisible
    if given % divisor:
        raise UsageError(
            f"--input.size-divisible: {given}: {recipe.backbone.name} takes images whose sides are "
            f"multiples of {divisor} px"
        )


@cache
def describe_network(name: str) -> Description:
    """What the network of that name is. Raises UsageError for one that cannot be a backbone."""
    check_name(name)
    found = describe(lambda: _make(name))
    if not set(LEVELS) <= set(found.strides):
        strides = " and ".join(", ".join(map(str, found.strides)).rsplit(", ", 1))
        has = f"of strides {strides} only" if strides else "that are no maps of a fixed stride"
        raise UsageError(
            f"--backbone.name: {name}: has features {has}, and a pyramid needs 4, 8, 16 and 32; "
            f"{_USABLE}"
        )
    return found


def check_name(name: str) -> None:
    """Raise UsageError for a name that torchvision's classification networks do not have."""
    known = list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.5)
        raise UsageError(
            f"--backbone.name: {name}: unknown; choose a classification network of torchvision, "
            f"such as {', '.join(near or ['resnet50', 'swin_t', 'regnet_y_1_6gf'])}, or timm:NAME"
        )
    if name in ("googlenet", "inception_v3"):
        raise UsageError(
            f"--backbone.name: {name}: its weights shift and scale pixels inside the network; "
            "resnet50, swin_t and regnet_y_1_6gf take them as they come"
        )


def _make(name: str) -> nn.Module:
    """The network with fresh weights, on torch's default device."""
    build = get_model_builder(name)
    if torch.get_default_device().type == "meta":  # RegNet reads numbers that it computes
        with OnMeta():
            return build(weights=None).to("meta")
    return build(weights=None)


def stated(name: str) -> dict[str, dict[str, Any]]:
    """The fields of a recipe, by group, that the network and its published weights state.

    None for the networks of `backbones`, whose recipes state them. Raises UsageError as `facts_of`.
    """
    if name in backbones.BODIES or name in ("vgg16", "mobilenet_v3_large"):
        return {}
    facts = facts_of(name)
    return {
        "input": dict(
            channel_order="rgb",
            pixel_scale=255.0,
            image_mean=facts.mean,
            image_std=facts.std,
            size_divisible=facts.size_divisible,
        ),
        "backbone": {} if facts.norm_eps is None else dict(norm_eps=facts.norm_eps),
        "schedule": dict(decay_weights_only=facts.has_layer_norm),
    }


def published(name: str) -> tuple[dict[str, Tensor], str]:
    """timm's default weights of one of its networks under the body's names, and whose they are.

    Raises DownloadError.
    """
    found = timm_networks.describe(name.removeprefix(PREFIX))
    return TimmBody(found, pretrained=True).state_dict(), f"timm, {found.name}"


def named_as(body: Body, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classifier's tensors under the names of `body`, as far as it has them."""
    if isinstance(body, TimmBody):
        return body.from_classifier(tensors)
    return densenet_names(tensors)


def densenet_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classifier's tensors under today's names: DenseNet's were published under older ones."""
    old = r"(denselayer\d+\.(?:norm|conv))\.(\d\.)"
    return {re.sub(old, r"\1\2", name): tensor for name, tensor in tensors.items()}


def describe_backbone(config: recipes.Backbone) -> str | None:
    """A line for the log about a network that is not in `backbones`."""
    if is_own(config):
        return None
    facts = facts_of(config.name)
    norms = [f"batch norms, {config.norm}"] * (facts.norm_eps is not None)
    norms += ["layer norms, trained"] * facts.has_layer_norm
    strides = f"strides {', '.join(map(str, LEVELS))}"
    if facts.plain:
        strides = f"stride {timm_networks.PATCH}, a simple feature pyramid"
    return (
        f"backbone {config.name}: {', '.join(map(str, facts.channels))} channels at {strides}; "
        f"{', '.join(norms) or 'no norms'}; its weights state pixels of mean "
        f"{recipes.as_text(facts.mean)} and std {recipes.as_text(facts.std)}, sides in multiples "
        f"of {facts.size_divisible} px"
    )
