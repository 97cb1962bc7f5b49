"""Check a data set without training: what is in it, what is wrong with it, and a page to look at.

Reads it as `train` does, names everything that is found and changes nothing. Exit code 0: it can be
trained on; 3: something in it stops a training.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fasterrcnn import progress, recipes
from fasterrcnn.cli import exit_codes, flags, shared
from fasterrcnn.data import (
    channels,
    duplicates,
    formats,
    image_check,
    images,
    statistics,
    tile_advice,
    tiles,
    value_ranges,
)
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import runtime
from fasterrcnn.errors import DataError, Failure, UsageError
from fasterrcnn.image_sizes import training_sizes
from fasterrcnn.models.any_backbone import build_backbone
from fasterrcnn.pixel_format import DRAWN
from fasterrcnn.recipes import Recipe
from fasterrcnn.reports import data_page, data_pictures, data_report, pages
from fasterrcnn.reports.data_report import Report
from fasterrcnn.settings import setting

_VAL = "val"


@dataclass(frozen=True)
class Options:
    """The data set, and where the results go."""

    folder: tuple[Path, ...] = setting((), "folder of the data set", positional=True)
    data_path: Path | None = shared.data_path(shown=", instead of naming it without a flag")
    dataset: str = shared.dataset()
    val_split: str | None = setting(
        None, f"split to validate on; none: only --train-split (default: {_VAL} if there is one)"
    )
    page: Path | None = setting(
        None, "write the page to this file (default: output/<folder>-data/index.html)"
    )
    json: Path | None = setting(None, "write everything that was found to this file")
    images: int = setting(
        100, "images on the page, evenly spread; as many more of which something was found", least=0
    )
    display_bands: tuple[int, ...] = shared.display_bands()
    check_images: str | None = shared.check_images()
    max_image_pixels: int = shared.max_image_pixels()
    workers: int | None = setting(
        None,
        "threads that compare files, and make pictures unless these are augmented (default: number "
        "of cores, at most 8)",
        least=0,
    )


class _EveryProblem(Problems):
    """Faults are as in a training, but reading goes on to the end."""

    def stop_if_any(self) -> None:
        """Go on."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    recipe, options = flags.parse_with_recipe(Options, argv, __doc__)
    recipes.check(recipe)
    images.limit_pixels(options.max_image_pixels)
    root = find_root(options)
    page = options.page or shared.output_root() / f"{root.resolve().name}-data" / "index.html"
    check_outside(root, "--page", page)
    if options.json is not None:
        check_outside(root, "--json", options.json)
    shared.check_display_bands(options.display_bands)
    threads = max(1, runtime.start("cpu").loader_workers(options.workers))
    name = formats.recognize(root) if options.dataset == "auto" else options.dataset
    problems = _EveryProblem()
    splits, recipe, failures = read(root, recipe, options, problems)
    if not splits and not problems.found:
        raise failures[0]
    drawn = {name: channels.drawn(data, options.display_bands) for name, data in splits.items()}
    trained_on = splits.get(recipe.data.train_split)
    report = Report(
        data_path=str(root),
        format=name,
        recipe=recipe.name,
        splits=[statistics.describe(split, data) for split, data in splits.items()],
        problems=problems.found,
        failures=[str(failure) for failure in failures],
        odd={split: data_report.odd_boxes(data) for split, data in splits.items()},
        duplicates=duplicates.find(
            splits, threads, partial(progress.over, "comparing files", what="files")
        ),
        anchors=fit_anchors(in_tiles(splits, recipe), recipe),
        tiles=advise(splits, recipe),
        value_range=recipe.input.value_range,
        values=value_ranges.histogram(trained_on, recipe.input.pixel_format) if trained_on else [],
    )
    for line in data_report.lines(report):
        say(line)
    if options.display_bands:
        recipe = recipes.change(recipe, input=to_draw(options.display_bands))
    pages.write(draw(report, drawn, recipe, options.images, threads), page)
    say(f"page: {page}")
    if options.json is not None:
        options.json.write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")
        say(f"json: {options.json}")
    stop_if_faulty(report, type(failures[0]) if failures else DataError)


def find_root(options: Options) -> Path:
    """The one folder that was given. Raises UsageError."""
    given = [*options.folder, *([options.data_path] if options.data_path else [])]
    if len(given) != 1:
        raise UsageError(f"{len(given)} folders given; give one: fasterrcnn check-data DIR")
    return given[0]


def check_outside(root: Path, flag: str, path: Path) -> None:
    """Raise UsageError for a file in the data set's folder, where nothing is written."""
    if path.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"{flag}: {path}: lies in {root}, where nothing is written; give a path outside"
        )


