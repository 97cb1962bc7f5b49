"""Run a detector over a split: detections, validation losses, metrics.

Life of a batch, step 7. Rank r takes images r, r + W, ...: every image exactly once on any number
of ranks. Images of equal padded size share a batch, so each keeps its own padding (bucket padding
would move some anchors).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fasterrcnn import checkpoint, seeds
from fasterrcnn.data import formats, loader
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.proposals import StoredProposals
from fasterrcnn.data.sampler import MicroBatch, resized
from fasterrcnn.errors import UsageError
from fasterrcnn.metrics import coco, proposals, voc
from fasterrcnn.models.build import Detector, split
from fasterrcnn.recipes import Input, Recipe
from fasterrcnn.run_folder import RunFolder
from fasterrcnn.runtime import Runtime


def detector_metrics(annotations: Annotations, detections: np.ndarray) -> dict[str, Any]:
    """Those of `metrics.coco`, on PASCAL VOC also its own: `metrics.voc`."""
    shared = coco.evaluate(annotations, detections)
    if not annotations.voc:
        return shared
    own = voc.evaluate(annotations, detections)
    per_class = {
        name: shared["per_class"][name] | own["per_class"][name] for name in own["per_class"]
    }
    return {**shared, **own, "per_class": per_class}


METRICS = {
    "faster_rcnn": detector_metrics,
    "fast_rcnn": detector_metrics,
    "rpn": proposals.evaluate,
}


def evaluate(
    model: Detector,
    annotations: Annotations,
    recipe: Recipe,
    runtime: Runtime,
    *,
    images_per_gpu: int,
    workers: int,
    stored: StoredProposals | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """The metrics with the mean validation losses, and the detections.

    Metrics are those of `detector_metrics`, of an RPN alone those of `metrics.proposals`.
    Detections are float64 ``(D, 7)`` as `metrics.coco.evaluate` takes them. Every rank gets both.
    `stored` are the proposals that Fast R-CNN takes. `model` is left in the mode it came in.
    Raises Stopped as soon as this rank is signalled.
    """
    was_training = model.training
    model.eval()
    detections, losses = [], []
    for batch in loader.load(
        loader.Images(annotations, proposals=stored),
        micro_batches(annotations, recipe.input, images_per_gpu, runtime.rank, runtime.ranks),
        workers=workers,
        pin_memory=runtime.pin_memory,
    ):
        runtime.raise_if_signalled()
        torch.manual_seed(seeds.key(recipe.seed, "validation", batch.micro_batch.images[0]))
        batch = batch.to(runtime.device)
        with torch.no_grad(), runtime.autocast(recipe.amp):
            found, loss = detect_with_losses(model, batch.images(), batch.targets())
        detections += [_rows(i, d) for i, d in zip(batch.micro_batch.images, found, strict=True)]
        losses.append((len(found), loss))
    model.train(was_training)
    gathered = runtime.gather((detections, [(n, _floats(loss)) for n, loss in losses]))
    metric = METRICS[recipe.detector]
    return runtime.on_main(lambda: _results(annotations, gathered, metric))


@dataclass(frozen=True)
class Source:
    """A split: of which data, and how it is read."""

    root: Path
    dataset: str
    split: str


def find_source(
    state: checkpoint.State, data_path: Path | None, dataset: str | None, split: str | None
) -> Source:
    """What was asked for, else what the run had. Raises UsageError."""
    if data_path is None and not state.data["path"]:
        raise UsageError("--data-path: this run was imported and has no data; give a folder")
    root = (data_path or Path(state.data["path"])).absolute()
    if dataset is None:
        dataset = state.data["dataset"] if str(root) == state.data["path"] else "auto"
    if split is None:
        split = state.data["val_split"] if state.data["val_split"] != "none" else "val"
    return Source(root, dataset, split)


def read_split(
    source: Source, state: checkpoint.State, bad_data: str, *, images_only: bool = False
) -> Annotations:
    """The split with the run's classes; `images_only`: of a set of PASCAL VOC without its boxes.

    Says what was found in the data. Raises UsageError or DataError.
    """
    problems = Problems(skip=bad_data == "skip")
    if images_only:
        data = formats.read_voc_images(source.root, source.split, state.classes, problems)
    else:
        data = formats.read(source.root, source.split, source.dataset, state.classes, problems)
    for what, count in problems.counts().items():
        print(f"data: {count} x {what}")
    return data


def micro_batches(
    annotations: Annotations, recipe: Input, images_per_gpu: int, rank: int, ranks: int
) -> list[MicroBatch]:
    """This rank's images in batches of equal padded size."""
    groups = defaultdict(list)
    for i in range(rank, len(annotations), ranks):
        h, w = resized(*map(int, annotations.sizes[i]), recipe)
        groups[-(-h // recipe.size_divisible), -(-w // recipe.size_divisible)].append(i)
    return [
        MicroBatch(0, 0, 0, tuple(group[k : k + images_per_gpu]))
        for group in groups.values()
        for k in range(0, len(group), images_per_gpu)
    ]


def detect_with_losses(
    model: Detector, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Detections and training losses of a model in evaluation mode, from one pass of the backbone.

    Norms stay in evaluation mode. Detections are in pixels of the images as given.
    """
    padded = model.transform(images, targets)
    features = model.features(padded)
    detections = split(model.detect(padded, features))
    return detections, model.losses(padded, features)


def _rows(image: int, detection: dict[str, Tensor]) -> np.ndarray:
    """float64 ``(D, 7)`` rows as `metrics.coco.evaluate` takes them."""
    boxes = detection["boxes"].double().cpu()
    x1y1, x2y2 = boxes[:, :2], boxes[:, 2:]
    columns = [
        torch.full((len(boxes), 1), image, dtype=torch.float64),
        x1y1,
        x2y2 - x1y1,
        detection["scores"].double().cpu()[:, None],
        detection["labels"].double().cpu()[:, None],
    ]
    return torch.cat(columns, dim=1).numpy()


def _floats(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in losses.items()}


def _results(
    annotations: Annotations, gathered: list[tuple[list, list]], metric: Callable
) -> tuple[dict[str, Any], np.ndarray]:
    rows = [row for detections, _ in gathered for row in detections]
    assert len(rows) == len(annotations), "every image exactly once"
    losses = [item for _, batches in gathered for item in batches]
    validation = {
        name: sum(n * loss[name] for n, loss in losses) / len(annotations) for name in losses[0][1]
    }
    detections = np.concatenate(rows)
    results = {
        **metric(annotations, detections),
        "validation_loss": sum(validation.values()),
        **{f"validation_{name}": value for name, value in validation.items()},
    }
    return results, detections


def report(results: dict[str, Any], step: int, path: Path) -> None:
    """Print the metrics of checkpoint `path`; write results.json beside it and in its run."""
    results = {"step": step, **results}
    checkpoint.add_results(path, results)
    if path.parent.name == "checkpoints":
        RunFolder(path.parent.parent).write_json("results.json", results)
    print(table(results))


def table(results: dict[str, Any]) -> str:
    """The numbers in percent, in a few lines; of a detector also AP of each class with truth."""
    loss = f"validation loss {results['validation_loss']:.4f}"
    if "per_class" not in results:
        kinds = {name: v for name, v in results.items() if isinstance(v, dict)}
        width = max(map(len, kinds))
        return "\n".join([*(f"{name:{width}}  {_numbers(v)}" for name, v in kinds.items()), loss])
    own = [voc.NAMES] if voc.NAMES[0] in results else []
    groups = [coco.NAMES[:6], coco.NAMES[6:], *own]
    lines = [_numbers({name: results[name] for name in names}) for names in groups]
    lines.append(loss)
    known = {name: v for name, v in results["per_class"].items() if v["AP"] is not None}
    width = max(map(len, known), default=0)
    lines += [
        f"  {name:{width}}  " + "  ".join(f"{ap} {_percent(v):>5}" for ap, v in values.items())
        for name, values in known.items()
    ]
    if left_out := len(results["per_class"]) - len(known):
        lines.append(f"  (classes without a box in this split: {left_out})")
    return "\n".join(lines)


def _numbers(values: dict[str, float | None]) -> str:
    return "  ".join(f"{name} {_percent(value)}" for name, value in values.items())


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
