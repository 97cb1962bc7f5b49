"""What a file says of its detector beside the weights, and how that becomes a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fasterrcnn import recipes
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.recipes import Recipe
from fasterrcnn.settings import as_flag

# What decides most about the boxes, by the field whose presence shows that a file states it.
_TOPICS = {
    "rpn.anchor_sizes": "anchors",
    "input.min_size": "image sizes",
    "input.image_mean": "pixel values",
    "roi_heads.bbox_reg_weights": "box weights",
    "roi_heads.score_thresh": "thresholds",
}


@dataclass
class Stated:
    """Fields of a recipe, by dotted name, as a file states them."""

    values: dict[str, Any] = field(default_factory=dict)
    undecided: dict[str, str] = field(default_factory=dict)  # field: why its value is not clear
    refused: list[str] = field(default_factory=list)  # what is computed there and not here

    def put(self, name: str, value: Any) -> None:
        """State field `name`, unless `value` is None."""
        if value is not None:
            self.values[name] = value

    def must_be(self, name: str, value: Any, only: Any) -> None:
        """Refuse another `value` of their setting `name` than the `only` one that is computed
        here; None is a setting that is not there."""
        if value is not None and value != only:
            self.refused.append(f"{name} is {value}; only {only} is supported")

    def leave_open(self, names: tuple[str, ...], why: str) -> None:
        """Fields that the user must give."""
        self.undecided |= dict.fromkeys(names, why)

    def origins(self, given: dict[str, Any], detector: str) -> str:
        """What this file states, what was `given` as flags and what is left to defaults, for the
        log."""
        parts = []
        topics = {
            name: topic
            for name, topic in _TOPICS.items()
            if not (detector == "rpn" and name.startswith("roi_heads."))
        }
        if stated := [topic for name, topic in topics.items() if name in self.values]:
            parts.append(f"the file states {', '.join(stated)}")
        if given:
            parts.append(f"given {', '.join(map(as_flag, given))}")
        known = {*self.values, *given}
        if left := [topic for name, topic in topics.items() if name not in known]:
            parts.append(f"{', '.join(left)} by default")
        return "".join(f"; {part}" for part in parts)


def settled(recipe: Recipe, stated: Stated, given: dict[str, Any], path: Path) -> Recipe:
    """`recipe` with what the file at `path` states and, where it says nothing, what was `given` as
    flags. Raises CheckpointError if the file states what is not computed here, UsageError if the
    user must say more, or said something else than the file."""
    if stated.refused:
        raise CheckpointError(f"{path}: {stated.refused[0]}")
    for name, value in given.items():
        if stated.values.get(name, value) != value:
            raise UsageError(
                f"{as_flag(name)}: {recipes.as_text(value)}: {path} says "
                f"{recipes.as_text(stated.values[name])}; leave the flag out"
            )
    if missing := [name for name in stated.undecided if name not in given]:
        flags = " and ".join(map(as_flag, missing))
        raise UsageError(f"{path}: {stated.undecided[missing[0]]}; give {flags}")
    for name, value in {**stated.values, **given}.items():
        group, leaf = name.split(".")
        recipe = recipes.change(recipe, **{group: {leaf: value}})
    if any(size > recipe.input.min_size for size in recipe.input.train_min_sizes):
        recipe = recipes.change(recipe, input=dict(train_min_sizes=(), train_sampling="list"))
    recipes.check(recipe)
    return recipe


def whole(value: float) -> float:
    """`value` without the noise of a division, as an int if it is whole."""
    value = round(value, 6)
    return int(value) if value == int(value) else value
