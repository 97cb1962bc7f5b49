"""Put an RPN and a Fast R-CNN with the same backbone together: ``python -m fasterrcnn.assemble``.

The end of alternating training: one detector whose proposals are the first run's and whose box head
is the second's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from fasterrcnn import checkpoint, cli, recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.recipes import setting
from fasterrcnn.run_folder import RunFolder


@dataclass(frozen=True)
class Options:
    """Of which two runs, and where to."""

    rpn: Path = setting(help="run of --detector rpn")
    fast_rcnn: Path = setting(help="run of --detector fast_rcnn")
    output_dir: Path = setting(help="run folder to make", flag="-o")


def main(argv: list[str] | None = None) -> None:
    """The command. Raises UsageError for runs that do not fit together."""
    options = cli.parse_options(Options, argv, "Put an RPN and a Fast R-CNN together.")
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
    """The checkpoint in the run folder, or the one that holds it already. Raises UsageError for a
    folder with another run."""
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


if __name__ == "__main__":
    cli.run(main)
