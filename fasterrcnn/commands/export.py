"""Export a detector as a checkpoint of another framework, a program, or a folder for the Hub.

For torchvision, MMDetection and Detectron2, a detector that they would compute differently is
refused, naming the field. ONNX files and programs of torch.export (pt2) are run and compared with
the detector before they are kept.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fasterrcnn import recipes, value_range
from fasterrcnn.cli import flags, shared
from fasterrcnn.data import images, shapes
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import checkpoint, evaluation, hub
from fasterrcnn.errors import CheckpointError, DataError, StorageError, UsageError
from fasterrcnn.export import detector as exported
from fasterrcnn.export import onnx_file, parity, program, program_file
from fasterrcnn.importers import mmdetection_text, torchvision_script, translate
from fasterrcnn.importers.published import PREFIXES
from fasterrcnn.models.build import Detector, FasterRCNN
from fasterrcnn.settings import setting

_PROGRAMS = ("onnx", "pt2")
_IMAGES = 20  # that a file and its detector are compared on


@dataclass(frozen=True)
class Options:
    """What to export, for what, to which file or folder."""

    checkpoint: Path = shared.checkpoint()
    format: str = setting(help="what to export for", choices=(*PREFIXES, *_PROGRAMS, "hub"))
    output: Path = setting(
        help="file to write: .pth, for detectron2 also .pkl, .onnx or .pt2; for hub a folder",
        flag="-o",
    )
    preprocess: str = setting(
        "out",
        "where images are resized, normalized and padded: out, by the program that calls the "
        "file, or in the file, which then takes them as decoded, in the type of the run's files "
        "(onnx and pt2)",
        choices=("out", "in"),
    )
    half: bool = setting(
        False, "layers in fp16, all else in float32: a file of half the size (onnx only)"
    )
    data_path: Path | None = shared.data_path(
        None, "; its first images are what an exported file is tried on (default: the run's)"
    )
    license: str | None = setting(None, "license of the detector, for its card on the hub: mit")
    datasets: tuple[str, ...] = setting((), "data sets on the hub that it was trained on")
    base_model: str | None = setting(None, "model on the hub that it was fine-tuned from: ORG/NAME")


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    if options.checkpoint.suffix in exported.FILES:
        raise UsageError(f"--checkpoint: {options.checkpoint}: is exported; give the run it is of")
    if options.format == "hub":
        export_to_hub(options)
        return
    for name in ("license", "datasets", "base_model"):
        if getattr(options, name):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag}: is for --format hub; leave it out")
    if options.data_path is not None and options.format not in _PROGRAMS:
        raise UsageError("--data-path: is for --format onnx and pt2; leave it out")
    if options.preprocess == "in" and options.format not in _PROGRAMS:
        raise UsageError("--preprocess: in: is for --format onnx and pt2; leave it out")
    if options.half and options.format != "onnx":
        raise UsageError("--half: is for --format onnx; leave it out")
    suffixes = (".pth", ".pkl") if options.format == "detectron2" else (".pth",)
    if options.format in _PROGRAMS:
        suffixes = (f".{options.format}",)
    if options.output.suffix not in suffixes:
        raise UsageError(f"--output: {options.output}: must end in {' or '.join(suffixes)}")
    shared.check_outputs({"--output": options.output})
    if options.format == "onnx":
        onnx_file.need()
    model, state, path = checkpoint.load_detector(options.checkpoint)
    try:
        if options.format in _PROGRAMS:
            inside = options.preprocess == "in"
            if inside and (reason := program.unprepared(state.recipe.input)):
                raise UsageError(f"--preprocess: in: this run has {reason}; leave it out")
            tried_on = some_images(state, options.data_path)
            decoded = tried_on.type if inside else None
            write_program(
                model, state, options.output, tried_on.images, decoded=decoded, half=options.half
            )
            said = f"{options.output} for {options.format}"
            if decoded is not None:
                said += f", which takes {decoded} images as decoded".replace("torch.", "")
        else:
            count = write_checkpoint(model, state, options)
            said = f"{count} tensors in {options.output} for {options.format}"
            if options.format == "torchvision":
                said += ", and the .py beside it that builds the model"
    except OSError as error:
        raise StorageError(f"{options.output}: {error.strerror}; give another --output") from None
    print(f"{path}: {said}")


def write_checkpoint(model: Detector, state: checkpoint.State, options: Options) -> int:
    """Write the checkpoint of another framework; the number of its tensors. Raises OSError."""
    rpn = "bbox_head" if state.recipe.detector == "rpn" else "rpn_head"
    tensors = translate.dump(model, state.recipe, PREFIXES[options.format], rpn)
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
    return len(tensors)


def write_program(
    model: Detector,
    state: checkpoint.State,
    output: Path,
    tried_on: Sequence[Tensor],
    *,
    decoded: torch.dtype | None = None,
    half: bool = False,
) -> None:
    """Write an exported file that detects what `model` does; there is none if it does not.

    tried_on: images ``(C, H, W)`` as `images.decode` gives them, on which the two are compared.
    decoded: the file prepares images itself, which it takes as decoded, of this type; half: its
    layers are in fp16 (.onnx only). Raises CheckpointError where it detects something else,
    OSError.
    """
    recipe = recipes.change(state.recipe, amp="off")
    temporary = output.with_name(f".tmp-{os.getpid()}-{output.name}")
    try:
        metadata = checkpoint.to_json(replace(state, recipe=recipe))
        if output.suffix == ".onnx":
            network = program.export(model, original_sizes=decoded is not None)
            before = program.export_preparation(model.transform, decoded) if decoded else None
            onnx_file.write(network, temporary, metadata, before, half=half)
        else:
            whole = program.export_whole(model, decoded) if decoded else program.export(model)
            program_file.write(whole, temporary, metadata)
        if decoded is not None:
            tried_on = [program.between_types(x, recipe.input, decoded) for x in tried_on]
        check(model, state, temporary, tried_on, parity.HALF if half else parity.EXACT)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def check(
    model: Detector,
    state: checkpoint.State,
    file: Path,
    tried_on: Sequence[Tensor],
    limits: parity.Limits = parity.EXACT,
) -> None:
    """Print how closely the exported `file` agrees with `model`. Raises CheckpointError."""
    other, written, _ = checkpoint.load_detector(file)
    agreements = parity.compare(model, other, tried_on, limits)
    print(parity.HEADER)
    for agreement in agreements:
        print(agreement)
    if not any(sum(a.counts) for a in agreements):
        print("note: nothing is detected in these images, so no detections were compared")
    if written.classes != state.classes or not all(a.holds for a in agreements):
        raise CheckpointError(
            "the exported file detects something else (or has other classes) and was removed; "
            f"{limits}; report this with the table"
        )


class Sample(NamedTuple):
    """Images to try a file on."""

    images: list[Tensor]  # (C, H, W), as `images.decode` gives them
    type: torch.dtype  # of the values of files like theirs: uint8, uint16 or float32


def some_images(state: checkpoint.State, data_path: Path | None = None) -> Sample:
    """The first validation images of the run's data or of `data_path`; drawn shapes where the run's
    are not there.

    Raises UsageError or DataError where those of `data_path` cannot be read.
    """
    if data_path is not None:
        return _validation_images(state, data_path)
    if state.data["path"] and Path(state.data["path"]).is_dir():
        try:
            return _validation_images(state)
        except (UsageError, DataError):  # it has changed since; no flag could help
            print(f"note: {state.data['path']}: the run's validation data cannot be read")
    print("compared on drawn shapes:")
    channels = [k % 3 for k in range(state.recipe.input.in_channels)]
    drawn = (torch.from_numpy(shapes.draw(i)[0]).permute(2, 0, 1) for i in range(_IMAGES))
    is_ranged = value_range.limits(state.recipe.input.value_range) is not None
    kind = torch.float32 if is_ranged else torch.uint8
    return Sample([image[channels] for image in drawn], kind)


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


def _validation_images(state: checkpoint.State, data_path: Path | None = None) -> Sample:
    config = state.recipe.input
    source = evaluation.find_source(state, data_path, None, None)
    data = evaluation.read_split(source, state.classes, Problems(skip=True), config=config)
    few = range(min(_IMAGES, len(data)))
    kind = torch.uint8
    if value_range.limits(config.value_range) is not None:
        kinds = {images.stored_type(data.path(i)) for i in few}
        kind = torch.uint16 if kinds == {np.dtype(np.uint16)} else torch.float32
    return Sample([images.decode_of(data, i) for i in few], kind)
