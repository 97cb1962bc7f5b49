"""Compare trained detectors, or detections in files, on one split: what differs by more than noise.

The first one, A, is what the others are compared to. Each difference has a 95 % interval from a
paired bootstrap over images (`metrics.resampling`).
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fasterrcnn.cli import flags, shared
from fasterrcnn.data import channels, coco_results, images
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import checkpoint, evaluation, results
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.metrics import resampling
from fasterrcnn.reports import compare_page, comparison, differences, drawing, pages
from fasterrcnn.reports.compare_page import Disagreement, Panel
from fasterrcnn.reports.comparison import Comparison
from fasterrcnn.reports.differences import Compared, Report
from fasterrcnn.settings import setting

_LETTERS = string.ascii_uppercase
_MIN_RESAMPLES = 100  # of fewer, the outermost 2.5 % are one or two
_PICTURE_BYTES = 60_000


@dataclass(frozen=True)
class Options:
    """What to compare, and where the results go."""

    detectors: tuple[Path, ...] = setting(
        help="run folders, RUN/best, checkpoints, or files of detections in COCO's result json",
        positional=True,
    )
    data_path: Path | None = shared.data_path(shown=" (default: that of the first run)")
    dataset: str | None = shared.dataset(None)
    split: str | None = setting(None, "split to compare on (default: the first run's)")
    bad_data: str = shared.bad_data()
    check_images: str | None = shared.check_images()
    max_image_pixels: int = shared.max_image_pixels()
    resamples: int = setting(
        1000, "draws of as many images, from which the intervals come", least=_MIN_RESAMPLES
    )
    page: Path | None = setting(
        None, "write the page to this file (default: output/compare/index.html)"
    )
    json: Path | None = setting(None, "write all numbers (0 to 1) to this file")
    images: int = setting(
        12, "images on the page about which A and another one disagree most", least=0
    )
    score_threshold: float = setting(
        0.5, "minimum score of the detections counted in pictures", least=0, most=1
    )
    display_bands: tuple[int, ...] = shared.display_bands()


@dataclass(frozen=True)
class Trained:
    """A checkpoint, by the argument that named it."""

    name: Path
    path: Path
    state: checkpoint.State


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    page = options.page or shared.output_root() / "compare" / "index.html"
    check(options, page)
    images.limit_pixels(options.max_image_pixels)
    runs = {name: load(name) for name in options.detectors if name.suffix != ".json"}
    source, classes = find_source([*runs.values()], options)
    problems = Problems(skip=options.bad_data == "skip")
    data = evaluation.read_split(source, classes, problems, options.check_images, config=None)
    for line in problems.summary():
        print(line)
    shown = to_draw(data, [*runs.values()], options)
    compared, detections = [], []
    for letter, name in zip(_LETTERS, options.detectors, strict=False):
        run = runs.get(name)
        found = coco_results.read(name, data) if run is None else kept(run, source, data)
        detail = f"{len(found)} detections" if run is None else f"step {run.state.step}"
        compared.append(Compared(letter, str(name), detail))
        detections.append(found)
    detectors = [resampling.Detector(data, found) for found in detections]
    report = Report(
        detectors=compared,
        data_path=source.root,
        split=source.name,
        images=len(data),
        resamples=options.resamples,
        differences=resampling.compare(detectors, options.resamples),
    )
    print("\n".join(differences.lines(report)))
    if options.json is not None:
        options.json.write_text(json.dumps(differences.as_json(report), indent=1) + "\n")
    disagreements = draw(shown, compared, detections, options)
    pages.write(compare_page.render(report, disagreements, options.score_threshold), page)
    print(f"page: {page}")


def check(options: Options, page: Path) -> None:
    """Make the page's folder. Raises UsageError for what cannot be asked for, StorageError or
    OSError where nothing can be written."""
    count = len(options.detectors)
    if not 2 <= count <= len(_LETTERS):
        raise UsageError(f"{count} given; give 2 to {len(_LETTERS)}: fasterrcnn compare A B")
    shared.check_display_bands(options.display_bands)
    page.parent.mkdir(parents=True, exist_ok=True)
    shared.check_outputs({"--json": options.json, "--page": page})


def load(name: Path) -> Trained:
    """The checkpoint of an argument. Raises UsageError or CheckpointError."""
    if not name.exists() and name.name != "best":
        raise UsageError(f"{name}: missing; give a run, a checkpoint or a .json of detections")
    path = checkpoint.find(name)
    state = checkpoint.load_state(path)
    if state.recipe.detector == "rpn":
        raise UsageError(
            f"{name}: proposes, but detects no classes; fasterrcnn compare-proposals compares "
            "stored proposals"
        )
    return Trained(name, path, state)


def find_source(
    runs: list[Trained], options: Options
) -> tuple[evaluation.Source, Classes | tuple[str, ...]]:
    """The split and its classes: where flags do not say, those of the first run that knows.

    Raises UsageError.
    """
    if runs:
        first = next((run for run in runs if run.state.data["path"]), runs[0]).state
        given = (options.data_path, options.dataset, options.split)
        return evaluation.find_source(first, *given), first.classes
    if options.data_path is None or options.split is None:
        raise UsageError(
            "--data-path, --split: not given; without a run, files of detections need both"
        )
    root = options.data_path.absolute()
    return evaluation.Source(root, options.dataset or "auto", options.split), ()


def to_draw(data: Annotations, runs: list[Trained], options: Options) -> Annotations:
    """The images as they are drawn: through the range of values of the first run. Raises UsageError
    if they lack --display-bands."""
    if runs:
        data = replace(data, pixel_format=runs[0].state.recipe.input.pixel_format)
    return channels.drawn(data, options.display_bands)


def kept(run: Trained, source: evaluation.Source, data: Annotations) -> np.ndarray:
    """What was detected when the run was evaluated on this data. Raises UsageError."""
    if run.state.classes.names != data.classes.names:
        raise UsageError(
            f"{run.name}: detects other classes than the data of this comparison has; compare "
            "detectors of the same classes"
        )
    file = results.detections_on(run.path, run.state.step, data.digest())
    if file is None:
        raise UsageError(
            f"{run.name}: has no detections in {source.name} of {source.root} at step "
            f"{run.state.step}; run fasterrcnn evaluate --checkpoint {run.name} first"
            f"{_other_data(run, source)}"
        )
    try:
        return results.load_detections(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}; evaluate the checkpoint again") from None


def _other_data(run: Trained, source: evaluation.Source) -> str:
    """What to add to the command line of evaluate for a split that is not the run's own."""
    if run.state.data["path"] and source == evaluation.find_source(run.state, None, None, None):
        return ""
    return f", with --data-path {source.root} --split {source.split}"


