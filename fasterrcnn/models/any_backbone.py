"""Backbones by name: those of `backbones`, and any other classification network of torchvision.

Life of a batch, step 5. Levels, channels and strides of a network are what `stages` sees in it, its
pixels what its published weights state.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import get_model_builder, get_model_weights, list_models

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.models import backbones
from fasterrcnn.models.backbones import Backbone, BackboneWithFPN
from fasterrcnn.models.stages import LEVELS, Body, Description, OnMeta, describe

_USABLE = "swin_t, convnext_tiny and regnet_y_1_6gf have them"


class AnyBackbone(BackboneWithFPN):
    """A classification network and a feature pyramid: levels of strides 4, 8, 16, 32 and 64."""

    body: Body

    def __init__(self, config: recipes.Backbone) -> None:
        description = describe_network(config.name)
        body = Body(_make(config.name), description)
        for module in body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = config.norm_eps
        body.freeze(config.trainable_layers, config.norm)
        # The base class reads a body's channels, and features "0" to "3" that it returns.
        super().__init__(body, config.fpn_channels, config.fpn_norm)  # type: ignore[arg-type]


def build_backbone(config: recipes.Backbone) -> tuple[Backbone, nn.Module | None]:
    """As `backbones.build_backbone`, for every network. Raises UsageError for one that cannot be a
    detector's backbone."""
    if is_own(config):
        return backbones.build_backbone(config)
    for field, value, only in (
        ("neck", config.neck == "none", "the ResNets of `--help` and vgg16"),
        ("stride-in-1x1", config.stride_in_1x1, "ResNets"),
    ):
        if value:
            raise UsageError(f"--backbone.{field}: {config.name}: only {only} can have it")
    backbone = AnyBackbone(config)
    return (backbone.requires_grad_(False) if config.fixed else backbone), None


def is_own(config: recipes.Backbone) -> bool:
    """Whether the network is one of `backbones`."""
    return (
        config.name in backbones.BODIES
        or (config.name == "vgg16" and config.neck == "none")
        or config.name == "mobilenet_v3_large"
    )


def check_sizes(recipe: recipes.Recipe) -> None:
    """Raise UsageError unless images are padded to sizes that the network can take."""
    if is_own(recipe.backbone):
        return
    divisor, given = describe_network(recipe.backbone.name).size_divisible, recipe.input
    if given.size_divisible % divisor:
        raise UsageError(
            f"--input.size-divisible: {given.size_divisible}: {recipe.backbone.name} takes images "
            f"whose sides are multiples of {divisor} px"
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
            f"such as {', '.join(near or ['resnet50', 'swin_t', 'regnet_y_1_6gf'])}"
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

    None for the networks of `backbones`, whose recipes state them. Raises UsageError as
    `describe_network`.
    """
    if name in backbones.BODIES or name in ("vgg16", "mobilenet_v3_large"):
        return {}
    found = describe_network(name)
    pixels = get_model_weights(name).DEFAULT.transforms()
    return {
        "input": dict(
            channel_order="rgb",
            pixel_scale=255.0,
            image_mean=tuple(pixels.mean),
            image_std=tuple(pixels.std),
            size_divisible=found.size_divisible,
        ),
        "backbone": {} if found.norm_eps is None else dict(norm_eps=found.norm_eps),
    }


def with_current_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classifier's tensors under today's names: DenseNet's were published under older ones."""
    old = r"(denselayer\d+\.(?:norm|conv))\.(\d\.)"
    return {re.sub(old, r"\1\2", name): tensor for name, tensor in tensors.items()}


def describe_backbone(config: recipes.Backbone) -> str | None:
    """A line for the log about a network that is not in `backbones`."""
    if is_own(config):
        return None
    found = describe_network(config.name)
    channels = [found.steps[found.level(stride)].channels for stride in LEVELS]
    norms = [f"batch norms, {config.norm}"] * (found.norm_eps is not None)
    norms += ["layer norms, trained"] * found.has_layer_norm
    pixels = stated(config.name).get("input") or vars(recipes.Input())
    return (
        f"backbone {config.name}: {', '.join(map(str, channels))} channels at strides "
        f"{', '.join(map(str, LEVELS))}; {', '.join(norms) or 'no norms'}; its weights state "
        f"pixels of mean {recipes.as_text(pixels['image_mean'])} and std "
        f"{recipes.as_text(pixels['image_std'])}, sides in multiples of "
        f"{found.size_divisible} px"
    )
