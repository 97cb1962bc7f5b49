"""Write tables of size, memory, fps and AP or AR1000: measured here beside published numbers.

A row per recipe; with --output FILE.html a page whose columns can be sorted. Measured numbers come
from run folders (AP or AR1000, memory) and files of the benchmark command (fps, memory), each with
its hardware; nothing is estimated. The protocol is that of the published tables: Mem is the peak
memory of one GPU's allocator in training, fps is images per second at batch 1 from decoded images
to final boxes, NMS included, reading and decoding files excluded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fasterrcnn import recipes
from fasterrcnn.cli import flags
from fasterrcnn.engine import checkpoint, counting
from fasterrcnn.engine.run_folder import METRICS, read_json, read_rows
from fasterrcnn.errors import UsageError
from fasterrcnn.models.cost import coco_cost, unnamed
from fasterrcnn.recipes import Recipe
from fasterrcnn.reports import pages
from fasterrcnn.settings import setting

_TITLES = {
    "rpn": "Region proposal networks",
    "fast_rcnn": "Fast R-CNN on stored proposals",
    "faster_rcnn": "Faster R-CNN",
}
_HEAD = (
    "recipe", "backbone", "style", "lr schd", "parameters (M)", "G multiply-adds",
    "Mem counted (GiB)", "Mem (GB)", "Inf time (fps)", "{metric}", "measured on",
    "Mem published", "fps published", "{metric} published", "published by",
)  # fmt: skip
_WORDS = {"recipe", "backbone", "style", "lr schd", "measured on", "published by"}  # not numbers


@dataclass(frozen=True)
class Options:
    """The measurements to include."""

    sources: tuple[Path, ...] = setting(
        (), "run folders and benchmark files (default: published numbers only)", positional=True
    )
    output: Path | None = setting(
        None, "write the tables to this file, .html or markdown (default: the terminal)"
    )
    recipes: tuple[str, ...] = setting((), "only these recipes (default: all)", flag="--recipes")
    count: bool = setting(
        False,
        "count the largest memory of a training step of every network too, without a GPU (about 15 "
        "s each)",
    )


@dataclass
class Measured:
    """The measurements of one recipe, as text; empty where there is none."""

    memory: str = ""
    fps: str = ""
    quality: str = ""
    where: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    measured: dict[str, Measured] = {}
    for source in options.sources:
        name, found = read(source)
        merge(measured.setdefault(name, Measured()), found)
    chosen = [recipes.get(name).name for name in options.recipes] or [*recipes.RECIPES]
    tables = [table(kind, chosen, measured, counted=options.count) for kind in _TITLES]
    tables = [one for one in tables if one.rows]
    if options.output is None:
        print(as_markdown(tables))
        return
    if options.output.suffix == ".html":
        pages.write(pages.render("tables.html", tables=tables, notes=notes()), options.output)
    else:
        options.output.write_text(as_markdown(tables) + "\n")
    print(f"tables in {options.output}")


def read(source: Path) -> tuple[str, Measured]:
    """The recipe's name, and what a run folder or benchmark file says. Raises UsageError."""
    if source.is_dir():
        return read_run(source)
    try:
        return read_benchmark(json.loads(source.read_text()))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            f"{source}: neither a run folder nor a file of fasterrcnn benchmark --json; give one"
        ) from None


def read_run(folder: Path) -> tuple[str, Measured]:
    """AP or AR1000 of the latest evaluation, and the largest memory of training."""
    state = checkpoint.load_state(checkpoint.find(folder))
    found = Measured()
    results = read_json(folder / "results.json")
    metric = "AR_1000" if state.recipe.detector == "rpn" else "AP"
    if results.get(metric) is not None:
        found.quality = f"{100 * results[metric]:.1f}"
    if rows := [*read_rows(folder / METRICS)]:
        found.memory = f"{max(row.get('peak_memory_gb', 0) for row in rows):.1f}"
    where = _hardware(state.environment, state.recipe)
    if changes := _changes(state.recipe):
        where += f"; changed: {', '.join(changes)}"
    found.where = [f"{metric}: {where}"]
    return state.recipe.name, found


def read_benchmark(results: dict[str, Any]) -> tuple[str, Measured]:
    """Images per second at batch 1, and the memory of a training step."""
    one = results["inference"]["by_batch_size"].get("1")
    where = f"{_device(results)}, {results['amp']}, {results['images_per_gpu']} images in training"
    name = results["recipe"]
    return recipes.RENAMED_RECIPES.get(name, name), Measured(
        memory=f"{results['peak_memory_gb']:.1f}",
        fps=f"{one['images_per_s']:.1f}" if one else "",
        where=[f"fps: {where}"],
    )


