"""Evaluate a detector, or detections in a file, by the metrics of COCO, PASCAL VOC or LVIS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fasterrcnn import recipes
from fasterrcnn.cli import flags, inference, shared
from fasterrcnn.data import channels, coco_results, formats, images, proposals, voc
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import checkpoint, detectors, evaluation, results, runtime
from fasterrcnn.errors import UsageError
from fasterrcnn.metrics import coco
from fasterrcnn.metrics import voc as voc_metrics
from fasterrcnn.models.build import FastRCNN
from fasterrcnn.reports import comparison, drawing, picture_files, sheets, tables
from fasterrcnn.settings import setting

_ON_SHEET = 6  # images each, the best and the worst
_OF_DETECTOR = (  # flags that mean nothing with --from
    "score_threshold", "nms_threshold", "soft_nms", "detections_per_image", "min_size", "max_size",
    "proposals", "top_n", "amp", "voc_submission", "slice", "slice_overlap", "tta",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options(inference.Inference):
    """What to evaluate, and on which data. The checkpoint knows its network and classes."""

    checkpoint: Path | None = shared.detector(None)
    from_file: Path | None = setting(
        None, "measure detections in COCO's result json instead of a detector's", flag="--from"
    )
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
        None,
        "stored proposals used per image (default: the recipe's rpn.post-nms-top-n-test)",
        least=1,
    )
    images_per_gpu: int = shared.images_per_gpu()
    workers: int | None = shared.workers()
    device: str = shared.device()
    json: Path | None = setting(
        None, "write the metrics to this file too, on PASCAL VOC with precision-recall curves"
    )
    detections: Path | None = setting(None, "write the detections to this file: COCO's result json")
    voc_submission: Path | None = setting(
        None, "write PASCAL VOC's result files to this folder (all that can be done with 2012_test)"
    )
    draw: int = setting(
        0,
        "pictures of what was found, missed and false, with a sheet of the best and worst",
        least=0,
    )
    draw_threshold: float = setting(
        0.5, "minimum score of detections drawn and counted in pictures", least=0, most=1
    )
    display_bands: tuple[int, ...] = shared.display_bands()
    max_dets: int | None = shared.max_dets(None, f" (default: the run's, or {coco.MAX_DETS})")


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    check(options)
    shared.check_outputs({"--json": options.json, "--detections": options.detections})
    rt = runtime.start(options.device)
    images.limit_pixels(options.max_image_pixels)
    if options.checkpoint is None:
        measure_file(options, rt)
    else:
        evaluate(options.checkpoint, options, rt)
    rt.leave()


def check(options: Options) -> None:
    """Raise UsageError for flags that do not go together."""
    if (options.checkpoint is None) == (options.from_file is None):
        raise UsageError("give --checkpoint, or --from with a file of detections")
    for name in _OF_DETECTOR if options.from_file is not None else ():
        if getattr(options, name) not in (None, ()):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag}: is for a detector, not for detections; leave it out")
    shared.check_display_bands(options.display_bands)
    if options.display_bands and not options.draw:
        raise UsageError("--display-bands: is for pictures; give --draw N too")


def evaluate(checkpoint_or_run: Path, options: Options, rt: runtime.Runtime) -> None:
    """Metrics on the terminal, where flags say, and in the run folder (`engine.results`)."""
    model, state, path, folder, of_run = detectors.load(checkpoint_or_run)
    amp = rt.resolve_amp(options.amp or state.recipe.amp)
    recipe = recipes.change(state.recipe, amp=amp)
    proposals.check_given("--proposals", options.proposals, recipe.detector)
    recipe, changed = inference.apply(rt.place(model), recipe, state.classes, options)
    if isinstance(model, FastRCNN) and options.top_n is not None:
        model.use_top_n(options.top_n)
        changed.append(f"top-n: {options.top_n}")
    most = evaluation.max_dets(state)
    if options.max_dets not in (None, most):
        changed.append(f"max-dets: {options.max_dets}")
    rt.say(rt.describe())
    source = evaluation.find_source(state, options.data_path, options.dataset, options.split)
    boxes_hidden = options.voc_submission is not None and check_submission(source, state)
    data = read(source, state.classes, options, rt, recipe.input, images_only=boxes_hidden)
    channels.drawn(data, options.display_bands)  # raises now what it would raise in the end
    for line in evaluation.notes(data, recipe, options.max_dets or most):
        rt.say(line)
    views = options.views(recipe)
    where = f", in {views.describe()}" if views and views.side else ""
    rt.say(
        f"checkpoint {path} (step {state.step}), split {source.name}: {len(data)} images, amp {amp}"
        f"{where}"
    )
    for line in changed:
        rt.say(f"changed: {line}")
    metrics, detections = evaluation.evaluate(
        model,
        data,
        recipe,
        rt,
        images_per_gpu=options.images_per_gpu,
        workers=rt.loader_workers(options.workers),
        stored=None if options.proposals is None else proposals.read(options.proposals),
        metric=None if recipe.detector == "rpn" else metric_of(options, options.max_dets or most),
        also=views,
    )
    if not rt.is_main:
        return
    done = results.Evaluation(
        step=state.step,
        split=source.name,
        digest=data.digest(),
        images=len(data),
        data_path=str(source.root),
        dataset=source.dataset,
        changed=tuple(changed),
    )
    shown = chosen(data, detections, options)
    show(metrics, *shown, source, options)
    try:
        if len(data.labels) and of_run:
            results.save(done, metrics, detections, path, own=done.is_own(state))
        draw(*shown, options, folder / "pictures", by_class=recipe.detector != "rpn")
    except OSError as error:
        rt.say(f"note: {error.filename}: {error.strerror}: nothing is kept in the run folder")


def measure_file(options: Options, rt: runtime.Runtime) -> None:
    """The metrics of the detections in a file, on the terminal and where flags say."""
    assert options.from_file is not None
    if options.data_path is None:
        raise UsageError("--data-path: not given; --from needs the folder of the data set")
    root, dataset = options.data_path, options.dataset or "auto"
    source = evaluation.Source(root.absolute(), dataset, options.split or "val")
    data = read(source, (), options, rt, None)
    detections = coco_results.read(options.from_file, data)
    rt.say(
        f"{options.from_file}: {len(detections)} detections, split {source.name}: "
        f"{len(data)} images"
    )
    if not rt.is_main:
        return
    metrics = metric_of(options, options.max_dets or coco.MAX_DETS)(data, detections)
    data, detections = chosen(data, detections, options)
    show(metrics, data, detections, source, options)
    folder = options.from_file.with_name(f"{options.from_file.stem}-pictures")
    draw(data, detections, options, folder, by_class=True)


def read(
    source: evaluation.Source,
    classes: Classes | Sequence[str],
    options: Options,
    rt: runtime.Runtime,
    config: recipes.Input | None,
    *,
    images_only: bool = False,
) -> Annotations:
    """The split on every rank; what was found in it is told."""
    problems = Problems(skip=options.bad_data == "skip")
    data = rt.on_main(
        lambda: evaluation.read_split(
            source,
            classes,
            problems,
            options.check_images,
            config=config,
            images_only=images_only,
        ),
        slow=True,
    )
    for line in problems.summary():
        rt.say(line)
    if options.max_dets is not None and data.federated is not None:
        raise UsageError("--max-dets: LVIS's metric always counts 300; leave it out")
    return data if options.limit is None else data.take(np.arange(min(options.limit, len(data))))


def metric_of(options: Options, most: int) -> evaluation.Metric:
    """The metrics of a detector, of the classes that count, and of `most` detections."""

    def measure(data: Annotations, detections: np.ndarray) -> dict[str, Any]:
        return evaluation.detector_metrics(*chosen(data, detections, options), most)

    return measure


def chosen(
    data: Annotations, detections: np.ndarray, options: Options
) -> tuple[Annotations, np.ndarray]:
    """The boxes and detections of --classes."""
    if not options.classes:
        return data, detections
    return evaluation.of_classes(data, detections, options.classes)


def show(
    metrics: dict[str, Any],
    data: Annotations,
    detections: np.ndarray,
    source: evaluation.Source,
    options: Options,
) -> None:
    """Print the metrics, then write the files that were asked for."""
    print(tables.metrics(metrics) if len(data.labels) else
          f"nothing measured: {source.split} has no boxes here")  # fmt: skip
    if options.json is not None and len(data.labels):
        curves = {"precision_recall": precision_recall(data, detections)} if data.voc else {}
        options.json.write_text(json.dumps({**metrics, **curves}, indent=1) + "\n")
    if options.detections is not None:
        coco_results.write(options.detections, data, detections)
        print(f"{len(detections)} detections in {options.detections}")
    if options.voc_submission is not None:
        ((_, name),) = voc.sets(source.root, source.split)
        files = voc.write_results(options.voc_submission, name, data, detections)
        print(f"{len(files)} result files: {files[0]}, ...")


def precision_recall(data: Annotations, detections: np.ndarray) -> dict[str, dict[str, list]]:
    """PASCAL VOC's curve of each class: precision and recall after each detection."""
    curves = voc_metrics.precision_recall(data, detections).items()
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
    data: Annotations, detections: np.ndarray, options: Options, folder: Path, *, by_class: bool
) -> None:
    """Pictures of the first --draw images, and a sheet of the best and worst of all.

    They show what was found, missed and false; where the data has no boxes, what was detected.
    """
    if not options.draw:
        return
    data = channels.drawn(data, options.display_bands)
    files = [Path(file).name for file in data.files]
    sheet_name, *names = picture_files.picture_names(["best_and_worst.jpg", *files])
    compared = comparison.compare_all(data, detections, options.draw_threshold, by_class=by_class)

    def picture(i: int) -> Image.Image:
        image = images.decode_of(data, i)
        if len(data.labels):
            return drawing.draw_comparison(image, compared[i], data.classes.names)
        boxes, scores = torch.from_numpy(compared[i].boxes), torch.from_numpy(compared[i].scores)
        if not by_class:
            return drawing.draw_proposals(image, boxes, scores)
        labels = torch.from_numpy(compared[i].labels)
        return drawing.draw(image, boxes, labels, data.classes.names, scores)

    print(f"pictures: {folder}")
    for i in range(min(options.draw, len(data))):
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
