"""The recipes by name, including the names that their sources use.

A recipe is a function, or a row of a table that changes the fields' defaults. A bare name is ours:
torchvision's network, the paper's VGG-16 or the demo. A name that ends in a framework's computes as
that framework does.
"""

from __future__ import annotations

import dataclasses
import difflib

from fasterrcnn.errors import UsageError
from fasterrcnn.recipes.aliases import RENAMED_RECIPES
from fasterrcnn.recipes.changes import as_text, difference
from fasterrcnn.recipes.fields import Recipe
from fasterrcnn.recipes.zoo import (
    of_detectron2,
    of_mmdetection,
    of_mmdetection_networks,
    of_mmdetection_variants,
    of_torchvision,
    shapes,
    voc,
)
from fasterrcnn.recipes.zoo.entry import Entry

RECIPES: dict[str, Entry] = {
    entry.make().name: entry
    for source in (
        of_torchvision,
        of_mmdetection,
        of_mmdetection_variants,
        of_mmdetection_networks,
        of_detectron2,
        voc,
        shapes,
    )
    for entry in source.ENTRIES
}
_BY_NAME_OF_SOURCE = {
    theirs: name for name, entry in RECIPES.items() for theirs in entry.names_of_source
}


def get(name: str) -> Recipe:
    """The recipe called `name`, by us or by its source (``faster-rcnn_r50_fpn_2x_coco.py``).

    Raises UsageError that says what it is called now, or which names are close.
    """
    if name in RENAMED_RECIPES:
        raise UsageError(f"--recipe: {name}: renamed to {RENAMED_RECIPES[name]}")
    ours = _BY_NAME_OF_SOURCE.get(_stem(name), name)
    if ours not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, 3, 0.3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UsageError(f"--recipe: {name}: unknown{hint} ('fasterrcnn recipes' lists them)")
    return RECIPES[ours].make()


def find(framework: str, name: str) -> str | None:
    """Our name for the recipe that `name` means where `framework` is known.

    `name` is ours, with or without the framework's, or theirs. Case, hyphens, ``_coco`` and the
    underscore in ``faster_rcnn`` do not count.
    """
    for ours, entry in RECIPES.items():
        names = (ours, ours.removesuffix(f"_{framework}"), *entry.names_of_source)
        if entry.framework == framework and _plain(name) in map(_plain, names):
            return ours
    return None


def _stem(name: str) -> str:
    """A config's name without its folder and suffix."""
    return name.rpartition("/")[2].removesuffix(".py").removesuffix(".yaml")


def _plain(name: str) -> str:
    plain = _stem(name).lower().replace("-", "_").replace("_coco", "")
    return plain.replace("faster_rcnn", "fasterrcnn")


def describe(recipe: Recipe) -> str:
    """The resolved recipe, a line per group, and what the user changed."""
    lines = [
        f"recipe {recipe.name}: {recipe.detector}, weights {recipe.weights}, amp {recipe.amp}, "
        f"seed {recipe.seed}"
    ]
    for name, group in vars(recipe).items():
        if dataclasses.is_dataclass(group):
            values = " ".join(f"{k}={as_text(v)}" for k, v in vars(group).items())
            lines.append(f"  {name}: {values}")
    changes = difference(get(recipe.name), recipe)
    return "\n".join([*lines, *(f"  changed: {line}" for line in changes)])
