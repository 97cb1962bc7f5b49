"""Detect objects in images: annotated pictures and a json file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fasterrcnn.cli import flags, shared
from fasterrcnn.data import images
from fasterrcnn.data.annotations import Classes
from fasterrcnn.engine import checkpoint, runtime
from fasterrcnn.errors import UsageError
from fasterrcnn.models.build import FasterRCNN
from fasterrcnn.reports import drawing, picture_files
from fasterrcnn.settings import setting


@dataclass(frozen=True)
class Options:
    """The detector, the images, and where results go."""

    checkpoint: Path = shared.checkpoint()
    images: tuple[Path, ...] = setting(help="image files, or folders of them", positional=True)
    score_threshold: float = setting(0.05, "detections below this score are left out")
    draw_threshold: float = setting(0.5, "detections below this score are not drawn")
    json: Path | None = setting(None, "write the detections to this file (COCO's format)")
    output_dir: Path | None = setting(None, "folder of pictures (default: <run>/predictions)")
    max_image_pixels: int = shared.max_image_pixels()
    amp: str | None = shared.amp()
    device: str = shared.device()


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    rt = runtime.start(options.device)
    images.limit_pixels(options.max_image_pixels)
    files = images.find(options.images)
    names = picture_files.picture_names([name for _, name in files])
    model, state, path = load(options.checkpoint)
    folder = options.output_dir or checkpoint.run_of(path) / "predictions"
    images.check_not_replaced(files, folder, names)
    model.roi_heads.score_thresh = options.score_threshold
    rt.place(model)
    amp = rt.resolve_amp(options.amp or state.recipe.amp)

    rows: list[dict[str, Any]] = []
    for (file, name, image), picture_name in zip(images.decoded(files), names, strict=True):
        with torch.no_grad(), rt.precision(amp):
            (found,) = model([image.to(rt.device)])
        found = {key: value.cpu() for key, value in found.items()}
        rows += coco_rows(name, found, state.classes)
        picture_files.save(draw(image, found, state.classes, options), folder / picture_name)
        sure = int((found["scores"] >= options.draw_threshold).sum())
        print(
            f"{file}: {len(found['scores'])} detections, {sure} of them drawn (score "
            f"{options.draw_threshold:g} or more): {folder / picture_name}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"{len(rows)} detections in {options.json}")


def load(path: Path) -> tuple[FasterRCNN, checkpoint.State, Path]:
    """A whole detector, its state and its checkpoint. Raises UsageError for a part of one."""
    model, state, found = checkpoint.load_detector(path)
    if isinstance(model, FasterRCNN):
        return model, state, found
    if state.recipe.detector == "rpn":
        raise UsageError(
            f"--checkpoint: {path}: proposes, but detects no classes; use fasterrcnn propose"
        )
    raise UsageError(
        f"--checkpoint: {path}: detects in stored proposals only; evaluate it with --proposals, or "
        "combine it with an RPN: fasterrcnn assemble"
    )


def draw(
    image: Tensor, found: dict[str, Tensor], classes: Classes, options: Options
) -> Image.Image:
    """The image with its detections of at least --draw-threshold."""
    sure = found["scores"] >= options.draw_threshold
    boxes, labels, scores = (found[key][sure] for key in ("boxes", "labels", "scores"))
    return drawing.draw(image, boxes, labels, classes.names, scores)


def coco_rows(name: str, found: dict[str, Tensor], classes: Classes) -> list[dict[str, Any]]:
    """Detections of one image in COCO's result format, in px of the image as displayed."""
    return [
        {
            "file_name": name,
            "category_id": classes.category_ids[label - 1],
            "category_name": classes.names[label - 1],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), label, score in zip(
            found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True
        )
    ]