def draw(
    data: Annotations, compared: list[Compared], detections: list[np.ndarray], options: Options
) -> list[list[Disagreement]]:
    """Of each detector but the first: the images about which it and the first disagree most."""
    first, *others = (
        comparison.compare_all(data, found, options.score_threshold) for found in detections
    )
    return [
        [
            Disagreement(
                data.files[i],
                [truth(data, i), panel(data, i, "A", first), panel(data, i, one.letter, other)],
            )
            for i in comparison.most_different(first, other, options.images)
        ]
        for one, other in zip(compared[1:], others, strict=True)
    ]


def truth(data: Annotations, i: int) -> Panel:
    """Image i with what is to be found in it."""
    boxes, labels = map(torch.from_numpy, data.training_boxes(i))
    picture = drawing.draw(images.decode_of(data, i), boxes, labels, data.classes.names)
    return _panel("ground truth", picture, f"{len(boxes)} objects")


def panel(data: Annotations, i: int, title: str, found: list[Comparison]) -> Panel:
    """Image i with what a detector found, missed and falsely detected in it."""
    picture = drawing.draw_comparison(images.decode_of(data, i), found[i], data.classes.names)
    counts = zip(found[i].counts, ("found", "missed", "false"), strict=True)
    text = ", ".join(f"{count} {what}" for count, what in counts)
    return _panel(title, picture, f"F1 {found[i].quality:.2f}, {text}")


def _panel(title: str, picture: Image.Image, text: str) -> Panel:
    return Panel(title, pages.data_uri(picture, _PICTURE_BYTES), text)
