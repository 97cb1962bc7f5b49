"""Write a detector for another framework: ``python -m fasterrcnn.export --checkpoint RUN
--format FRAMEWORK -o FILE``.

Only where that framework computes the same with it: exit 2 names what it could not be told.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from fasterrcnn import checkpoint, cli
from fasterrcnn.errors import StorageError, UsageError
from fasterrcnn.importers import translate
from fasterrcnn.recipes import setting

_FRAMEWORKS = {"torchvision": "torchvision", "mmdet": "mmdetection", "detectron2": "detectron2"}


@dataclass(frozen=True)
class Options:
    """What is written, for whom, and where."""

    checkpoint: Path = setting(help="run folder, or one of its checkpoints/step-*")
    format: str = setting(help="whose names and order", choices=tuple(_FRAMEWORKS))
    output: Path = setting(help="file to write: .pth, for detectron2 also .pkl", flag="-o")


def main(argv: list[str] | None = None) -> None:
    """The command."""
    options = cli.parse_options(Options, argv, "Write a checkpoint of another framework.")
    suffixes = (".pth", ".pkl") if options.format == "detectron2" else (".pth",)
    if options.output.suffix not in suffixes:
        raise UsageError(f"--output: {options.output}: must end in {' or '.join(suffixes)}")
    model, state, path = checkpoint.load_detector(options.checkpoint)
    rpn = "bbox_head" if state.recipe.detector == "rpn" else "rpn_head"
    tensors = translate.dump(model, state.recipe, _FRAMEWORKS[options.format], rpn)
    try:
        if options.output.suffix == ".pkl":
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            with options.output.open("wb") as file:
                pickle.dump({"model": arrays, "__author__": "fasterrcnn"}, file)
        elif options.format == "mmdet":
            meta = {
                "CLASSES": list(state.classes.names),
                "cfg": translate.config_text(state.recipe),
            }
            torch.save({"meta": meta, "state_dict": tensors}, options.output)
        else:
            content = {"model": tensors} if options.format == "detectron2" else tensors
            torch.save(content, options.output)
    except OSError as error:
        raise StorageError(f"{options.output}: {error.strerror}; give another --output") from None
    print(f"{path}: {len(tensors)} tensors in {options.output} for {options.format}")


if __name__ == "__main__":
    cli.run(main)
