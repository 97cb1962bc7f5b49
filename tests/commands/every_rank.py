"""`train` under torchrun, after which every rank writes its own weights: a run saves rank 0's.

torchrun ... -m tests.commands.every_rank FOLDER [FLAG...]
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from fasterrcnn.commands import train
from fasterrcnn.engine import training
from fasterrcnn.engine.runtime import Runtime


def main(folder: Path, flags: list[str]) -> None:
    """Train, then write FOLDER/rank-<r>.safetensors."""
    step, last = training.train_step, {}

    def watch(state, batches, recipe, lr, rt: Runtime, *args):
        last.update(detector=state.detector, rank=rt.rank)
        return step(state, batches, recipe, lr, rt, *args)

    training.train_step = watch
    train.main(flags)
    weights: dict[str, torch.Tensor] = dict(last["detector"].named_parameters())
    save_file(
        {name: value.detach().contiguous() for name, value in weights.items()},
        folder / f"rank-{last['rank']}.safetensors",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
