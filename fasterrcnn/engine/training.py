"""The training loop: the only one of this project."""

from __future__ import annotations

import itertools
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from fasterrcnn import schedule
from fasterrcnn.data import loader
from fasterrcnn.data.sampler import Plan
from fasterrcnn.engine import checkpoint, evaluation, resume
from fasterrcnn.engine.metric_log import MetricLog, Step
from fasterrcnn.engine.run_data import RunData
from fasterrcnn.engine.run_folder import RunFolder
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.engine.step import Training, train_step
from fasterrcnn.errors import Stopped
from fasterrcnn.reports import tables


@dataclass(frozen=True)
class Intervals:
    """Steps between what happens besides training; 0: only after the last step."""

    log: int
    evaluate: int
    save: int
    keep: int  # checkpoints kept, at least 2, the best one besides


def train(
    training: Training,
    state: checkpoint.State,
    data: RunData,
    plan: Plan,
    intervals: Intervals,
    workers: int,
    folder: RunFolder,
    rt: Runtime,
) -> None:
    """Train from ``state.step`` to ``state.last_step``.

    The host waits for the device only when something is due. Raises Stopped, with the state saved,
    at the first step boundary after a signal to any rank.
    """
    recipe, last, per_epoch = state.recipe, state.last_step, plan.steps_per_epoch
    first = state.step + 1
    log = MetricLog(
        rt,
        folder.path / "metrics.jsonl",
        first_step=state.step,
        last_step=last,
        steps_per_epoch=per_epoch,
        images_per_step=recipe.schedule.images_per_step,
        micro_batches_per_step=plan.micro_batches_per_step,
        may_overflow=training.scaler.is_enabled(),
    )
    stream = loader.load(
        loader.Images(
            data.train, flip=recipe.input.flip, seed=recipe.seed, proposals=data.proposals
        ),
        plan.micro_batches(state.step, last, rt.rank, rt.ranks),
        workers=workers,
        pin_memory=rt.pin_memory,
    )
    own = len(plan.share(rt.rank, rt.ranks))  # ranks can differ by one
    while state.step < last:
        started = time.monotonic()
        batches = list(itertools.islice(stream, own))
        log.add_wait(time.monotonic() - started)
        lr = schedule.lr_at(state.step, recipe.schedule, per_epoch)
        scalars, grad_norm = train_step(
            training, batches, recipe, lr, rt, plan.micro_batches_per_step
        )
        log.add(Step(state.step, lr, [n for b in batches for n in b.names], scalars, grad_norm))
        state.step += 1

        if state.step == first or schedule.due(state.step, intervals.log, last):
            log.flush()
        stop = rt.stop_signal()
        evaluating = data.val is not None and schedule.due(state.step, intervals.evaluate, last)
        if not (stop or evaluating or schedule.due(state.step, intervals.save, last)):
            continue
        log.flush()  # before saving: a diverged run raises here
        path = rt.on_main(lambda: resume.save(training, state, folder, intervals.keep))
        if stop:
            raise Stopped(
                f"{signal.Signals(stop).name}: step {state.step} saved in {path}; "
                "the same command continues the run",
                128 + stop,
            )
        if evaluating:
            evaluate(training, state, data, path, workers, rt)
        log.start_clock()
    log.close()


def evaluate(
    training: Training,
    state: checkpoint.State,
    data: RunData,
    path: Path,
    workers: int,
    rt: Runtime,
) -> None:
    """Evaluate the averaged weights if there are any, else the trained ones.

    `path`: their checkpoint, which gets the results.
    """
    assert data.val is not None
    model = training.ema.model if training.ema else training.detector
    rt.broadcast([*model.buffers()])  # statistics of norms: rank 0's are those saved
    results, _ = evaluation.evaluate(
        model,
        data.val,
        state.recipe,
        rt,
        images_per_gpu=state.recipe.schedule.images_per_gpu,
        workers=workers,
        stored=data.val_proposals,
    )
    if rt.is_main:
        evaluation.save_results(results, state.step, path)
        rt.say(tables.metrics(results))
