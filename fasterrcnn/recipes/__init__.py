"""Recipes: everything that decides the weights. No torch, and nothing about where a run happens.

`fields` says what a recipe is, `checks` which values go together, `conventions` what frameworks
define differently, `zoo` has the recipes by name, `aliases` what they were called before, `changes`
what one does with a recipe.
``fasterrcnn recipes`` shows them.
"""

from fasterrcnn.recipes.aliases import RENAMED_FIELDS, RENAMED_RECIPES, former_names
from fasterrcnn.recipes.changes import (
    as_flags,
    as_text,
    change,
    difference,
    flat,
    from_dict,
    with_coco_weights,
    with_epochs,
    with_images_per_step,
    with_lr_scheduler,
    with_measured_pixels,
    with_optimizer,
    with_values,
)
from fasterrcnn.recipes.checks import check
from fasterrcnn.recipes.fields import AUTO, Augment, Backbone, Data, Input, Recipe, Schedule
from fasterrcnn.recipes.head_fields import RPN, RoIHeads
from fasterrcnn.recipes.zoo import RECIPES, describe, find, get
from fasterrcnn.recipes.zoo.entry import Entry, Published
from fasterrcnn.recipes.zoo.of_torchvision import fasterrcnn_r50_fpn_1x
from fasterrcnn.recipes.zoo.shapes import fasterrcnn_r10_fpn_shapes

__all__ = [
    "AUTO", "RECIPES", "RENAMED_FIELDS", "RENAMED_RECIPES", "RPN", "Augment", "Backbone", "Data",
    "Entry", "Input", "Published", "Recipe", "RoIHeads", "Schedule", "as_flags", "as_text",
    "change", "check", "describe", "difference", "fasterrcnn_r10_fpn_shapes",
    "fasterrcnn_r50_fpn_1x", "find", "flat", "former_names", "from_dict", "get",
    "with_coco_weights", "with_epochs", "with_images_per_step", "with_lr_scheduler",
    "with_measured_pixels", "with_optimizer", "with_values",
]  # fmt: skip
