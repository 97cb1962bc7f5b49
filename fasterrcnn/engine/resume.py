"""Where a run starts: fresh, or at the newest checkpoint of its folder that verifies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fasterrcnn import recipes, schedule, seeds
from fasterrcnn.engine import checkpoint, evaluation, history, initial_weights, results
from fasterrcnn.engine.checkpoint import State
from fasterrcnn.engine.run_folder import METRICS, RunFolder
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.engine.step import Training, make_training
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.models.build import build

_DECIDES_BITS = (
    "torch", "torchvision", "device", "gpu", "ranks", "threads", "cpu", "deterministic", "compiled",
)  # fmt: skip


@dataclass
class Start:
    """Where a run starts: the path of a checkpoint and its state, or neither for a fresh start."""

    path: Path | None = None
    state: State | None = None

    @property
    def step(self) -> int:
        """The steps that the checkpoint has done."""
        return 0 if self.state is None else self.state.step


def find_start(folder: RunFolder, *, resume: bool) -> Start:
    """Where a run in this folder starts. For rank 0; prints what it skips.

    Raises CheckpointError when there are checkpoints but none can be used, and when there is none
    to `resume` from.
    """
    for name in checkpoint.remove_unfinished(folder.checkpoints):
        print(f"removed {name}, which an earlier process did not finish writing")
    found, skipped = checkpoint.newest(folder.checkpoints)
    for reason in skipped:
        print(f"skipped checkpoint {reason}")
    if found is None:
        if skipped or resume:
            raise CheckpointError(
                f"{folder.path}: no usable checkpoint to continue from; start a new run with "
                "another --output-dir"
            )
        if (folder.path / METRICS).exists():
            print("no checkpoint yet: starting from the beginning")
        return Start()
    return Start(found, checkpoint.load_state(found))


def check_start(
    folder: RunFolder,
    start: Start,
    state: State,
    *,
    resume: bool,
    skip_finished: bool,
    stalled: str | None,
) -> bool:
    """Whether the run that `state` describes is finished at `start` already.

    `resume`: continue past the former end too. `skip_finished`: a finished run is no error.
    `stalled`: why it ended early (`early_stop`). Raises UsageError for a folder with another run or
    a finished one.
    """
    saved = start.state
    if saved is None:
        return False
    _check_same_run(folder, saved, state, resume=resume)
    same = saved.data.get("val_digest") == state.data["val_digest"]
    if same and lacks_evaluation(replace(state, step=saved.step), 0, folder):
        return False
    finished = saved.step >= state.last_step or stalled is not None
    if finished and skip_finished:
        return True
    wants_more = resume or skip_finished
    if finished or (saved.step >= saved.last_step and not wants_more):
        why = f": {stalled}" if stalled else ""
        longer = "a larger --patience, or 0" if stalled else "--resume and --epochs or --steps"
        raise UsageError(
            f"--output-dir: {folder.path}: this run is finished at step {saved.step}{why}; train "
            f"longer with {longer}, or start another with --output-dir"
        )
    return False


def lacks_evaluation(state: State, every: int, folder: RunFolder) -> bool:
    """Whether the run was killed before the evaluation at ``state.step``, due `every` so many
    steps, was done."""
    digest = state.data["val_digest"]
    if digest is None or state.step == 0:
        return False
    due = schedule.due(state.step, every, state.last_step)
    return due and all(row["step"] != state.step for row in results.own(folder.path, digest))


def start_training(state: State, start: Start, rt: Runtime, *, compiled: bool) -> Training:
    """Model, optimizer and scaler at the first step: fresh, or as `start` has them.

    Sets ``state.step``.
    """
    recipe = state.recipe
    torch.manual_seed(seeds.key(recipe.seed, "weights"))
    detector = build(recipe, state.classes.num_classes)
    if start.path is None:
        initialize = initial_weights.initialize
        for line in rt.on_main(lambda: initialize(detector, recipe, state.classes)):
            rt.say(line)
    training = make_training(rt.place(detector), recipe, rt, compiled=compiled)
    if start.path is not None and start.state is not None:
        path = start.path
        rt.on_main(lambda: _restore(path, training))
        if start.state.scaler:  # none where fp16 begins here
            training.scaler.load_state_dict(start.state.scaler)
        state.step = start.state.step
        rt.say(f"continuing at step {state.step} from {path}")
        for line in _changes(start.state.environment, state.environment):
            rt.say(line)
    for module in (training.detector, training.ema and training.ema.model):
        rt.broadcast([*module.state_dict().values()] if module else [])
    rt.broadcast([*checkpoint.optimizer_tensors(training.detector, training.optimizer).values()])
    return training


def save(training: Training, state: State, folder: RunFolder, keep: int) -> Path:
    """Save the whole training at ``state.step``; the checkpoint's path."""
    state.scaler = training.scaler.state_dict()
    return checkpoint.save(folder.checkpoints, tensors(training), state, keep)


def tensors(training: Training) -> dict[str, dict[str, Tensor]]:
    """All tensors of a checkpoint."""
    found = {
        "model": training.detector.state_dict(),
        "optimizer": checkpoint.optimizer_tensors(training.detector, training.optimizer),
    }
    if training.ema is not None:
        found["ema"] = training.ema.model.state_dict()
    return found


def _check_same_run(folder: RunFolder, saved: State, state: State, *, resume: bool) -> None:
    """Raise UsageError unless data and recipe are those of the saved run, up to what `resume`
    changes."""
    fixed = history.fixed(saved.recipe, state.recipe)
    different = fixed if resume else recipes.difference(saved.recipe, state.recipe)
    advice = f"--weights {folder.path} and another --output-dir to start from its weights"
    if not resume and different and not fixed:
        advice = f"--resume to change it from step {saved.step} on"
    before, after = evaluation.max_dets(saved), evaluation.max_dets(state)
    if before != after:  # the best checkpoint would be chosen by metrics that do not compare
        different.append(f"max-dets: {before} -> {after}")
    if saved.data["digest"] != state.data["digest"]:
        different.append(
            "the training images or boxes: missing, unreadable or repaired images count too"
        )
        advice = "another --output-dir"
    if different:
        raise UsageError(
            f"--output-dir: {folder.path}: holds another run ({'; '.join(different)}); use its "
            f"flags to continue it, or {advice}"
        )


def _restore(path: Path, training: Training) -> None:
    """Copy the tensors of a checkpoint into model, optimizer and average."""
    detector = training.detector
    checkpoint.load_into(detector, path / "model.safetensors")
    checkpoint.load_optimizer(detector, training.optimizer, path / "optimizer.safetensors")
    if training.ema is not None:
        checkpoint.load_into(training.ema.model, path / "ema.safetensors")


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What can make the bits differ from those of an uninterrupted run."""
    return [
        f"note: {key} was {old[key]}, is {new[key]}: results can differ from here on"
        for key in _DECIDES_BITS
        if key in old and old[key] != new[key]
    ]
