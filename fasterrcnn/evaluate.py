"""Evaluate a trained detector: ``python -m fasterrcnn.evaluate --checkpoint RUN``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fasterrcnn import checkpoint, cli, drawing, evaluation, recipes, runtime
from fasterrcnn.data import formats, images, proposals, voc
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.errors import UsageError
from fasterrcnn.metrics import voc as metrics
from fasterrcnn.recipes import setting


@dataclass(frozen=True)
class Options:
    """What is evaluated on what; model and classes come from the checkpoint."""

    checkpoint: Path = setting(help="run folder, or one of its checkpoints/step-*")
    data_path: Path | None = setting(None, "folder of the data set (default: the run's)")
    dataset: str | None = setting(
        None,
        "its format (default: the run's; of another folder: auto)",
        choices=("auto", *formats.READERS),
    )
    split: str | None = setting(
        None, "split to evaluate on, of PASCAL VOC 2007_test or another (default: the run's)"
    )
    bad_data: str = setting("stop", "bad boxes and images", choices=("stop", "skip"))
    proposals: Path | None = setting(None, "stored proposals of the split, for Fast R-CNN")
    top_n: int | None = setting(
        None, "best of the stored proposals used (default: the recipe's rpn.post-nms-top-n-test)"
    )
    images_per_gpu: int = setting(2, "images of equal padded size evaluated together")
    amp: str | None = setting(
        None, "precision (default: the run's)", choices=("auto", "fp16", "bf16", "off")
    )
    workers: int | None = setting(None, "loader processes per GPU (default: cores, at most 8)")
    device: str = setting("auto", "where to compute", choices=("auto", "cuda", "cpu"))
    json: Path | None = setting(
        None, "write the metrics to this file too, on PASCAL VOC with precision-recall curves"
    )
    voc_submission: Path | None = setting(
        None, "write PASCAL VOC's result files to this folder; 2012_test is for this alone"
    )
    draw: int = setting(0, "pictures of ground truth beside detections, in <run>/pictures")
    score_threshold: float = setting(0.5, "lowest score drawn")


def main(argv: list[str] | None = None) -> None:
    """The command."""
    description = "Evaluate a trained detector with COCO's metrics, on PASCAL VOC with its own too."
    options = cli.parse_options(Options, argv, description)
    rt = runtime.start(options.device)
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
    if recipe.detector == "fast_rcnn":
        model.use_best(options.top_n)
    rt.say(rt.describe())
    source = evaluation.find_source(state, options.data_path, options.dataset, options.split)
    boxes_hidden = options.voc_submission is not None and check_submission(source, state)
    data = rt.on_main(
        lambda: evaluation.read_split(source, state, options.bad_data, images_only=boxes_hidden)
    )
    rt.say(f"checkpoint {path} (step {state.step}), {len(data)} images, amp {amp}")
    results, detections = evaluation.evaluate(
        rt.place(model),
        data,
        recipe,
        rt,
        images_per_gpu=options.images_per_gpu,
        workers=rt.default_workers() if options.workers is None else options.workers,
        stored=options.proposals and proposals.read(options.proposals),
    )
    if not rt.is_main:
        return
    if options.voc_submission is not None:
        ((_, name),) = voc.sets(source.root, source.split)
        files = voc.write_results(options.voc_submission, name, data, detections)
        rt.say(f"{len(files)} result files: {files[0]}, ...")
    if len(data.labels):
        evaluation.report(results, state.step, path)
        if options.json is not None:
            curves = {"precision_recall": precision_recall(data, detections)} if data.voc else {}
            options.json.write_text(json.dumps({**results, **curves}, indent=1) + "\n")
    else:
        rt.say(f"nothing measured: {source.split} has no boxes here")
    run = path.parent.parent
    for picture in range(min(options.draw, len(data))):
        names = data.classes.names if recipe.detector != "rpn" else ("",)
        draw(data, picture, detections, names, options.score_threshold, run / "pictures")
    if options.draw:
        rt.say(f"pictures: {run / 'pictures'}")


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
    i: int,
    detections: np.ndarray,
    names: Sequence[str],
    threshold: float,
    folder: Path,
) -> None:
    """Image `i` with its boxes beside the same with what was detected, called by `names`."""
    folder.mkdir(parents=True, exist_ok=True)
    image = images.decode(data.path(i), apply_orientation=bool(data.rotate[i]))
    truth, labels = map(torch.from_numpy, data.training_boxes(i))
    rows = detections[(detections[:, 0] == i) & (detections[:, 5] >= threshold)]
    found = torch.from_numpy(np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]], axis=1))
    large, boxes = drawing.enlarge(image, torch.cat([truth, found]), 480)
    left = drawing.draw(large, boxes[: len(truth)], labels, data.classes.names)
    right = drawing.draw(
        large,
        boxes[len(truth) :],
        torch.from_numpy(rows[:, 6]),
        names,
        torch.from_numpy(rows[:, 5]),
    )
    name = Path(data.files[i]).with_suffix(".png").name
    drawing.beside(left, right, ("ground truth", "detected")).save(folder / name)


if __name__ == "__main__":
    cli.run(main)
