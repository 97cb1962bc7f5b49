"""Evaluate a trained detector with COCO's metrics, on PASCAL VOC and LVIS with theirs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fasterrcnn import recipes
from fasterrcnn.cli import flags, shared
from fasterrcnn.data import formats, images, proposals, voc
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import checkpoint, evaluation, runtime
from fasterrcnn.errors import UsageError
from fasterrcnn.metrics import voc as metrics
from fasterrcnn.models.build import FastRCNN
from fasterrcnn.reports import comparison, drawing, picture_files, sheets, tables
from fasterrcnn.settings import setting

_ON_SHEET = 6  # images each, the best and the worst


@dataclass(frozen=True)
class Options:
    """What to evaluate, and on which data. The checkpoint knows its network and classes."""

    checkpoint: Path = shared.checkpoint()
    data_path: Path | None = shared.data_path()
    dataset: str | None = shared.dataset(None)
    split: str | None = setting(
        None,
        "split to evaluate on, of PASCAL VOC 2007_test or another (default: what the run was "
        "evaluated on: a split, or the images that it held out)",
    )
    bad_data: str = shared.bad_data()
    check_images: str | None = shared.check_images()
    max_image_pixels: int = shared.max_image_pixels()
    proposals: Path | None = setting(None, "stored proposals of the split, for Fast R-CNN")
    top_n: int | None = setting(
        None, "stored proposals used per image (default: the recipe's rpn.post-nms-top-n-test)"
    )
    images_per_gpu: int = shared.images_per_gpu()
    amp: str | None = shared.amp()
    workers: int | None = shared.workers()
    device: str = shared.device()
    json: Path | None = setting(
        None, "write the metrics to this file too, on PASCAL VOC with precision-recall curves"
    )
    voc_submission: Path | None = setting(
        None, "write PASCAL VOC's result files to this folder (all that can be done with 2012_test)"
    )
    draw: int = setting(
        0, "pictures of what was found, missed and false, with a sheet of the best and worst"
    )
    score_threshold: float = setting(
        0.5, "minimum score of detections drawn and counted in pictures"
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    rt = runtime.start(options.device)
    images.limit_pixels(options.max_image_pixels)
    try:
        evaluate(options, rt)
    finally:
        runtime.shut_down()


def evaluate(options: Options, rt: runtime.Runtime) -> None:
    """Metrics on the terminal, in results.json of run and checkpoint, and where --json says."""
    model, state, path = checkpoint.load_detector(options.checkpoint)
    amp = rt.resolve_amp(options.amp or state.recipe.amp)
    recipe = recipes.change(state.recipe, amp=amp)
    proposals.check_given("--proposals", options.proposals, recipe.detector)
    if isinstance(model, FastRCNN):
        model.use_top_n(options.top_n)
    rt.say(rt.describe())
    source = evaluation.find_source(state, options.data_path, options.dataset, options.split)
    boxes_hidden = options.voc_submission is not None and check_submission(source, state)
    problems = Problems(skip=options.bad_data == "skip")
    data = rt.on_main(
        lambda: evaluation.read_split(
            source, state.classes, problems, options.check_images, images_only=boxes_hidden
        ),
        slow=True,
    )
    for line in (*problems.summary(), *evaluation.notes(data, recipe)):
        rt.say(line)
    rt.say(f"checkpoint {path} (step {state.step}), {source}: {len(data)} images, amp {amp}")
    results, detections = evaluation.evaluate(
        rt.place(model),
        data,
        recipe,
        rt,
        images_per_gpu=options.images_per_gpu,
        workers=rt.loader_workers(options.workers),
        stored=None if options.proposals is None else proposals.read(options.proposals),
    )
    if not rt.is_main:
        return
    if options.voc_submission is not None:
        ((_, name),) = voc.sets(source.root, source.split)
        files = voc.write_results(options.voc_submission, name, data, detections)
        rt.say(f"{len(files)} result files: {files[0]}, ...")
    if len(data.labels):
        evaluation.save_results(results, state.step, path)
        rt.say(tables.metrics(results))
        if options.json is not None:
            curves = {"precision_recall": precision_recall(data, detections)} if data.voc else {}
            options.json.write_text(json.dumps({**results, **curves}, indent=1) + "\n")
    else:
        rt.say(f"nothing measured: {source.split} has no boxes here")
    if options.draw:
        folder = checkpoint.run_of(path) / "pictures"
        by_class = recipe.detector != "rpn"
        draw(data, detections, options.score_threshold, options.draw, folder, by_class=by_class)
        rt.say(f"pictures: {folder}")


def precision_recall(data: Annotations, detections: np.ndarray) -> dict[str, dict[str, list]]:
    """PASCAL VOC's curve of each class: precision and recall after each detection."""
    curves = metrics.precision_recall(data, detections).items()
    return {name: {"precision": p.tolist(), "recall": r.tolist()} for name, (p, r) in curves}


def check_submission(source: evaluation.Source, state: checkpoint.State) -> bool:
    """Are the boxes of this set not public? Raises UsageError where there are no result files."""
    if state.recipe.detector == "rpn":
        raise UsageError("--voc-submission: this run proposes, but detects no classes")
    if not formats.is_declared_voc(source.root, source.dataset):
        raise UsageError(
            f"--voc-submission: {source.root}: not said to be PASCAL VOC; say --dataset voc"
        )
    if len(voc.sets(source.root, source.split)) > 1:
        raise UsageError(
            f"--voc-submission: {source.split}: result files are of one set; give one with --split"
        )
    return not voc.has_boxes(source.root, source.split)


def draw(
    data: Annotations,
    detections: np.ndarray,
    threshold: float,
    count: int,
    folder: Path,
    *,
    by_class: bool,
) -> None:
    """Pictures of the first `count` images, and a sheet of the best and worst of all.

    They show what was found, missed and false; where the data has no boxes, what was detected.
    """
    files = [Path(file).name for file in data.files]
    sheet_name, *names = picture_files.picture_names(["best_and_worst.jpg", *files])
    compared = comparison.compare_all(data, detections, threshold, by_class=by_class)

    def picture(i: int) -> Image.Image:
        image = images.decode(data.path(i), apply_orientation=bool(data.rotate[i]))
        if len(data.labels):
            return drawing.draw_comparison(image, compared[i], data.classes.names)
        boxes, scores = torch.from_numpy(compared[i].boxes), torch.from_numpy(compared[i].scores)
        if not by_class:
            return drawing.draw_proposals(image, boxes, scores)
        labels = torch.from_numpy(compared[i].labels)
        return drawing.draw(image, boxes, labels, data.classes.names, scores)

    for i in range(min(count, len(data))):
        picture_files.save(picture(i), folder / names[i])
    best, worst = comparison.best_and_worst(compared, _ON_SHEET)
    if not len(data.labels) or not (best or worst):
        return
    measure = "F1" if by_class else "recall"
    sections = [
        (title, [(picture(i), f"{names[i]}   {measure} {compared[i].quality:.2f}") for i in some])
        for title, some in (("Best", best), ("Worst", worst))
    ]
    picture_files.save(sheets.sheet(sections), folder / sheet_name)
