"""Write the page of a run: how it was trained, what its detector does well and badly.

Runs no network: the page shows the detections of the evaluation that the run keeps.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fasterrcnn import progress, recipes
from fasterrcnn.cli import flags, shared
from fasterrcnn.data import channels, images
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import checkpoint, evaluation, results
from fasterrcnn.engine.run_folder import METRICS, read_rows
from fasterrcnn.errors import DataError, UsageError
from fasterrcnn.metrics import anchors, diagnosis
from fasterrcnn.models.any_backbone import build_backbone
from fasterrcnn.reports import comparison, pages, run_page, run_pictures
from fasterrcnn.reports.run_page import Evaluated, RunReport
from fasterrcnn.settings import setting


@dataclass(frozen=True)
class Options:
    """The run, the evaluation to show, and where the page goes."""

    run: tuple[Path, ...] = setting(
        help="run folder (what it evaluated last), RUN/best, or RUN/checkpoints/step-*",
        positional=True,
    )
    split: str | None = setting(
        None,
        "split whose evaluation is shown, the latest with changed settings if there is one "
        "(default: the run's own evaluation)",
    )
    data_path: Path | None = shared.data_path(shown=" (default: where it was evaluated)")
    dataset: str | None = shared.dataset(None)
    bad_data: str = shared.bad_data()
    max_image_pixels: int = shared.max_image_pixels()
    output_dir: Path | None = setting(None, "folder of the page (default: RUN/report)")
    display_bands: tuple[int, ...] = shared.display_bands()
    images: int = setting(24, "images shown whole, half of them the worst, half the best", least=0)


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    if len(options.run) != 1:
        raise UsageError(f"{len(options.run)} runs given; give one, or compare several")
    shared.check_display_bands(options.display_bands)
    images.limit_pixels(options.max_image_pixels)
    path = results.evaluated(options.run[0])
    state = checkpoint.load_state(path)
    run = checkpoint.run_of(path)
    folder = options.output_dir or run / "report"
    folder.mkdir(parents=True, exist_ok=True)
    report = collect(path, run, state, options)
    page = folder / "index.html"
    pages.write(run_page.render(report), page)
    for file in run_page.write_files(report, folder):
        print(f"written: {file}")
    print(f"page: {page}")


def collect(path: Path, run: Path, state: checkpoint.State, options: Options) -> RunReport:
    """Everything that the page shows. Raises DataError."""
    best = checkpoint.best(run / "checkpoints")
    evaluated = evaluation_of(path, state, options)
    digest = state.data.get("val_digest")
    if digest is None and evaluated is not None:  # imported: without a split of its own
        digest = evaluated.row["digest"]
    return RunReport(
        name=run.name,
        path=str(run),
        facts=facts(path, state),
        recipe=recipes.describe(state.recipe),
        command=command(state),
        environment=state.environment,
        warmup_steps=state.recipe.schedule.warmup_steps,
        steps=[*read_rows(run / METRICS)],
        evaluations=results.own(run, digest),
        best=None if best is None else checkpoint.load_state(best).step,
        anchor_recall=anchor_recall(state.recipe, evaluated.data) if evaluated else {},
        evaluated=evaluated,
        elsewhere=[] if evaluated else splits(run, state.step),
    )


def splits(run: Path, step: int) -> list[str]:
    """The splits that the checkpoint of this step was evaluated on."""
    return sorted({row["split"] for row in results.read(run) if row["step"] == step})


def evaluation_of(path: Path, state: checkpoint.State, options: Options) -> Evaluated | None:
    """The evaluation asked for; None if there is none. Raises DataError."""
    kept = results.find(path, state.step, options.split)
    if kept is None and options.split is not None:
        raise UsageError(
            f"--split: {options.split}: not evaluated; first: fasterrcnn evaluate --checkpoint "
            f"{options.run[0]} --split {options.split}"
        )
    if kept is None:
        return None
    row, detections = kept
    source = evaluation.find_source(
        state,
        options.data_path or Path(row["data_path"]),
        options.dataset or row["dataset"],
        options.split,
    )
    problems = Problems(skip=options.bad_data == "skip")
    data = evaluation.read_split(source, state.classes, problems, config=state.recipe.input)
    if row["images"] < len(data) and any(line.startswith("limit:") for line in row["changed"]):
        data = data.take(np.arange(row["images"]))
    if data.digest() != row["digest"]:
        raise DataError(
            f"{source.root}: split {source.name}: not the images and boxes that were evaluated; "
            "evaluate again, or give the folder with --data-path"
        )
    by_class = state.recipe.detector != "rpn"
    found = None
    if by_class and data.federated is None:
        found = diagnosis.diagnose(data, detections, row)
    threshold = found.threshold if found else 0.0
    compared = comparison.compare_all(data, detections, threshold, by_class=by_class)
    candidates = found.candidates if found else []
    shown = partial(progress.over, "drawing")
    drawn = channels.drawn(data, options.display_bands)
    pictures = run_pictures.make(drawn, compared, candidates, options.images, row["split"], shown)
    return Evaluated(row, data, detections, found, pictures)


def facts(path: Path, state: checkpoint.State) -> list[tuple[str, str]]:
    """What was run, as names and values."""
    recipe, schedule = state.recipe, state.recipe.schedule
    names = state.classes.names
    steps = f"{state.step} of {state.last_step}, {schedule.images_per_step} images each"
    return [
        ("recipe", recipe.name),
        ("changed", "; ".join(recipes.difference(recipes.get(recipe.name), recipe)) or "nothing"),
        ("data", state.data["path"] or "none: the detector was imported"),
        ("classes", f"{len(names)}: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"),
        ("steps", steps if state.last_step else "none"),
        ("checkpoint", str(path)),
    ]


def command(state: checkpoint.State) -> str:
    """What repeats the run; empty for an imported detector."""
    if not state.data["path"]:
        return ""
    many = state.environment["ranks"] > 1
    script = f"train_fasterrcnn_resnet50_amp_{'dist_' if many else ''}torch.sh"
    words = [*([f"NGPU={state.environment['ranks']}"] if many else []), "bash"]
    words += [f"start_scripts/{script}", "--recipe", state.recipe.name]
    words += recipes.as_flags(state.recipe, recipes.get(state.recipe.name))
    words += ["--data-path", state.data["path"], "--steps", str(state.last_step)]
    for name, default in (("dataset", "auto"), ("val_split", "val"), ("val_fraction", 0.0)):
        if state.data.get(name, default) != default:
            words += [f"--{name.replace('_', '-')}", str(state.data[name])]
    return shlex.join(words)


def anchor_recall(recipe: recipes.Recipe, data: Annotations) -> dict[float, float | None]:
    """The share of the split's boxes that an anchor overlaps, by IoU."""
    if recipe.detector == "fast_rcnn":
        return {}
    with torch.device("meta"):  # only the levels are of interest
        backbone, _ = build_backbone(recipe.backbone)
    gt = anchors.resized_boxes(data, recipe.input)
    found = anchors.measure(gt, recipe.rpn, backbone.strides)
    return dict(zip(anchors.IOUS, found.recall, strict=True))
