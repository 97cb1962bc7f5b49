"""Combine an RPN and a Fast R-CNN with the same backbone into one detector.

The last step of alternating training: the RPN of one run proposes, the box head of another detects.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from fasterrcnn import recipes
from fasterrcnn.cli import flags
from fasterrcnn.engine import checkpoint
from fasterrcnn.engine.run_folder import RunFolder
from fasterrcnn.errors import UsageError
from fasterrcnn.settings import setting


@dataclass(frozen=True)
class Options:
    """The two runs, and the run folder to make."""

    rpn: Path = setting(help="run trained with --detector rpn")
    fast_rcnn: Path = setting(help="run trained with --detector fast_rcnn")
    output_dir: Path = setting(help="run folder to make", flag="-o")


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises UsageError for runs that do not fit together."""
    options = flags.parse(Options, argv, __doc__)
    proposer, proposes, rpn_path = checkpoint.load_detector(options.rpn)
    detector, detects, path = checkpoint.load_detector(options.fast_rcnn)
    for flag, state, kind in (("--rpn", proposes, "rpn"), ("--fast-rcnn", detects, "fast_rcnn")):
        if state.recipe.detector != kind:
            raise UsageError(f"{flag}: a run of --detector {state.recipe.detector}; give an {kind}")
    tensors, other = detector.state_dict(), proposer.state_dict()
    for name in (name for name in other if name.startswith("backbone.")):
        if name not in tensors or not torch.equal(tensors[name], other[name]):
            raise UsageError(
                f"--rpn: {rpn_path}: {name} is not that of {path}; train both from the same "
                "weights with --backbone.fixed"
            )
    if proposes.recipe.input != detects.recipe.input:
        raise UsageError(f"--rpn: {rpn_path}: input is not that of {path}; train both alike")
    if proposes.recipe.rpn.post_nms_top_n_test != detects.recipe.rpn.post_nms_top_n_test:
        raise UsageError(
            f"--rpn: {rpn_path}: rpn.post_nms_top_n_test is not that of {path}; train both alike"
        )
    tensors |= {name: value for name, value in other.items() if name.startswith("rpn.")}
    recipe = recipes.change(detects.recipe, detector="faster_rcnn", rpn=vars(proposes.recipe.rpn))
    saved = save(options.output_dir.absolute(), tensors, replace(detects, recipe=recipe))
    print(f"{rpn_path} and {path}: one detector in {saved}")


def save(folder: Path, tensors: dict[str, torch.Tensor], state: checkpoint.State) -> Path:
    """Save the checkpoint in the run folder, unless it is there already; its path.

    Raises UsageError for a folder with another run.
    """
    run = RunFolder(folder)
    with run.outcome():
        run.open()
        for there in run.checkpoints.glob("step-*"):
            saved = checkpoint.load_tensors(there / "model.safetensors")
            if saved.keys() != tensors.keys() or not all(
                torch.equal(saved[name], value) for name, value in tensors.items()
            ):
                raise UsageError(f"--output-dir: {folder}: holds another run; give another folder")
            return there
        run.write_json("recipe.json", asdict(state.recipe))
        return checkpoint.save(run.checkpoints, {"model": tensors}, state, keep=2)
