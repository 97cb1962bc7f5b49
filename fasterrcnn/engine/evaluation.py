"""Run a detector over a split: detections, validation losses, metrics.

Life of a batch, step 7. Rank r of W takes images r, r + W, ...: every image exactly once on any
number of ranks. Images of equal padded size share a batch, so that each keeps its own padding: the
padding of a bucket would move some anchors.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fasterrcnn import seeds
from fasterrcnn.data import channels, formats, holdout, image_check, loader, tiles, windows
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.proposals import StoredProposals
from fasterrcnn.data.sampler import MicroBatch
from fasterrcnn.engine import checkpoint
from fasterrcnn.engine.runtime import Runtime, seed
from fasterrcnn.errors import UsageError
from fasterrcnn.image_sizes import padded, resized
from fasterrcnn.metrics import coco, lvis, proposals, voc
from fasterrcnn.models import views
from fasterrcnn.models.build import Detector, FasterRCNN, split
from fasterrcnn.models.transfer import to_host
from fasterrcnn.models.views import Detections, Views
from fasterrcnn.progress import Progress
from fasterrcnn.recipes import Input, Recipe, RoIHeads


def detector_metrics(
    annotations: Annotations, detections: np.ndarray, max_dets: int = coco.MAX_DETS
) -> dict[str, Any]:
    """COCO's metrics, on PASCAL VOC its own as well, on a federated data set LVIS's alone."""
    if annotations.federated is not None:
        return lvis.evaluate(annotations, detections)
    shared = coco.evaluate(annotations, detections, max_dets)
    if not annotations.voc:
        return shared
    own = voc.evaluate(annotations, detections)
    per_class = {
        name: shared["per_class"][name] | own["per_class"][name] for name in own["per_class"]
    }
    return {**shared, **own, "per_class": per_class}


Metric = Callable[[Annotations, np.ndarray], dict[str, Any]]

METRICS: dict[str, Metric] = {
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
    metric: Metric | None = None,
    also: Views | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Metrics with the mean validation losses, and the detections, on every rank.

    Metrics are those of `METRICS`, unless another `metric` is given. Of a whole detector the recall
    of its RPN is measured too, on boxes of all classes: `proposals`, by name as
    `metrics.proposals.by_name` has them, at no more proposals than the recipe makes.
    Detections are float64 ``(D, 7)`` as `metrics.coco.evaluate` takes them. `stored`: the proposals
    that Fast R-CNN takes. `also`: what of an image is detected in besides its whole; or in place of
    it, and then losses and the recall of proposals are those of tiles. The mode of `model` is
    restored. Raises Stopped as soon as this rank is signaled.
    """
    was_training = model.training
    model.eval()
    counts = sorted({min(n, recipe.rpn.post_nms_top_n_test) for n in proposals.COUNTS})
    items = annotations
    if also is not None and also.side:
        items = tiles.cut(annotations, also.side, also.shared, recipe.data.tile_min_visible)
    found, losses, matched = dict[int, list[Detections]](), [], []
    planned = micro_batches(items, recipe.input, images_per_gpu, runtime.rank, runtime.ranks)
    loaded = loader.load(
        loader.Images(items, proposals=stored),
        planned,
        workers=workers,
        pin_memory=runtime.pin_memory,
    )
    own = sum(len(batch.images) for batch in planned)
    what = "images" if items.tiles is None else "tiles"
    shown = Progress(own, what, "evaluating", shown=runtime.is_main)
    for batch in loaded:
        runtime.raise_if_signaled()
        indices = batch.micro_batch.images
        keys = [seeds.key(recipe.seed, "validation", i) for i in indices]
        batch = batch.to(runtime.device)
        with runtime.inference(recipe.amp):
            plain, loss, proposed = detect_with_losses(model, batch.images(), batch.targets(), keys)
            for i, image, one in zip(indices, batch.images(), plain, strict=True):
                found[i] = _looked(model, items, i, image, one, also, recipe, images_per_gpu)
        losses += loss
        matched += [
            proposals.matched(items, i, _rows(i, d)[:, 1:5], counts)
            for i, d in zip(indices, proposed or (), strict=proposed is not None)
        ]
        shown.step(len(indices))
    shown.close()
    model.train(was_training)
    gathered = runtime.gather((found, _floats(losses), matched))
    measure = metric or METRICS[recipe.detector]
    return runtime.on_main(
        lambda: _results(annotations, items, gathered or [], measure, counts, recipe)
    )


