"""Propose regions in images, or store the proposals of a whole split.

By a region proposal network alone or that of a whole detector. Fast R-CNN trains on the proposals
that --proposals FILE stores.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasterrcnn import progress
from fasterrcnn.cli import flags, shared
from fasterrcnn.data import images, loader, proposals, sources
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.proposals import ImageProposals
from fasterrcnn.data.sources import Source
from fasterrcnn.engine import checkpoint, evaluation, runtime
from fasterrcnn.errors import UsageError
from fasterrcnn.export.detector import ExportedDetector
from fasterrcnn.models.build import FasterRCNN, ProposalNetwork, split
from fasterrcnn.recipes import Recipe
from fasterrcnn.reports import drawing, picture_files
from fasterrcnn.settings import setting

Proposer = FasterRCNN | ProposalNetwork


@dataclass(frozen=True)
class Options:
    """The proposal network, the images or the split, and where results go."""

    checkpoint: Path = shared.checkpoint()
    images: tuple[Path, ...] = setting((), "image files, or folders of them", positional=True)
    json: Path | None = setting(None, "write all proposals in these images to this file")
    draw: int = setting(50, "best proposals drawn on each picture; 0: no pictures", least=0)
    output_dir: Path | None = setting(None, "folder of pictures (default: <run>/proposals)")
    proposals: Path | None = setting(None, "store the proposals of a whole split in this file")
    training: bool = setting(
        False, "propose as many as in training (rpn.*-train), by default in the training split"
    )
    data_path: Path | None = shared.data_path()
    dataset: str | None = shared.dataset(None)
    split: str | None = setting(None, "split to propose in (default: the run's)")
    bad_data: str = shared.bad_data()
    check_images: str | None = shared.check_images()
    max_image_pixels: int = shared.max_image_pixels()
    images_per_gpu: int = shared.images_per_gpu()
    workers: int | None = shared.workers()
    amp: str | None = shared.amp()
    device: str = shared.device()


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    check(options)
    rt = runtime.start(options.device)
    images.limit_pixels(options.max_image_pixels)
    files = find(options.images) if options.images else []
    model, state, path = checkpoint.load_detector(options.checkpoint)
    if isinstance(model, ExportedDetector):
        raise UsageError(f"--checkpoint: {path}: is an exported file; give the run it is of")
    if not isinstance(model, (FasterRCNN, ProposalNetwork)):
        raise UsageError(f"--checkpoint: {path}: Fast R-CNN proposes nothing; give an RPN's run")
    amp = rt.resolve_amp(options.amp or state.recipe.amp)
    rt.place(model)
    if options.proposals is not None:
        store(options, options.proposals, model, state, path, rt, amp)
    else:
        folder = options.output_dir or checkpoint.run_of(path) / "proposals"
        show(options, model, files, folder, rt, amp)


def check(options: Options) -> None:
    """Raise UsageError for flags that do not go together."""
    if bool(options.images) == (options.proposals is not None):
        raise UsageError("propose: give images, or --proposals FILE for a whole split; one of them")
    images_only, split_only = ("json", "output_dir"), ("training", "data_path", "dataset", "split")
    for name in images_only if options.proposals else split_only:
        if getattr(options, name):
            what = "images" if options.proposals else "a whole split (--proposals)"
            raise UsageError(f"--{name.replace('_', '-')}: only for {what}")


def find(paths: tuple[Path, ...]) -> list[Source]:
    """The images at `paths`. Raises UsageError if there is something else too."""
    found = sources.find(map(str, paths))
    if found.problems:
        raise UsageError(found.problems[0])
    files = list(found.sources.values())
    if videos := [source.path for source in files if source.is_video]:
        raise UsageError(f"{videos[0]}: propose takes images only")
    return files


def show(
    options: Options,
    model: Proposer,
    files: list[Source],
    folder: Path,
    rt: runtime.Runtime,
    amp: str,
) -> None:
    """Pictures in `folder` and a json file, in px of the images."""
    rows: list[dict[str, Any]] = []
    names = picture_files.picture_names([source.name for source in files])
    if options.draw > 0:
        sources.check_not_replaced(files, folder, names)
    pixel_format = model.transform.config.pixel_format
    for (source, image), picture_name in zip(
        sources.decoded(files, pixel_format), names, strict=True
    ):
        with rt.inference(amp):
            padded = model.transform([image.to(rt.device)])
            (found,) = split(model.rpn.detect(padded, model.features(padded)))
        boxes, scores = found["boxes"].cpu(), found["scores"].cpu()
        rows += [
            {"file_name": source.name, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for (x1, y1, x2, y2), score in zip(boxes.tolist(), scores.tolist(), strict=True)
        ]
        print(f"{source.path}: {len(scores)} proposals")
        if options.draw > 0:
            best = slice(options.draw)
            picture = drawing.draw_proposals(image, boxes[best], scores[best])
            picture_files.save(picture, folder / picture_name)
    if options.draw > 0:
        print(f"pictures: {folder}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows) + "\n")
        print(f"{len(rows)} proposals in {options.json}")


def store(
    options: Options,
    target: Path,
    model: Proposer,
    state: checkpoint.State,
    path: Path,
    rt: runtime.Runtime,
    amp: str,
) -> None:
    """Write the proposals of a split to `target`, in px of the network's input, unless they are
    there already."""
    split_name = options.split or (state.recipe.data.train_split if options.training else None)
    place = evaluation.find_source(state, options.data_path, options.dataset, split_name)
    problems = Problems(skip=options.bad_data == "skip")
    data = evaluation.read_split(
        place,
        state.classes,
        problems,
        options.check_images,
        config=state.recipe.input,
    )
    for line in problems.summary():
        print(line)
    source = {
        "weights": checkpoint.digest(path),
        "images": data.digest(),
        "training": options.training,
        "amp": amp,
    }
    if proposals.is_there(target, source):
        print(f"{target}: there already, of this checkpoint and these images")
        return
    found, seconds = propose_all(options, model, state.recipe, data, rt, amp)
    about = {"source": source, "made_by": str(path), "seconds_per_image": seconds}
    proposals.write(target, data.ids, found, about)
    count = sum(len(image.scores) for image in found)
    print(f"{count} proposals in {len(data)} images, {seconds:.3f} s an image: {target}")


def propose_all(
    options: Options,
    model: Proposer,
    recipe: Recipe,
    data: Annotations,
    rt: runtime.Runtime,
    amp: str,
) -> tuple[list[ImageProposals], float]:
    """The proposals of every image in order, and the seconds per image on the device."""
    found: dict[int, ImageProposals] = {}
    seconds = 0.0
    planned = evaluation.micro_batches(data, recipe.input, options.images_per_gpu, 0, 1)
    loaded = loader.load(
        loader.Images(data),
        planned,
        workers=rt.loader_workers(options.workers),
        pin_memory=rt.pin_memory,
    )
    for batch in progress.over("proposing", loaded, len(planned), "batches"):
        started = time.monotonic()
        with rt.inference(amp):
            padded = model.transform(batch.to(rt.device).images())
            made = model.rpn.proposals(padded, model.features(padded), training=options.training)
        assert made.scores is not None
        for k, image in enumerate(batch.micro_batch.images):
            valid = made.valid[k]
            height, width = padded.sizes[k].tolist()
            found[image] = ImageProposals(
                made.boxes[k][valid].cpu().numpy(),
                made.scores[k][valid].cpu().numpy(),
                (int(height), int(width)),
            )
        seconds += time.monotonic() - started
    return [found[i] for i in range(len(data))], seconds / len(data)
