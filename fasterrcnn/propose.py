"""Propose regions in images: ``python -m fasterrcnn.propose --checkpoint RUN IMAGE...``.

From a region proposal network alone, or from that of a whole detector. ``--proposals FILE`` stores
those of a whole split, for Fast R-CNN to train on.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fasterrcnn import checkpoint, cli, drawing, evaluation, runtime
from fasterrcnn.data import formats, images, loader, proposals
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.proposals import OfImage
from fasterrcnn.errors import UsageError
from fasterrcnn.models.build import Detector, split
from fasterrcnn.recipes import Recipe, setting


@dataclass(frozen=True)
class Options:
    """What is proposed in what; the model comes from the checkpoint."""

    checkpoint: Path = setting(help="run folder, or one of its checkpoints/step-*")
    images: tuple[Path, ...] = setting((), "image files, or folders of them", positional=True)
    json: Path | None = setting(None, "write all proposals in these images to this file")
    draw: int = setting(50, "best proposals drawn on each picture; 0: no pictures")
    output_dir: Path | None = setting(None, "folder of pictures (default: <run>/proposals)")
    proposals: Path | None = setting(None, "store the proposals of a whole split in this file")
    training: bool = setting(
        False, "as many as the recipe makes in training (rpn.*-train), by default of that split"
    )
    data_path: Path | None = setting(None, "folder of the data set (default: the run's)")
    dataset: str | None = setting(
        None,
        "its format (default: the run's; of another folder: auto)",
        choices=("auto", *formats.READERS),
    )
    split: str | None = setting(None, "the split (default: the run's)")
    bad_data: str = setting("stop", "bad boxes and images", choices=("stop", "skip"))
    images_per_gpu: int = setting(2, "images of equal padded size computed together")
    workers: int | None = setting(None, "loader processes (default: cores, at most 8)")
    amp: str | None = setting(
        None, "precision (default: the run's)", choices=("auto", "fp16", "bf16", "off")
    )
    device: str = setting("auto", "where to compute", choices=("auto", "cuda", "cpu"))


def main(argv: list[str] | None = None) -> None:
    """The command."""
    options = cli.parse_options(Options, argv, "Propose regions in images, or in a whole split.")
    if bool(options.images) == (options.proposals is not None):
        raise UsageError("propose: give images, or --proposals FILE for a whole split; one of them")
    images_only, split_only = ("json", "output_dir"), ("training", "data_path", "dataset", "split")
    for name in images_only if options.proposals else split_only:
        if getattr(options, name):
            what = "images" if options.proposals else "a whole split (--proposals)"
            raise UsageError(f"--{name.replace('_', '-')}: only for {what}")
    rt = runtime.start(options.device)
    files = images.find(options.images) if options.images else []
    model, state, path = checkpoint.load_detector(options.checkpoint)
    if not hasattr(model, "rpn"):
        raise UsageError(f"--checkpoint: {path}: Fast R-CNN proposes nothing; give an RPN's run")
    amp = rt.resolve_amp(options.amp or state.recipe.amp)
    model = rt.place(model)
    if options.proposals is not None:
        store(options, model, state, path, rt, amp)
    else:
        show(options, model, files, options.output_dir or path.parent.parent / "proposals", rt, amp)


def show(
    options: Options,
    model: Detector,
    files: list[tuple[Path, str]],
    folder: Path,
    rt: runtime.Runtime,
    amp: str,
) -> None:
    """Pictures in `folder` and a json file, in pixels of the images."""
    rows: list[dict[str, Any]] = []
    for file, name, image in images.decoded(files):
        with torch.no_grad(), rt.autocast(amp):
            padded = model.transform([image.to(rt.device)])
            (found,) = split(model.rpn.detect(padded, model.features(padded)))
        boxes, scores = found["boxes"].cpu(), found["scores"].cpu()
        rows += [
            {"file_name": name, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for (x1, y1, x2, y2), score in zip(boxes.tolist(), scores.tolist(), strict=True)
        ]
        print(f"{file}: {len(scores)} proposals")
        if options.draw > 0:
            best = slice(options.draw)
            large, shown = drawing.enlarge(image, boxes[best], 480)
            labels = torch.ones(len(shown), dtype=torch.int64)
            target = folder / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            drawing.draw(large, shown, labels, ("",), scores[best]).save(target)
    if options.draw > 0:
        print(f"pictures: {folder}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows) + "\n")
        print(f"{len(rows)} proposals in {options.json}")


def store(
    options: Options,
    model: Detector,
    state: checkpoint.State,
    path: Path,
    rt: runtime.Runtime,
    amp: str,
) -> None:
    """The proposals of a split in the network's pixels, unless the file is there already."""
    split_name = options.split or (state.recipe.data.train_split if options.training else None)
    place = evaluation.find_source(state, options.data_path, options.dataset, split_name)
    data = evaluation.read_split(place, state, options.bad_data)
    source = {
        "weights": checkpoint.digest(path),
        "images": data.digest(),
        "training": options.training,
        "amp": amp,
    }
    if proposals.is_there(options.proposals, source):
        print(f"{options.proposals}: there already, of this checkpoint and these images")
        return
    found, seconds = propose_all(options, model, state.recipe, data, rt, amp)
    about = {"source": source, "made_by": str(path), "seconds_per_image": seconds}
    proposals.write(options.proposals, data.ids, found, about)
    count = sum(len(image.scores) for image in found)
    print(f"{count} proposals in {len(data)} images, {seconds:.3f} s an image: {options.proposals}")


def propose_all(
    options: Options,
    model: Detector,
    recipe: Recipe,
    data: Annotations,
    rt: runtime.Runtime,
    amp: str,
) -> tuple[list[OfImage], float]:
    """Of every image in order, and the seconds an image took on the device."""
    found: dict[int, OfImage] = {}
    seconds = 0.0
    for batch in loader.load(
        loader.Images(data),
        evaluation.micro_batches(data, recipe.input, options.images_per_gpu, 0, 1),
        workers=rt.default_workers() if options.workers is None else options.workers,
        pin_memory=rt.pin_memory,
    ):
        started = time.monotonic()
        with torch.no_grad(), rt.autocast(amp):
            padded = model.transform(batch.to(rt.device).images())
            made = model.rpn.proposals(padded, model.features(padded), training=options.training)
        for k, image in enumerate(batch.micro_batch.images):
            real = made.real[k]
            size = tuple(int(side) for side in padded.sizes[k])
            found[image] = OfImage(
                made.boxes[k][real].cpu().numpy(), made.scores[k][real].cpu().numpy(), size
            )
        seconds += time.monotonic() - started
    return [found[i] for i in range(len(data))], seconds / len(data)


if __name__ == "__main__":
    cli.run(main)