def _looked(
    model: Detector,
    items: Annotations,
    i: int,
    image: Tensor,
    found: Detections,
    also: Views | None,
    recipe: Recipe,
    images_per_gpu: int,
) -> list[Detections]:
    """All that is detected in image i, `found` in it as it is; of a tile in px of its image, where
    the detections of all tiles are merged."""
    if also is None:
        return [found]
    height, width = image.shape[-2:]
    if items.tiles is None:
        size, crop = (height, width), views.crop_of(image)
        return [views.detect(model, size, crop, also, recipe.roi_heads, images_per_gpu, found)]
    (y, x), (h, w) = items.tiles.corners[i].tolist(), items.tiles.sizes[i].tolist()
    first, *others = also.of_parts([(x, y, x + width, y + height)])
    return [
        views.in_image(first, found, (h, w), also.shared),
        *views.look(
            model, (h, w), views.crop_of(image, (x, y)), others, also.shared, images_per_gpu
        ),
    ]


@dataclass(frozen=True)
class Source:
    """A split of a data set."""

    root: Path
    dataset: str
    split: str
    fraction: float = 0.0  # above 0: only the images that training holds out
    tile_cache: str | None = field(default=None, compare=False)  # for `windows.folder`

    @property
    def name(self) -> str:
        """The split, for people."""
        return f"{self.split}, {self.fraction:g} of it held out" if self.fraction else self.split


def find_source(
    state: checkpoint.State, data_path: Path | None, dataset: str | None, split: str | None
) -> Source:
    """The split asked for; what is None is that of the run. Raises UsageError."""
    if data_path is None and not state.data["path"]:
        raise UsageError("--data-path: this run was imported and has no data; give a folder")
    root = (data_path or Path(state.data["path"])).absolute()
    if dataset is None:
        dataset = state.data["dataset"] if str(root) == state.data["path"] else "auto"
    cache = state.data.get("tile_cache")
    if split is None and (fraction := state.data.get("val_fraction", 0.0)):
        return Source(root, dataset, state.recipe.data.train_split, fraction, cache)
    if split is None:
        split = state.data["val_split"] if state.data["val_split"] != "none" else "val"
    return Source(root, dataset, split, tile_cache=cache)


def read_split(
    source: Source,
    classes: Classes | Sequence[str],
    problems: Problems,
    check_images: str | None = None,
    *,
    config: Input | None,
    images_only: bool = False,
) -> Annotations:
    """The split with the classes of a run (empty: its own), its images checked.

    `check_images`: a level of `image_check.find_damaged`. `config`: the recipe's; None: only drawn.
    `images_only`: of PASCAL VOC without its boxes. Raises UsageError or DataError.
    """
    if images_only:
        assert isinstance(classes, Classes)
        found = formats.read_voc_images(source.root, source.split, classes, problems)
    else:
        found = formats.read(source.root, source.split, source.dataset, classes, problems)
    copies = windows.folder(source.tile_cache)
    found = replace(found, copies=None if copies is None else str(copies))
    if source.fraction:
        found = holdout.hold_out(found, source.fraction, source.root)[1]
    return channels.of_run(image_check.check(found, problems, check_images), config)


def of_classes(
    annotations: Annotations, detections: np.ndarray, names: Sequence[str]
) -> tuple[Annotations, np.ndarray]:
    """The boxes and detections of these classes alone. Raises UsageError for unknown names."""
    chosen = annotations.with_classes(annotations.classes.subset(names))
    label_of = {name: label for label, name in enumerate(chosen.classes.names, start=1)}
    table = np.array([0, *(label_of.get(name, 0) for name in annotations.classes.names)])
    labels = table[detections[:, 6].astype(np.int64)]
    return chosen, np.column_stack([detections[:, :6], labels])[labels > 0]


def max_dets(state: checkpoint.State) -> int:
    """The detections per image and class that count in the evaluations of a run."""
    most: int = state.data.get("max_dets", coco.MAX_DETS)
    return most


def metric_of_run(state: checkpoint.State) -> Metric:
    """The metrics of a run's own evaluations."""
    if state.recipe.detector == "rpn":
        return METRICS["rpn"]
    return partial(detector_metrics, max_dets=max_dets(state))


def notes(
    annotations: Annotations | None, recipe: Recipe, counted: int = coco.MAX_DETS
) -> list[str]:
    """Lines for the log: where detections are fewer than boxes, or than the metric counts."""
    if annotations is None or recipe.detector == "rpn":
        return []
    limit = recipe.roi_heads.detections_per_img
    most = int(np.diff(annotations.first).max(initial=0))  # boxes of an image
    if annotations.federated is None:
        if not recipe.data.tile or most <= counted:
            return []
        return [
            f"note: AP counts {counted} detections per image and class, and images have up to "
            f"{most} boxes; --max-dets counts more"
        ]
    if limit >= lvis.MAX_DETECTIONS:
        return []
    return [
        f"note: LVIS's metric counts {lvis.MAX_DETECTIONS} detections per image, this recipe gives "
        f"{limit}; to compare with published AP, train with --roi-heads.detections-per-img "
        f"{lvis.MAX_DETECTIONS}"
    ]


