"""Put an RPN and a Fast R-CNN with the same backbone together: ``python -m fasterrcnn.assemble``.

The end of alternating training: one detector whose proposals are the first run's and whose box head
is the second's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from fasterrcnn import checkpoint, cli, recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.recipes import setting


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
    tensors |= {name: value for name, value in other.items() if name.startswith("rpn.")}
    recipe = recipes.change(detects.recipe, detector="faster_rcnn", rpn=vars(proposes.recipe.rpn))
    folder = options.output_dir.absolute()
    state = replace(detects, recipe=recipe, step=detects.last_step)
    saved = checkpoint.save(folder / "checkpoints", {"model": tensors}, state, keep=2)
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    print(f"{rpn_path} and {path}: one detector in {saved}")


if __name__ == "__main__":
    cli.run(main)
