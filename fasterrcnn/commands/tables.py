"""Write tables of Mem, fps and AP or AR1000: measured here beside published numbers.

A row per recipe. Measured numbers come from run folders (AP or AR1000, memory) and files of the
benchmark command (fps, memory), each with its hardware; nothing is estimated. The protocol is that
of the published tables: Mem is the peak memory of one GPU's allocator in training, fps is images
per second at batch 1 from decoded images to final boxes, NMS included, reading and decoding files
excluded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fasterrcnn import recipes
from fasterrcnn.cli import flags
from fasterrcnn.engine import checkpoint
from fasterrcnn.engine.run_folder import METRICS, read_json, read_rows
from fasterrcnn.errors import UsageError
from fasterrcnn.models.cost import coco_cost
from fasterrcnn.recipes import Recipe
from fasterrcnn.settings import setting

_TITLES = {
    "rpn": "Region proposal networks",
    "fast_rcnn": "Fast R-CNN on stored proposals",
    "faster_rcnn": "Faster R-CNN",
}
_HEAD = (
    "recipe", "backbone", "style", "lr schd", "parameters (M)", "G multiply-adds",
    "Mem (GB)", "Inf time (fps)", "{metric}", "measured on",
    "Mem published", "fps published", "{metric} published", "published by",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The measurements to include."""

    sources: tuple[Path, ...] = setting(
        (), "run folders and benchmark files (default: published numbers only)", positional=True
    )
    output: Path | None = setting(None, "write the tables to this file (default: the terminal)")


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
    text = "\n\n".join(table(kind, measured) for kind in _TITLES) + "\n\n" + notes()
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text + "\n")
        print(f"tables in {options.output}")


def read(source: Path) -> tuple[str, Measured]:
    """The recipe's name, and what a run folder or benchmark file says. Raises UsageError."""
    if source.is_dir():
        return read_run(source)
    try:
        return read_benchmark(json.loads(source.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
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


def table(kind: str, measured: dict[str, Measured]) -> str:
    """Markdown: a row per recipe of this kind."""
    metric = "AR1000" if kind == "rpn" else "box AP"
    head = [title.format(metric=metric) for title in _HEAD]
    rows = [head, ["---"] * len(head)]
    for name, entry in recipes.RECIPES.items():
        recipe = entry.make()
        if recipe.detector == kind:
            rows.append(row(recipe, entry, measured.get(name, Measured())))
    return f"### {_TITLES[kind]}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def row(recipe: Recipe, entry: recipes.Entry, found: Measured) -> list[str]:
    """One line of a table."""
    parameters, operations, _ = coco_cost(recipe)
    published = entry.published or recipes.Published(None, "")
    return [
        f"`{recipe.name}`",
        recipe.backbone.name + ("-FPN" if recipe.backbone.neck == "fpn" else "-C4"),
        entry.style,
        entry.schedule,
        f"{parameters / 1e6:.1f}",
        f"{operations / 1e9:.1f}",
        found.memory,
        found.fps,
        found.quality,
        "; ".join(found.where) or "not yet measured",
        *("" if v is None else f"{v:g}"
          for v in (published.memory_gb, published.fps, published.value)),
        published.by,
    ]  # fmt: skip


def notes() -> str:
    """How the numbers were made."""
    return (
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