def read(
    root: Path, recipe: Recipe, options: Options, problems: Problems
) -> tuple[dict[str, Annotations], Recipe, list[Failure]]:
    """The splits by name, as `train` reads them, the recipe with what the data decides of it, and
    why others cannot be read."""
    splits: dict[str, Annotations] = {}
    failures: list[Failure] = []
    classes: Classes | None = None
    known: Collection[str] = ()
    for name in dict.fromkeys((recipe.data.train_split, options.val_split or _VAL)):
        try:
            if name != "none":
                data = formats.read(
                    root, name, options.dataset, classes or (), problems, known=known
                )
                if classes is None:
                    known = data.classes.names
                    classes = data.classes.subset(recipe.data.classes or known)
                data = data.with_classes(classes)
                splits[name] = image_check.check(data, problems, options.check_images)
        except Failure as failure:
            if isinstance(failure, UsageError) and name == _VAL and options.val_split is None:
                say(f"no split {_VAL}: {failure}")
            else:
                failures.append(failure)
    return *as_trained(splits, recipe, failures), failures


def as_trained(
    splits: dict[str, Annotations], recipe: Recipe, failures: list[Failure]
) -> tuple[dict[str, Annotations], Recipe]:
    """The splits with the pixels that `train` gives them, and the recipe with what it makes of its
    input; where that fails, their first bands as pictures show them."""
    try:
        if splits:
            found, lines = channels.resolve([*splits.values()], recipe.input)
            recipe = recipes.change(recipe, input=found)
            recipes.check(recipe)
            train = splits.get(recipe.data.train_split)
            if recipe.data.tile and train is not None:
                lines += tiles.to_train_on(train, recipe.data, recipe.seed)[1]
            for line in lines:
                say(line)
        read = {name: channels.of_run(data, recipe.input) for name, data in splits.items()}
        return read, recipe
    except Failure as failure:
        failures.append(failure)
        bands = [data.bands[:, 0] for data in splits.values() if data.bands is not None]
        shown = (1, 2, 3) if bands and np.concatenate(bands).min(initial=3) >= 3 else (1,)
        plain = recipes.change(recipe, input=to_draw(shown), augment=recipes.Augment())
        format = DRAWN.drawn(shown)
        return {n: replace(data, pixel_format=format) for n, data in splits.items()}, plain


def to_draw(shown: tuple[int, ...]) -> dict[str, Any]:
    """What an input is changed to, to draw these bands."""
    count = len(shown)
    return dict(
        channels=count,
        bands=shown,
        rgb_bands=(),
        channel_order="rgb",
        image_mean=(0.0,) * count,
        image_std=(1.0,) * count,
    )


def in_tiles(splits: dict[str, Annotations], recipe: Recipe) -> dict[str, Annotations]:
    """The splits as they are trained and evaluated on."""
    if not recipe.data.tile:
        return splits
    return {name: tiles.of_recipe(data, recipe.data) for name, data in splits.items()}


def advise(splits: dict[str, Annotations], recipe: Recipe) -> tile_advice.Advice | None:
    """Whether to train on tiles, by the boxes of the training split; None if the recipe does."""
    train = splits.get(recipe.data.train_split)
    if recipe.data.tile or train is None:
        return None
    return tile_advice.advise(train, training_sizes(recipe))


def fit_anchors(splits: dict[str, Annotations], recipe: Recipe) -> data_report.Anchors | None:
    """The recipe's and better anchors; None for a detector without any."""
    if recipe.detector == "fast_rcnn":
        return None
    with torch.device("meta"):  # only the levels are of interest
        backbone, _ = build_backbone(recipe.backbone)
    return data_report.fit_anchors(splits, recipe, backbone.strides)


def draw(
    report: Report, splits: dict[str, Annotations], recipe: Recipe, count: int, threads: int
) -> str:
    """The page. Images that cannot be decoded become failures of the report."""
    torch.manual_seed(recipe.seed)  # of the short side in multi-scale training
    found = data_pictures.marks(report, splits)
    chosen, with_findings = data_pictures.choose(found, splits, count)
    pictures, undecodable = data_pictures.make(
        chosen, found, splits, recipe, threads, partial(progress.over, "drawing")
    )
    report.failures.extend(undecodable)
    extremes = [
        (f"{title} of {split.name}", data_pictures.crops(boxes, split.name, splits[split.name]))
        for split in report.splits[:1]
        for title, boxes in (("Smallest boxes", split.smallest), ("Largest boxes", split.largest))
    ]
    return data_page.render(
        report, pictures, extremes, with_findings=with_findings, found=len(found)
    )


def stop_if_faulty(report: Report, kind: type[Failure]) -> None:
    """Raise a failure of this kind that says what stops a training, if anything does."""
    reasons = [*report.failures]
    if report.faults:
        reasons.append(
            f"{report.data_path}: {len(report.faults)} boxes or images cannot be used; correct "
            "them, or leave them out of training with --bad-data skip"
        )
    if reasons:
        raise kind("\n".join(reasons))


def say(line: str) -> None:
    """Print a line; bytes of file names that are no text become question marks."""
    print(exit_codes.printable(line.encode("utf-8", "replace").decode()), flush=True)
