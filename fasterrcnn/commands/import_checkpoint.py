"""Import a detector of MMDetection, Detectron2 or torchvision.

Makes a run folder with an ordinary checkpoint, which evaluate, predict, propose and train --weights
take. Its import.json says where every tensor came from.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fasterrcnn.cli import flags
from fasterrcnn.engine import checkpoint, importing, runtime
from fasterrcnn.errors import UsageError
from fasterrcnn.importers.recognize import Hints
from fasterrcnn.settings import setting


@dataclass(frozen=True)
class Options:
    """What to import, and what its tensors cannot tell."""

    file: tuple[str, ...] = setting(
        help="checkpoint file (.pth .pkl .safetensors), or the name of a published one: "
        "mmdet:rpn_r50_fpn_1x, detectron2:faster_rcnn_R_50_FPN_3x, torchvision:COCO_V1",
        positional=True,
    )
    output_dir: Path = setting(help="run folder to make", flag="-o")
    source: str | None = setting(
        None, "what the file is, where it does not say: mmdet:rpn_r50_caffe_fpn_1x"
    )
    class_names: tuple[str, ...] = setting((), "names of the classes, in the order of the rows")
    entry: str | None = setting(
        None, "which weights, if the file holds several: model_ema; default: those trained"
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options, fields = flags.parse_with_network(Options, argv, __doc__)
    if len(options.file) != 1:
        raise UsageError(f"{options.file[1]}: one file at a time")
    folder = options.output_dir.absolute()
    if (folder / "checkpoints").exists():
        raise UsageError(f"--output-dir: {folder}: holds a run already; give another")
    environment = runtime.start("cpu").environment()
    hints = Hints(options.source, options.class_names, fields)
    model, state, file, found, report = importing.load(
        options.file[0], hints, environment, options.entry
    )
    recipe = state.recipe
    path = checkpoint.save(folder / "checkpoints", {"model": model.state_dict()}, state, keep=2)
    about = {"file": str(file.path), "sha256": file.sha256, "framework": found.framework,
             "rule": found.rule, "entry": file.entry, "recipe": asdict(recipe)}  # fmt: skip
    (folder / "import.json").write_text(json.dumps({**about, **report}, indent=1) + "\n")
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    if file.others:
        print(
            f"{file.path}: took {file.entry}; not taken: {', '.join(file.others)} (--entry NAME "
            "takes another)"
        )
    if heads := report["heads_left_out"]:
        print(f"{file.path}: left out: the {' and '.join(heads)} head; imported is the detector")
    used = sum(entry["from"] is not None for entry in report["tensors"].values())
    print(
        f"{file.path}: {found.framework}, {recipe.detector}, {recipe.backbone.name}, "
        f"{len(found.classes.names)} classes; conventions by {found.rule}"
    )
    print(
        f"{used} tensors imported, {len(report['not_used'])} not needed (counters, buffers); "
        f"{path}; every tensor in {folder / 'import.json'}"
    )
