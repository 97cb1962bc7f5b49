"""What a detector costs: parameters, and operations of one forward pass at batch 1."""

from __future__ import annotations

import dataclasses
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from fasterrcnn import recipes
from fasterrcnn.data.sampler import buckets
from fasterrcnn.models.build import build


def cost(recipe: recipes.Recipe, num_classes: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Parameters; multiply-adds of convolutions and matrix products on one `shape` (H, W) image.

    One multiply-add counts once, as in torchvision's and MMDetection's tables. Nothing is computed:
    shapes alone decide.
    """
    network = dataclasses.replace(  # what is left of it decides
        recipe, name="", schedule=recipes.Schedule(), data=recipes.Data(), input=recipes.Input()
    )
    return _cost(network, num_classes, shape)


def coco_cost(recipe: recipes.Recipe) -> tuple[int, int, tuple[int, int]]:
    """As `cost` with COCO's 80 classes on the recipe's largest landscape shape, and that shape."""
    shape = max(buckets(recipe.input), key=lambda shape: shape[::-1])
    return *cost(recipe, 81, shape), shape


@cache
def _cost(recipe: recipes.Recipe, num_classes: int, shape: tuple[int, int]) -> tuple[int, int]:
    with torch.device("meta"):
        model = build(recipe, num_classes).eval()
        image = torch.empty(1, 3, *shape)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            features = model.backbone(image)
            if hasattr(model, "rpn"):
                model.rpn.dense_head(features)
            if hasattr(model, "roi_heads"):
                model.roi_heads.head(features, torch.empty(1, recipe.rpn.post_nms_top_n_test, 4))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2