def micro_batches(
    annotations: Annotations, config: Input, images_per_gpu: int, rank: int, ranks: int
) -> list[MicroBatch]:
    """The images of this rank, in batches of equal padded size."""
    groups = defaultdict(list)
    for i in range(rank, len(annotations), ranks):
        height, width = map(int, annotations.sizes[i])
        groups[padded(resized(height, width, config), config)].append(i)
    return [
        MicroBatch(0, 0, 0, tuple(group[k : k + images_per_gpu]))
        for group in groups.values()
        for k in range(0, len(group), images_per_gpu)
    ]


def detect_with_losses(
    model: Detector, images: list[Tensor], targets: list[dict[str, Tensor]], keys: list[int]
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]], list[dict[str, Tensor]] | None]:
    """Detections and training losses of each image, and the proposals of a whole detector (None of
    others), from one pass of the backbone.

    The model is in evaluation mode, and so are its norms. `keys` seed what the losses of each image
    draw, so that they do not depend on the batch. Detections and proposals are on the CPU, in
    pixels of the images as given.
    """
    batch = model.transform(images, targets)
    features = model.features(batch)
    proposed = None
    if isinstance(model, FasterRCNN):
        found, made = model.detect_and_propose(batch, features)
        proposed = split(to_host(model.rpn.as_detections(batch, made)))
    else:
        found = model.detect(batch, features)
    detections = split(to_host(found))
    losses = []
    for i, (target, key) in enumerate(zip(targets, keys, strict=True)):
        seed(key)
        one = batch.image(i, len(target["labels"]))
        losses.append(model.losses(one, [level[i : i + 1] for level in features])[0])
    return detections, losses, proposed


def _rows(image: int, detection: dict[str, Tensor]) -> np.ndarray:
    """float64 ``(D, 7)`` rows as `metrics.coco.evaluate` takes them."""
    boxes = detection["boxes"].double()
    x1y1, x2y2 = boxes[:, :2], boxes[:, 2:]
    columns = [
        torch.full((len(boxes), 1), image, dtype=torch.float64),
        x1y1,
        x2y2 - x1y1,
        detection["scores"].double()[:, None],
        detection["labels"].double()[:, None],
    ]
    return torch.cat(columns, dim=1).numpy()


def _floats(losses: list[dict[str, Tensor]]) -> dict[str, list[float]]:
    """The losses of all images by name, read from the device at once."""
    names = losses[0] if losses else ()
    return {name: torch.stack([loss[name] for loss in losses]).tolist() for name in names}


def _results(
    annotations: Annotations,
    items: Annotations,
    gathered: list[tuple[dict[int, list[Detections]], dict, list]],
    metric: Metric,
    counts: list[int],
    recipe: Recipe,
) -> tuple[dict[str, Any], np.ndarray]:
    """Metrics and detections of the images, `items` being these or their tiles."""
    found = {i: parts for own, *_ in gathered for i, parts in own.items()}
    assert len(found) == len(items), "every image exactly once"
    losses = [own for _, own, _ in gathered]  # of ranks, of which the first has an image at least
    validation = {
        name: math.fsum(loss for own in losses for loss in own.get(name, ())) / len(items)
        for name in losses[0]
    }
    detections = np.concatenate(
        [_rows(i, one) for i, one in _merged(items, found, recipe.roi_heads).items()]
    )
    results = metric(annotations, detections)
    if validation:  # exported files compute no losses
        results["validation_loss"] = sum(validation.values())
        results |= {f"validation_{name}": value for name, value in validation.items()}
    if matched := [image for *_, images in gathered for image in images]:
        recall = proposals.recall_of(np.concatenate(matched, axis=1))
        results["proposals"] = proposals.by_name(recall, counts)
    return results, detections


def _merged(
    items: Annotations, found: dict[int, list[Detections]], heads: RoIHeads
) -> dict[int, Detections]:
    """The detections of each image, in the order of `found`; of tiles by image, in their order
    whatever the number of ranks."""
    if items.tiles is None:
        return {i: one for i, (one,) in found.items()}
    parts = defaultdict[int, list[Detections]](list)
    for i in sorted(found):
        parts[int(items.tiles.position[i])] += found[i]
    return {image: views.merge(own, heads, limited=False) for image, own in parts.items()}
