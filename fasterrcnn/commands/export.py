"""Export a detector for torchvision, MMDetection, Detectron2 or the Hugging Face Hub.

A detector that the other framework would compute differently is refused, naming the field.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from fasterrcnn.cli import flags, shared
from fasterrcnn.engine import checkpoint, hub
from fasterrcnn.errors import StorageError, UsageError
from fasterrcnn.importers import mmdetection_text, torchvision_script, translate
from fasterrcnn.importers.published import PREFIXES
from fasterrcnn.models.build import FasterRCNN
from fasterrcnn.settings import setting


@dataclass(frozen=True)
class Options:
    """What to export, for what, to which file or folder."""

    checkpoint: Path = shared.checkpoint()
    format: str = setting(help="what to export for", choices=(*PREFIXES, "hub"))
    output: Path = setting(
        help="file to write: .pth, for detectron2 also .pkl; for hub a folder", flag="-o"
    )
    license: str | None = setting(None, "license of the detector, for its card on the hub: mit")
    datasets: tuple[str, ...] = setting((), "data sets on the hub that it was trained on")
    base_model: str | None = setting(None, "model on the hub that it was fine-tuned from: ORG/NAME")


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    if options.format == "hub":
        export_to_hub(options)
        return
    for name in ("license", "datasets", "base_model"):
        if getattr(options, name):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag}: is for --format hub; leave it out")
    suffixes = (".pth", ".pkl") if options.format == "detectron2" else (".pth",)
    if options.output.suffix not in suffixes:
        raise UsageError(f"--output: {options.output}: must end in {' or '.join(suffixes)}")
    model, state, path = checkpoint.load_detector(options.checkpoint)
    rpn = "bbox_head" if state.recipe.detector == "rpn" else "rpn_head"
    tensors = translate.dump(model, state.recipe, PREFIXES[options.format], rpn)
    try:
        if options.output.suffix == ".pkl":
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            with options.output.open("wb") as file:
                pickle.dump({"model": arrays, "__author__": "fasterrcnn"}, file)
        elif options.format == "mmdet":
            meta = {
                "CLASSES": list(state.classes.names),
                "cfg": mmdetection_text.text(state.recipe),
            }
            torch.save({"meta": meta, "state_dict": tensors}, options.output)
        else:
            if options.format == "torchvision":
                assert isinstance(model, FasterRCNN)
                torchvision_script.write(
                    options.output.with_suffix(".py"), model, state.recipe, state.classes.names
                )
            content = {"model": tensors} if options.format == "detectron2" else tensors
            torch.save(content, options.output)
    except OSError as error:
        raise StorageError(f"{options.output}: {error.strerror}; give another --output") from None
    beside = (
        ", and the .py beside it that builds the model" if options.format == "torchvision" else ""
    )
    print(f"{path}: {len(tensors)} tensors in {options.output} for {options.format}{beside}")


def export_to_hub(options: Options) -> None:
    """Write the folder, and say what its card lacks. Raises Failure."""
    model, state, path = checkpoint.load_detector(options.checkpoint)
    card = {
        "license": options.license,
        "datasets": [*options.datasets],
        "base_model": options.base_model,
    }
    said = {name: value for name, value in card.items() if value}
    hub.write(options.output, model, state, path, said)
    print(f"{path}: {options.output} for the hub")
    if missing := ", ".join(name for name in card if name not in said):
        print(f"note: its README.md does not say: {missing}; give them as flags, or edit it")
