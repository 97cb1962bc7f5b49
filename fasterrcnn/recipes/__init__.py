"""Recipes: everything that decides the weights. No torch, and nothing about where a run happens.

`fields` says what a recipe is, `conventions` what frameworks define differently, `zoo` has the
recipes by name, `changes` what one does with a recipe. ``python -m fasterrcnn.recipes`` shows them.
"""

from fasterrcnn.recipes.changes import (
    as_text,
    change,
    difference,
    flat,
    from_dict,
    with_coco_weights,
    with_epochs,
    with_images_per_step,
)
from fasterrcnn.recipes.fields import (
    RPN,
    Backbone,
    Data,
    Input,
    Recipe,
    RoIHeads,
    Schedule,
    check,
    setting,
)
from fasterrcnn.recipes.zoo import (
    RECIPES,
    Entry,
    Published,
    describe,
    fasterrcnn_r10_fpn_shapes,
    fasterrcnn_r50_fpn_1x,
    get,
)

__all__ = [
    "RECIPES", "RPN", "Backbone", "Data", "Entry", "Input", "Published", "Recipe", "RoIHeads",
    "Schedule", "as_text", "change", "check", "describe", "difference", "fasterrcnn_r10_fpn_shapes",
    "fasterrcnn_r50_fpn_1x", "flat", "from_dict", "get", "setting", "with_coco_weights",
    "with_epochs", "with_images_per_step",
]  # fmt: skip
