"""Cost of a detector: parameters, and multiply-adds of a forward pass at batch size 1."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fasterrcnn import recipes
from fasterrcnn.image_sizes import buckets
from fasterrcnn.models.build import FasterRCNN, FastRCNN, ProposalNetwork, build


def cost(recipe: recipes.Recipe, num_classes: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Number of parameters, and of multiply-adds for an image of `shape` (H, W; px).

    Convolutions and matrix products are counted, a multiply-add once, as in the tables of
    torchvision and MMDetection. Runs on the meta device, so nothing is computed.
    """
    network = dataclasses.replace(  # drop fields that change nothing, for the cache
        unnamed(recipe),
        schedule=recipes.Schedule(),
        input=recipes.Input(channels=recipe.input.in_channels),
        augment=recipes.Augment(),
        amp="off",
    )
    return _cost(network, num_classes, shape)


def unnamed(recipe: recipes.Recipe) -> recipes.Recipe:
    """The recipe without its name, first weights, data and length, which change no cost."""
    schedule = dataclasses.replace(recipe.schedule, epochs=12.0, milestones=(), lr=0.02)
    return dataclasses.replace(
        recipe, name="", weights="none", data=recipes.Data(), schedule=schedule
    )


def coco_cost(recipe: recipes.Recipe) -> tuple[int, int, tuple[int, int]]:
    """`cost` with COCO's 80 classes at the recipe's largest landscape shape, and that shape."""
    shape = max(buckets(recipe.input), key=lambda shape: shape[::-1])
    return *cost(recipe, 81, shape), shape


def _deformable_flops(
    x: Any, weight: torch.Size, *_: Any, out_shape: torch.Size, **named: Any
) -> int:
    """Two for every multiply-add of the convolution; interpolating is not counted."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


@cache
def _cost(recipe: recipes.Recipe, num_classes: int, shape: tuple[int, int]) -> tuple[int, int]:
    """`cost`, cached."""
    with torch.device("meta"):
        model = build(recipe, num_classes).eval()
        image = torch.empty(1, recipe.input.in_channels, *shape)
        counted = {torch.ops.torchvision.deform_conv2d: _deformable_flops}
        with FlopCounterMode(display=False, custom_mapping=counted) as counter, torch.no_grad():
            features = model.backbone(image)
            if isinstance(model, (FasterRCNN, ProposalNetwork)):
                model.rpn.dense_head(features)
            if isinstance(model, (FasterRCNN, FastRCNN)):
                rois = torch.empty(1, recipe.rpn.post_nms_top_n_test, 4)
                model.roi_heads.predict(features, rois, torch.empty(1, 2))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2
