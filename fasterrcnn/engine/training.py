"""The training loop: the only one of this project."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fasterrcnn import schedule
from fasterrcnn.data import augment, loader
from fasterrcnn.data.sampler import Plan
from fasterrcnn.data.stand_ins import StandIns
from fasterrcnn.engine import checkpoint, early_stop, evaluation, results, resume, signals
from fasterrcnn.engine.metric_log import MetricLog, Step
from fasterrcnn.engine.run_data import RunData
from fasterrcnn.engine.run_folder import METRICS, RunFolder
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.engine.step import Training, train_step
from fasterrcnn.engine.tracking import Trackers
from fasterrcnn.errors import DataError, Failure
from fasterrcnn.models import views
from fasterrcnn.reports import tables


@dataclass(frozen=True)
class Intervals:
    """Steps between what happens besides training; 0: only after the last step."""

    log: int
    evaluate: int
    save: int
    keep: int  # checkpoints kept, at least 2, the best one besides
    patience: int  # evaluations without a better one after which training ends; 0: it does not


def train(
    training: Training,
    state: checkpoint.State,
    data: RunData,
    plan: Plan,
    intervals: Intervals,
    workers: int,
    folder: RunFolder,
    trackers: Trackers,
    rt: Runtime,
) -> str | None:
    """Train from ``state.step`` to ``state.last_step``; why it ended before, if it did.

    The host waits for the device only when something is due. Raises Stopped after a signal to any
    rank, or DataError for an image, at the next step boundary, with the state saved.
    """
    recipe, last, per_epoch = state.recipe, state.last_step, plan.steps_per_epoch
    first, saved = state.step + 1, state.step
    catch_up(training, state, data, intervals, workers, folder, trackers, rt)
    stalled = find_stall(state, intervals, folder, rt)
    log = MetricLog(
        rt,
        folder.path / METRICS,
        first_step=state.step,
        last_step=last,
        epoch_at=plan.epoch_at,
        images_per_step=recipe.schedule.images_per_step,
        micro_batches_per_step=plan.micro_batches_per_step,
        may_overflow=training.scaler.is_enabled(),
        trackers=trackers,
    )
    stream = load(state, data, plan, workers, rt)
    own = len(plan.share(rt.rank, rt.ranks))  # ranks can differ by one
    while state.step < last and stalled is None:
        started = time.monotonic()
        batches, fault = loader.take(stream, own)
        log.add_wait(time.monotonic() - started)
        known = len(data.bad.replaced)
        stop = stop_reason(batches, fault, data, folder, rt)
        if stop is not None:
            log.flush()  # before saving: a diverged run raises here
            if state.step > saved:
                rt.on_main(lambda: resume.save(training, state, folder, intervals.keep))
            raise stopped(stop, state.step, folder.checkpoints)
        lr = schedule.lr_at(state.step, recipe.schedule, per_epoch, plan.origin)
        scalars, grad_norm = train_step(
            training, batches, recipe, lr, rt, plan.micro_batches_per_step
        )
        log.add(Step(state.step, lr, [n for b in batches for n in b.names], scalars, grad_norm))
        state.step += 1
        if len(data.bad.replaced) > known:  # else a file that is mended would be used again
            stream = load(state, data, plan, workers, rt)

        if state.step == first or schedule.due(state.step, intervals.log, last):
            log.flush()
        evaluating = data.val is not None and schedule.due(state.step, intervals.evaluate, last)
        if not (evaluating or schedule.due(state.step, intervals.save, last)):
            continue
        log.flush()
        path = rt.on_main(lambda: resume.save(training, state, folder, intervals.keep))
        saved = state.step
        if evaluating:
            evaluate(training, state, data, path, workers, trackers, rt)
            stalled = find_stall(state, intervals, folder, rt)
        log.start_clock()
    log.close()
    return stalled


def catch_up(
    training: Training,
    state: checkpoint.State,
    data: RunData,
    intervals: Intervals,
    workers: int,
    folder: RunFolder,
    trackers: Trackers,
    rt: Runtime,
) -> None:
    """Make evaluations and trackers those of a run that has just reached ``state.step``."""
    if rt.is_main:
        results.cut(folder.path, state.step)
        trackers.repeat(state.step, state.data["val_digest"])
    if rt.on_main(lambda: resume.lacks_evaluation(state, intervals.evaluate, folder)):
        path = checkpoint.path_of(folder.checkpoints, state.step)
        evaluate(training, state, data, path, workers, trackers, rt)


def find_stall(
    state: checkpoint.State, intervals: Intervals, folder: RunFolder, rt: Runtime
) -> str | None:
    """Why the run ends at ``state.step`` already, the same on every rank; None if it goes on."""
    every, patience = intervals.evaluate, intervals.patience
    return rt.on_main(lambda: early_stop.reason(folder.path, state, every, patience))


def load(
    state: checkpoint.State, data: RunData, plan: Plan, workers: int, rt: Runtime
) -> Iterator[loader.Batch]:
    """The batches of this rank from ``state.step`` on."""
    stand_ins = StandIns(plan.bucket, data.bad.positions(data.train), skip=data.bad.skip)
    images = loader.Images(
        data.train,
        flip=state.recipe.input.flip,
        seed=state.recipe.seed,
        proposals=data.proposals,
        stand_ins=stand_ins,
        augment=augment.of(state.recipe),
    )
    micro_batches = plan.micro_batches(state.step, state.last_step, rt.rank, rt.ranks)
    return loader.load(images, micro_batches, workers=workers, pin_memory=rt.pin_memory)


def stop_reason(
    batches: list[loader.Batch],
    fault: DataError | None,
    data: RunData,
    folder: RunFolder,
    rt: Runtime,
) -> DataError | int | None:
    """Why the run stops before its next step: an image, or a signal; the same on every rank.

    Images that others replace from now on are added to the bad ones, and listed.
    """
    own: DataError | dict[int, str] | None = fault or data.bad.new(data.train, batches) or None
    told: tuple[int, list[DataError | dict[int, str]]] = rt.agree(own)
    number, news = told
    for damaged in news:
        if isinstance(damaged, DataError):
            return damaged
        for line in data.bad.replace(data.train, damaged, folder.problems if rt.is_main else None):
            rt.say(line)
    return number or None


def stopped(reason: DataError | int, step: int, checkpoints: Path) -> Failure:
    """What to raise for a `stop_reason` once the state is saved."""
    path = checkpoint.path_of(checkpoints, step)
    saved = f"step {step} saved in {path}" if step else "before the first step"
    after = f"{saved}; the same command continues the run"
    if isinstance(reason, DataError):
        return DataError(f"{reason}; {after}")
    return signals.stopped(reason, after)


def evaluate(
    training: Training,
    state: checkpoint.State,
    data: RunData,
    path: Path,
    workers: int,
    trackers: Trackers,
    rt: Runtime,
) -> None:
    """Evaluate the averaged weights if there are any, else the trained ones.

    `path`: their checkpoint, which gets the results.
    """
    assert data.val is not None
    model = training.ema.model if training.ema else training.detector
    rt.broadcast([*model.buffers()])  # statistics of norms: rank 0's are those saved
    try:
        metrics, detections = evaluation.evaluate(
            model,
            data.val,
            state.recipe,
            rt,
            images_per_gpu=state.recipe.schedule.images_per_gpu,
            workers=workers,
            stored=data.val_proposals,
            metric=evaluation.metric_of_run(state),
            also=views.of_recipe(state.recipe),
        )
    except DataError as error:
        raise stopped(error, state.step, path.parent) from None
    if rt.is_main:
        rt.say(tables.metrics(metrics))
        source = evaluation.find_source(state, None, None, None)
        done = results.Evaluation(
            step=state.step,
            split=source.name,
            digest=state.data["val_digest"],
            images=len(data.val),
            data_path=str(source.root),
            dataset=source.dataset,
        )
        row = results.save(done, metrics, detections, path, own=True)
        trackers.log("val", [row])
