"""Train a detector: ``python -m fasterrcnn.train --recipe NAME --data-path DIR``.

`train_steps` is the one loop of this project. Everything before it decides where the run starts.
"""

from __future__ import annotations

import dataclasses
import itertools
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fasterrcnn import (
    checkpoint,
    cli,
    evaluation,
    initial_weights,
    recipes,
    runtime,
    schedule,
    seeds,
)
from fasterrcnn.data import formats, loader, proposals
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.proposals import StoredProposals
from fasterrcnn.data.sampler import Plan, bucket_of, check_ranks
from fasterrcnn.errors import CheckpointError, DataError, Stopped, UsageError
from fasterrcnn.metric_log import MetricLog, Step
from fasterrcnn.models import nms
from fasterrcnn.models.build import build
from fasterrcnn.models.compiled import compile_learning
from fasterrcnn.models.ema import Ema
from fasterrcnn.recipes import Recipe, setting
from fasterrcnn.run_folder import RunFolder
from fasterrcnn.runtime import Runtime
from fasterrcnn.step import Training, make_optimizer, one_step

_DECIDES_BITS = (
    "torch", "torchvision", "device", "gpu", "ranks", "threads", "cpu", "deterministic", "compiled",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Where and how fast a run happens; of these only `compile` changes the weights of a step, by
    other random numbers in sampling."""

    data_path: Path = setting(cli.PROJECT / "datasets" / "coco", "folder of the data set")
    dataset: str = setting(
        "auto", "its format; voc: PASCAL's own boxes", choices=("auto", *formats.READERS)
    )
    val_split: str = setting("val", "split to evaluate on; none: no evaluation")
    proposals: Path | None = setting(None, "stored proposals of the training split, for Fast R-CNN")
    val_proposals: Path | None = setting(None, "the same of --val-split")
    bad_data: str = setting(
        "stop", "what to do with boxes and images that cannot be used", choices=("stop", "skip")
    )
    output_dir: Path | None = setting(None, "run folder (default: output/<recipe>)")
    resume: bool = setting(False, "continue the run in the folder, also past its former end")
    skip_finished: bool = setting(False, "do nothing if the run in the folder is this, finished")
    steps: int | None = setting(None, "stop after this many steps (default: all epochs)")
    workers: int | None = setting(None, "loader processes per GPU (default: cores, at most 8)")
    log_every: int = setting(20, "steps between log lines")
    eval_every: int | None = setting(None, "steps between evaluations (default: an epoch; 0: end)")
    save_every: int | None = setting(None, "steps between checkpoints (default: an epoch; 0: end)")
    keep: int = setting(3, "checkpoints kept, the best one besides")
    device: str = setting("auto", "where to compute", choices=("auto", "cuda", "cpu"))
    deterministic: bool = setting(
        False, "the same bits every time on a GPU too; a CPU's always are"
    )
    compile: bool = setting(False, "compile forward and backward: minutes for each padded shape")


@dataclass
class Data:
    """What rank 0 read before the first step; sent to the others."""

    train: Annotations
    val: Annotations | None
    proposals: StoredProposals | None
    val_proposals: StoredProposals | None

    def digest(self) -> str:
        """Of everything that training depends on."""
        stored = f" {self.proposals.sha256}" if self.proposals else ""
        return self.train.digest() + stored


@dataclass
class Start:
    """Where a run begins: a checkpoint with its state, or fresh."""

    checkpoint: Path | None = None
    state: checkpoint.State | None = None
    finished: bool = False


def main(argv: list[str] | None = None) -> None:
    """The command."""
    recipe, options = cli.parse_recipe_and_options(Options, argv, "Train a detector.")
    rt = runtime.start(options.device, deterministic=options.deterministic)
    recipe = recipes.change(recipe, amp=rt.resolve_amp(recipe.amp))
    folder = RunFolder((options.output_dir or cli.output_root() / recipe.name).absolute())
    try:
        with folder.outcome() as status, runtime.expected_failures():
            train(recipe, options, folder, rt, status)
    finally:
        runtime.shut_down()


def train(
    recipe: Recipe, options: Options, folder: RunFolder, rt: Runtime, status: dict[str, Any]
) -> None:
    """The whole run. Raises Stopped, with the state saved, when signalled."""
    recipes.check(recipe)
    proposals.check_given("--proposals", options.proposals, recipe.detector)
    if options.steps is not None and options.steps < 1:
        raise UsageError(f"--steps: {options.steps}: must be positive")
    micro_batches = recipe.schedule.images_per_step // recipe.schedule.images_per_gpu
    check_ranks(rt.ranks, micro_batches, recipe.schedule.images_per_gpu)
    rt.on_main(folder.open)
    folder.is_ours = True
    rt.say(rt.describe())
    rt.say(f"NMS: {nms.describe(rt.device)}")
    rt.say(recipes.describe(recipe))
    if not rt.is_fast_in(recipe.amp):
        rt.say(f"note: this CPU has no {recipe.amp} instructions; --amp auto is faster")

    data = rt.on_main(lambda: read_data(recipe, options, folder))
    plan = Plan(
        data.train.ids,
        [bucket_of(int(h), int(w), recipe.input) for h, w in data.train.sizes],
        seed=recipe.seed,
        images_per_gpu=recipe.schedule.images_per_gpu,
        micro_batches_per_step=micro_batches,
    )
    last_step = options.steps or schedule.total_steps(recipe.schedule, plan.steps_per_epoch)
    rt.say(schedule.describe(recipe.schedule, plan.steps_per_epoch, last_step))
    state = checkpoint.State(
        step=0,
        last_step=last_step,
        recipe=recipe,
        classes=data.train.classes,
        scaler={},
        data={
            "digest": data.digest(),
            "path": str(options.data_path.absolute()),
            "dataset": options.dataset,
            "val_split": options.val_split,
        },
        environment={**rt.environment(), "compiled": options.compile},
    )
    start = rt.on_main(lambda: find_start(folder, state, options))
    if start.finished:
        rt.say(f"{folder.path}: already finished, {start.state.step} steps")
        return
    training = start_training(state, start, rt)
    if options.compile:
        rt.say("compiling every padded shape when it first comes, which takes minutes each")
        compile_learning(training.detector)
    if rt.is_main:
        checkpoint.check_space(folder.path, training.detector)
        folder.write_json("recipe.json", dataclasses.asdict(recipe))
        folder.write_json("environment.json", state.environment)
    try:
        with rt.catch_signals():
            train_steps(training, state, data, plan, options, folder, rt)
    finally:
        status["step"] = state.step
    rt.say(f"done: {state.step} steps, everything in {folder.path}")


def train_steps(
    training: Training,
    state: checkpoint.State,
    data: Data,
    plan: Plan,
    options: Options,
    folder: RunFolder,
    rt: Runtime,
) -> None:
    """Steps `state.step` to `state.last_step`: the loop. Waits for the device only when due.

    Raises Stopped, with the state saved, at the first step boundary after a signal to any rank.
    """
    recipe, last, per_epoch = state.recipe, state.last_step, plan.steps_per_epoch
    eval_every = per_epoch if options.eval_every is None else options.eval_every
    save_every = per_epoch if options.save_every is None else options.save_every
    log = MetricLog(
        rt,
        folder.path / "metrics.jsonl",
        first_step=state.step,
        last_step=last,
        steps_per_epoch=per_epoch,
        images_per_step=recipe.schedule.images_per_step,
        may_overflow=training.scaler.is_enabled(),
    )
    workers = rt.default_workers() if options.workers is None else options.workers
    stream = loader.load(
        loader.Images(
            data.train, flip=recipe.input.flip, seed=recipe.seed, proposals=data.proposals
        ),
        plan.micro_batches(state.step, last, rt.rank, rt.ranks),
        workers=workers,
        pin_memory=rt.pin_memory,
    )
    while state.step < last:
        started = time.monotonic()
        batches = list(itertools.islice(stream, plan.micro_batches_per_step // rt.ranks))
        log.add_wait(time.monotonic() - started)
        lr = schedule.lr_at(state.step, recipe.schedule, per_epoch)
        scalars, grad_norm = one_step(training, batches, recipe, lr, rt)
        log.add(Step(state.step, lr, [n for b in batches for n in b.names], scalars, grad_norm))
        state.step += 1

        if schedule.due(state.step, options.log_every, last):
            log.flush()
        stop = rt.stop_signal()
        evaluating = data.val is not None and schedule.due(state.step, eval_every, last)
        if not (stop or evaluating or schedule.due(state.step, save_every, last)):
            continue
        log.flush()  # before saving: a diverged run raises here
        path = rt.on_main(lambda: save(training, state, folder, options.keep))
        if stop:
            raise Stopped(
                f"{signal.Signals(stop).name}: step {state.step} saved in {path}; "
                "the same command continues the run",
                128 + stop,
            )
        if evaluating:
            model = training.ema.model if training.ema else training.detector
            rt.broadcast([*model.buffers()])  # statistics of norms: rank 0's are those saved
            results, _ = evaluation.evaluate(
                model,
                data.val,
                recipe,
                rt,
                images_per_gpu=recipe.schedule.images_per_gpu,
                workers=workers,
                stored=data.val_proposals,
            )
            if rt.is_main:
                evaluation.report(results, state.step, path)
        log.start_clock()
    log.close()


def read_data(recipe: Recipe, options: Options, folder: RunFolder) -> Data:
    """Both splits, checked; findings counted on the terminal and listed in problems.jsonl."""
    problems = Problems(skip=options.bad_data == "skip")
    root, dataset, val = options.data_path, options.dataset, None
    try:
        train = formats.read(root, recipe.data.train_split, dataset, recipe.data.classes, problems)
        if options.val_split != "none":
            val = formats.read(root, options.val_split, dataset, train.classes, problems)
    finally:
        problems.write(folder.path / "problems.jsonl")
    usable = len(train)
    if not recipe.data.keep_empty:
        train = train.select(train.with_boxes())
    small = train.sizes.min(axis=1) < recipe.data.min_image_side
    if small.any():
        print(f"data: {small.sum()} training images smaller than --data.min-image-side left out")
        train = train.select(~small)
    if len(train) == 0:
        raise DataError(
            f"{root}: split {recipe.data.train_split}: 0 of {usable} images have a box to train on"
        )
    names = train.classes.names
    print(
        f"data: {root}: {len(train)} training images with {int(train.trainable.sum())} boxes "
        f"({usable - len(train)} images without boxes left out), "
        f"{len(val) if val else 'no'} validation images; "
        f"{len(names)} classes: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
    )
    for what, count in problems.counts().items():
        print(f"data: {count} x {what} (listed in {folder.path / 'problems.jsonl'})")
    stored = read_proposals(recipe, options, train, val)
    return Data(train, val, *stored)


def read_proposals(
    recipe: Recipe, options: Options, train: Annotations, val: Annotations | None
) -> list[StoredProposals | None]:
    """Of both splits, where the detector takes any; every image must have some."""
    found = []
    for flag, path, images in (
        ("--proposals", options.proposals, train),
        ("--val-proposals", options.val_proposals, val),
    ):
        if images is not None or path is not None:
            proposals.check_given(flag, path, recipe.detector)
        found.append(None if path is None else proposals.read(path))
        if found[-1] is not None and images is not None:
            found[-1].aligned(images)
    return found


def find_start(folder: RunFolder, state: checkpoint.State, options: Options) -> Start:
    """Where the run that `state` describes begins in this folder.

    Raises UsageError for a folder with another run or a finished one, CheckpointError when there
    are checkpoints but none can be used.
    """
    for name in checkpoint.remove_unfinished(folder.checkpoints):
        print(f"removed {name}, which an earlier process did not finish writing")
    found, skipped = checkpoint.newest(folder.checkpoints)
    for reason in skipped:
        print(f"skipped checkpoint {reason}")
    if found is None:
        if skipped or options.resume:
            raise CheckpointError(
                f"{folder.path}: no usable checkpoint to continue from; start a new run with "
                "another --output-dir"
            )
        return Start()
    saved = checkpoint.load_state(found)
    different = recipes.difference(saved.recipe, state.recipe)
    if saved.data["digest"] != state.data["digest"]:
        different.append("the training images or boxes")
    if different:
        raise UsageError(
            f"--output-dir: {folder.path}: holds another run ({'; '.join(different)}); use its "
            "flags to continue it, or another --output-dir"
        )
    finished = saved.step >= state.last_step
    if finished and options.skip_finished:
        return Start(found, saved, finished=True)
    wants_more = options.resume or options.skip_finished
    if finished or (saved.step >= saved.last_step and not wants_more):
        raise UsageError(
            f"--output-dir: {folder.path}: this run is finished at step {saved.step}; train longer "
            "with --resume --steps N, or start another with --output-dir"
        )
    return Start(found, saved)


def start_training(state: checkpoint.State, start: Start, rt: Runtime) -> Training:
    """Model, optimizer and scaler at the first step: fresh, or as `start` has them."""
    recipe = state.recipe
    torch.manual_seed(seeds.key(recipe.seed, "weights"))
    detector = build(recipe, state.classes.num_classes)
    if start.checkpoint is None:
        initialise = initial_weights.initialise
        for line in rt.on_main(lambda: initialise(detector, recipe, state.classes)):
            rt.say(line)
    detector = rt.place(detector)
    optimizer = make_optimizer(detector, recipe.schedule)
    scaler = rt.scaler(recipe.amp)
    ema = Ema(detector, recipe.schedule.ema_decay) if recipe.schedule.ema_decay else None
    if start.checkpoint is not None:
        rt.on_main(lambda: _restore(start.checkpoint, detector, optimizer, ema))
        scaler.load_state_dict(start.state.scaler)
        state.step = start.state.step
        rt.say(f"continuing at step {state.step} from {start.checkpoint}")
        _compare(start.state.environment, state.environment, rt)
    for module in (detector, ema and ema.model):
        rt.broadcast([*module.state_dict().values()] if module else [])
    rt.broadcast([*checkpoint.optimizer_tensors(detector, optimizer).values()])
    model = rt.replicate(detector.train(), sync_buffers=recipe.backbone.norm == "batch")
    return Training(detector, model, optimizer, scaler, ema)


def save(training: Training, state: checkpoint.State, folder: RunFolder, keep: int) -> Path:
    """A checkpoint of the whole training at `state.step`; its path."""
    state.scaler = training.scaler.state_dict()
    tensors = {
        "model": training.detector.state_dict(),
        "optimizer": checkpoint.optimizer_tensors(training.detector, training.optimizer),
    }
    if training.ema is not None:
        tensors["ema"] = training.ema.model.state_dict()
    return checkpoint.save(folder.checkpoints, tensors, state, keep)


def _restore(
    path: Path, detector: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> None:
    checkpoint.load_into(detector, path / "model.safetensors")
    checkpoint.load_optimizer(detector, optimizer, path / "optimizer.safetensors")
    if ema is not None:
        checkpoint.load_into(ema.model, path / "ema.safetensors")


def _compare(old: dict[str, Any], new: dict[str, Any], rt: Runtime) -> None:
    """Say what can make the bits differ from an uninterrupted run."""
    for key in _DECIDES_BITS:
        if key in old and old[key] != new[key]:
            rt.say(f"note: {key} was {old[key]}, is {new[key]}: results can differ from here on")


if __name__ == "__main__":
    cli.run(main)
