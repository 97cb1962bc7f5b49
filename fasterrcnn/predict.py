"""Detect objects in images: ``python -m fasterrcnn.predict --checkpoint RUN IMAGE...``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fasterrcnn import checkpoint, cli, drawing, runtime
from fasterrcnn.data import images
from fasterrcnn.errors import UsageError
from fasterrcnn.recipes import setting


@dataclass(frozen=True)
class Options:
    """What is detected in what; model and classes come from the checkpoint."""

    checkpoint: Path = setting(help="run folder, or one of its checkpoints/step-*")
    images: tuple[Path, ...] = setting(help="image files, or folders of them", positional=True)
    score_threshold: float = setting(0.05, "detections below this score are left out")
    json: Path | None = setting(None, "write the detections to this file (COCO's format)")
    output_dir: Path | None = setting(None, "folder of pictures (default: <run>/predictions)")
    amp: str | None = setting(
        None, "precision (default: the run's)", choices=("auto", "fp16", "bf16", "off")
    )
    device: str = setting("auto", "where to compute", choices=("auto", "cuda", "cpu"))


def main(argv: list[str] | None = None) -> None:
    """The command."""
    options = cli.parse_options(Options, argv, "Detect objects in images.")
    rt = runtime.start(options.device)
    files = images.find(options.images)
    model, state, path = checkpoint.load_detector(options.checkpoint)
    if state.recipe.detector == "rpn":
        raise UsageError(
            f"--checkpoint: {options.checkpoint}: proposes, but detects no classes; use "
            "start_scripts/propose_torch.sh"
        )
    if state.recipe.detector == "fast_rcnn":
        raise UsageError(
            f"--checkpoint: {options.checkpoint}: detects in stored proposals only; evaluate it "
            "with --proposals, or put it together with an RPN by python -m fasterrcnn.assemble"
        )
    model = rt.place(model)
    model.roi_heads.score_thresh = options.score_threshold
    amp = rt.resolve_amp(options.amp or state.recipe.amp)
    folder = options.output_dir or path.parent.parent / "predictions"
    folder.mkdir(parents=True, exist_ok=True)

    rows: list[dict[str, Any]] = []
    for file, name, image in images.decoded(files):
        with torch.no_grad(), rt.autocast(amp):
            (found,) = model([image.to(rt.device)])
        found = {key: value.cpu() for key, value in found.items()}
        rows += coco_rows(name, found, state.classes.category_ids, state.classes.names)
        large, boxes = drawing.enlarge(image, found["boxes"], 480)
        picture = drawing.draw(large, boxes, found["labels"], state.classes.names, found["scores"])
        target = folder / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target)
        print(f"{file}: {len(found['scores'])} detections -> {target}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"{len(rows)} detections in {options.json}")


def coco_rows(
    name: str, found: dict[str, Tensor], category_ids: tuple[int, ...], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Detections of one image in COCO's result format, pixels of the displayed image."""
    return [
        {
            "file_name": name,
            "category_id": category_ids[label - 1],
            "category_name": names[label - 1],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), label, score in zip(
            found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True
        )
    ]


if __name__ == "__main__":
    cli.run(main)
