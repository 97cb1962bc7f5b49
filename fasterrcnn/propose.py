"""Propose regions in images: ``python -m fasterrcnn.propose --checkpoint RUN IMAGE...``.

From a region proposal network alone, or from that of a whole detector.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fasterrcnn import checkpoint, cli, drawing, runtime
from fasterrcnn.data import images
from fasterrcnn.models.build import split
from fasterrcnn.recipes import setting


@dataclass(frozen=True)
class Options:
    """What is proposed in what; the model comes from the checkpoint."""

    checkpoint: Path = setting(help="run folder, or one of its checkpoints/step-*")
    images: tuple[Path, ...] = setting(help="image files, or folders of them", positional=True)
    json: Path | None = setting(None, "write all proposals to this file")
    draw: int = setting(50, "best proposals drawn on each picture; 0: no pictures")
    output_dir: Path | None = setting(None, "folder of pictures (default: <run>/proposals)")
    amp: str | None = setting(
        None, "precision (default: the run's)", choices=("auto", "fp16", "bf16", "off")
    )
    device: str = setting("auto", "where to compute", choices=("auto", "cuda", "cpu"))


def main(argv: list[str] | None = None) -> None:
    """The command."""
    options = cli.parse_options(Options, argv, "Propose regions in images.")
    rt = runtime.start(options.device)
    files = images.find(options.images)
    model, state, path = checkpoint.load_detector(options.checkpoint)
    model = rt.place(model)
    amp = rt.resolve_amp(options.amp or state.recipe.amp)
    folder = options.output_dir or path.parent.parent / "proposals"

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


if __name__ == "__main__":
    cli.run(main)
