"""List the recipes, show one in full, or compare two."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from fasterrcnn import recipes, schedule
from fasterrcnn.cli import flags
from fasterrcnn.errors import UsageError
from fasterrcnn.models.cost import coco_cost
from fasterrcnn.recipes import Recipe
from fasterrcnn.settings import setting

_COCO_IMAGES = 117_266  # of train2017, with boxes


@dataclass(frozen=True)
class Options:
    """The recipes to show; without names, a line for each of them."""

    names: tuple[str, ...] = setting(
        (), "recipes to show in full (default: list all)", positional=True
    )
    diff: bool = setting(False, "show what differs between two recipes")
    plot: Path | None = setting(None, "plot the learning rate on COCO to this file")
    json: bool = setting(False, "print json")


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    chosen = [recipes.get(name) for name in options.names]
    if options.diff:
        if len(chosen) != 2:
            raise UsageError(f"--diff: needs two recipes, {len(chosen)} given")
        lines = recipes.difference(*chosen)
        print(json.dumps(lines, indent=1) if options.json else "\n".join(lines))
        return
    if options.plot is not None:
        if not chosen:
            raise UsageError("--plot: name the recipes to draw")
        plot(chosen, options.plot)
        print(f"learning rate of {', '.join(options.names)}: {options.plot}")
        return
    if options.json:
        shown = chosen or [recipes.get(name) for name in recipes.RECIPES]
        print(json.dumps([as_json(recipe) for recipe in shown], indent=1))
        return
    print("\n\n".join(map(full, chosen)) if chosen else listing())


def listing() -> str:
    """A line per recipe: name, backbone, style, schedule, published number, source."""
    rows = [("recipe", "backbone", "style", "schedule", "published", "source")]
    for name, entry in recipes.RECIPES.items():
        value = entry.published.value if entry.published else None
        rows.append((
            name,
            entry.make().backbone.name,
            entry.style,
            entry.schedule,
            "-" if value is None else f"{entry.metric} {value:g}",
            entry.source,
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join([*(f"{cell:{w}}" for cell, w in zip(row, widths, strict=False)), row[5]])
        for row in rows
    )


def full(recipe: Recipe) -> str:
    """Label, every value, size and schedule of one recipe."""
    try:
        parameters, operations, (height, width) = coco_cost(recipe)
        size = (
            f"{parameters:,} parameters, {operations / 1e9:.1f} G multiply-adds for an image of "
            f"{width} x {height} px, COCO's 80 classes"
        )
    except UsageError as error:  # the network is of an extra that is not installed
        size = str(error)
    return "\n".join([
        recipes.RECIPES[recipe.name].label(),
        recipes.describe(recipe),
        f"size: {size}",
        schedule.describe(recipe.schedule, steps := _steps(recipe),
                          schedule.total_steps(recipe.schedule, steps)) + " (COCO)",
    ])  # fmt: skip


def as_json(recipe: Recipe) -> dict:
    """A recipe with its label's parts."""
    entry = recipes.RECIPES[recipe.name]
    published = dataclasses.asdict(entry.published) if entry.published else None
    return {
        **dataclasses.asdict(recipe),
        "source": entry.source,
        "published": published,
        "measured": entry.measured,
    }


def plot(chosen: list[Recipe], path: Path) -> None:
    """Learning rate over epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for recipe in chosen:
        per_epoch = _steps(recipe)
        total = schedule.total_steps(recipe.schedule, per_epoch)
        every = max(1, total // 5000)
        steps = [*range(min(total, 2 * recipe.schedule.warmup_steps)), *range(0, total, every)]
        steps = sorted(set(steps))
        rates = [schedule.lr_at(step, recipe.schedule, per_epoch) for step in steps]
        axes.plot([step / per_epoch for step in steps], rates, label=recipe.name)
    axes.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def _steps(recipe: Recipe) -> int:
    """Steps per epoch on COCO."""
    return -(-_COCO_IMAGES // recipe.schedule.images_per_step)
