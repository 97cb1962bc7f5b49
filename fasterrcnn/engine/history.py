"""What a run changed on its way: `--resume` with other values, from its checkpoint on.

A checkpoint keeps every change: the step, the values before, and where epochs are counted from. So
the order of the data and the learning rate stay functions of the step. The learning rate is that of
the schedule as it is now. Where the images of a step or a micro-batch changed, an epoch begins; the
schedule goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fasterrcnn import recipes
from fasterrcnn.engine.checkpoint import State
from fasterrcnn.recipes import Recipe
from fasterrcnn.schedule import START, Origin

_BATCHES = {"schedule.images_per_step", "schedule.images_per_gpu"}
_CHANGEABLE = _BATCHES | {
    "amp",
    *(
        f"schedule.{name}"
        for name in (
            "epochs", "lr_scheduler", "milestones", "gamma", "lr", "momentum", "weight_decay",
            "warmup_steps", "warmup_factor", "clip_grad_norm",
        )
    ),
}  # fmt: skip


# The changes of a run, the first one first, as json: "step", the steps done before; "was", the
# former value of every changed field by its dotted name; "origin", an `Origin` from here on.
History = list[dict[str, Any]]


def origin(changes: History) -> Origin:
    """Where the epochs of a run are counted from."""
    return Origin(*changes[-1]["origin"]) if changes else START


def fixed(saved: Recipe, recipe: Recipe) -> list[str]:
    """The fields that differ and cannot change within a run: ``["seed: 0 -> 1", ...]``."""
    asked = recipes.flat(recipe)
    changed = recipes.with_values(saved, {name: asked[name] for name in _CHANGEABLE})
    return recipes.difference(changed, recipe)


def go_on(
    saved: State, recipe: Recipe, epoch_at: Callable[[State], float], *, resume: bool
) -> tuple[Recipe, History, str | None]:
    """The recipe and the changes with which a run of `recipe` goes on from `saved`, and a log line.

    `epoch_at`: the epochs that a checkpoint has done. Without `resume`, the recipe that the run had
    before a change stands for the present one. What cannot be changed is returned as it was asked
    for; `resume.check_start` refuses it.
    """
    different = recipes.difference(saved.recipe, recipe)
    if not different:
        return recipe, saved.history, None
    if not resume and recipe in _former(saved):
        lines = recipes.difference(recipe, saved.recipe)
        return saved.recipe, saved.history, f"changed on the way: {'; '.join(lines)}"
    if not resume or fixed(saved.recipe, recipe):
        return recipe, saved.history, None
    before, after = recipes.flat(saved.recipe), recipes.flat(recipe)
    was = {name: value for name, value in before.items() if value != after[name]}
    start = origin(saved.history)
    if _BATCHES & was.keys():
        start = Origin(saved.step, epoch_at(saved))
    change = {"step": saved.step, "was": was, "origin": start}
    said = f"changed from step {saved.step} on: {'; '.join(different)}"
    return recipe, [*saved.history, change], said


def _former(saved: State) -> Iterator[Recipe]:
    """The recipes that a run had before each of its changes."""
    recipe = saved.recipe
    for change in reversed(saved.history):
        recipe = recipes.with_values(recipe, change["was"])
        yield recipe