def merge(into: Measured, found: Measured) -> None:
    """What `found` knows replaces what was known; a benchmark's memory goes before a run's."""
    into.fps = found.fps or into.fps
    into.quality = found.quality or into.quality
    into.memory = found.memory if found.fps or not into.fps else into.memory
    into.where += found.where


@dataclass
class Table:
    """The recipes of one kind, a row each: cells by column."""

    title: str
    head: list[str]
    rows: list[dict[str, str]]

    @property
    def numbers(self) -> set[str]:
        """The columns of numbers."""
        return {*self.head} - _WORDS


def table(
    kind: str, chosen: list[str], measured: dict[str, Measured], *, counted: bool = False
) -> Table:
    """The recipes of this kind among those `chosen`; `counted`: with the memory of a step."""
    metric = "AR1000" if kind == "rpn" else "box AP"
    head = [title.format(metric=metric) for title in _HEAD]
    rows = []
    for name in chosen:
        entry = recipes.RECIPES[name]
        recipe = entry.make()
        if recipe.detector == kind:
            cells = row(recipe, entry, measured.get(name, Measured()), counted)
            rows.append(dict(zip(head, cells, strict=True)))
    return Table(_TITLES[kind], head, rows)


def as_markdown(tables: list[Table]) -> str:
    """The tables one below the other, and the notes."""
    parts = []
    for one in tables:
        lines = [one.head, ["---"] * len(one.head)]
        lines += [[f"`{cells['recipe']}`", *[*cells.values()][1:]] for cells in one.rows]
        body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        parts.append(f"### {one.title}\n\n{body}")
    return "\n\n".join([*parts, notes()])


def row(recipe: Recipe, entry: recipes.Entry, found: Measured, counted: bool) -> list[str]:
    """One line of a table."""
    published = entry.published or recipes.Published(None, "")
    return [
        recipe.name,
        recipe.backbone.name + _NECKS[recipe.backbone.neck, recipe.backbone.dilation],
        entry.style,
        entry.schedule,
        *sizes(recipe, counted),
        found.memory,
        found.fps,
        found.quality,
        "; ".join(found.where) or "not yet measured",
        *("" if v is None else f"{v:g}"
          for v in (published.memory_gb, published.fps, published.value)),
        published.by,
    ]  # fmt: skip


_NECKS = {("fpn", 1): "-FPN", ("none", 1): "-C4", ("none", 2): "-DC5"}


def sizes(recipe: Recipe, counted: bool) -> list[str]:
    """Millions of parameters, billions of multiply-adds and, if wanted, GiB of a training step;
    empty where the network is of an extra that is not installed."""
    try:
        parameters, operations, _ = coco_cost(recipe)
    except UsageError:
        return ["", "", ""]
    memory = _peak_memory(unnamed(recipe)) if counted else None
    counted_gib = "" if memory is None else f"{memory / 2**30:.1f}"
    return [f"{parameters / 1e6:.1f}", f"{operations / 1e9:.1f}", counted_gib]


_peak_memory = cache(counting.peak_memory)


def notes() -> str:
    """How the numbers were made."""
    return (
        "Mem counted: all tensors of a training step, on torch's tensors without values, with the "
        "recipe's images per GPU and precision at its largest shape; an allocator takes more. "
        "Mem: largest memory of one GPU's allocator in training (on a CPU: of the process). fps: "
        "images per second at batch 1, from decoded images to final boxes, NMS included, reading "
        "and decoding excluded. Multiply-adds: one forward pass of the largest landscape shape, "
        "80 classes. Published numbers are quoted from the sources that `fasterrcnn "
        "recipes NAME` names, on other hardware."
    )


def _hardware(environment: dict[str, Any], recipe: Recipe) -> str:
    return f"{_device(environment)}, {environment['ranks']} process, {recipe.amp}"


def _device(environment: dict[str, Any]) -> str:
    return environment["gpu"] or f"CPU ({environment['threads']} threads)"


def _changes(recipe: Recipe) -> list[str]:
    """What a user changed that the recipe's name does not say; precision stands beside it."""
    known = recipes.get(recipe.name)
    return [c for c in recipes.difference(known, recipe) if not c.startswith("amp:")]
