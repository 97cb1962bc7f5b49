"""Learning rate and intervals as pure functions of the step; there is no scheduler state."""

from __future__ import annotations

import math
from typing import NamedTuple

from fasterrcnn.recipes import Schedule


class Origin(NamedTuple):
    """Where epochs are counted from: `epoch` of them were done before `step`.

    Other than 0 and 0 only in a run whose batch size was changed on the way (`engine.history`).
    """

    step: int = 0
    epoch: float = 0.0

    def step_of(self, epoch: float, steps_per_epoch: int) -> int:
        """The step before which `epoch` epochs are done."""
        return self.step + round((epoch - self.epoch) * steps_per_epoch)

    def epoch_at(self, step: int, steps_per_epoch: int) -> float:
        """The epochs done before `step`."""
        return self.epoch + (step - self.step) / steps_per_epoch


START = Origin()


def total_steps(schedule: Schedule, steps_per_epoch: int, origin: Origin = START) -> int:
    """Number of optimizer steps in the whole schedule, at least 1."""
    return max(1, origin.step_of(schedule.epochs, steps_per_epoch))


def milestone_steps(
    schedule: Schedule, steps_per_epoch: int, origin: Origin = START
) -> tuple[int, ...]:
    """Steps (from 0) at which the learning rate is multiplied by gamma."""
    return tuple(origin.step_of(epoch, steps_per_epoch) for epoch in schedule.milestones)


def lr_at(step: int, schedule: Schedule, steps_per_epoch: int, origin: Origin = START) -> float:
    """Learning rate of optimizer step `step` (from 0).

    Linear warm-up from ``warmup_factor * lr`` (step 0) to ``lr`` (step `warmup_steps`), as in
    torch.optim.lr_scheduler.LinearLR, times the fall, which counts from step 0 too: Detectron2's
    WarmupMultiStepLR and WarmupCosineLR.
    """
    if schedule.lr_scheduler == "cosine":
        done = min(1.0, step / total_steps(schedule, steps_per_epoch, origin))
        lr = schedule.lr * 0.5 * (1.0 + math.cos(math.pi * done))
    else:
        passed = sum(step >= at for at in milestone_steps(schedule, steps_per_epoch, origin))
        lr = schedule.lr * schedule.gamma**passed
    if step < schedule.warmup_steps:
        done = step / schedule.warmup_steps
        lr *= schedule.warmup_factor + (1.0 - schedule.warmup_factor) * done
    return lr


def due(step: int, every: int, last: int) -> bool:
    """Whether `step` completed steps are a multiple of `every`, or all of `last`.

    `every` = 0: only after the last step.
    """
    return step == last or (every > 0 and step % every == 0)


def describe(
    schedule: Schedule, steps_per_epoch: int, last_step: int, origin: Origin = START
) -> str:
    """Log line about the learning rate of a run of `last_step` steps."""
    total = total_steps(schedule, steps_per_epoch, origin)
    if schedule.lr_scheduler == "cosine":
        fall = f"cosine to 0 at step {total}"
    else:
        fall = ", ".join(
            f"{lr_at(step, schedule, steps_per_epoch, origin):g} from step {step}"
            for step in milestone_steps(schedule, steps_per_epoch, origin)
            if step < last_step
        )
    text = (
        f"schedule: {last_step} steps of {schedule.images_per_step} images, {steps_per_epoch} per "
        f"epoch; learning rate {schedule.lr:g} after {schedule.warmup_steps} warm-up steps"
    )
    text += f", {fall}" if fall else ""
    if schedule.lr_scheduler == "cosine" and last_step > total:
        text += f"\nnote: nothing is learned from step {total} on; --epochs makes the cosine longer"
    if schedule.warmup_steps >= last_step:
        text += (
            f"\nnote: the run ends before warm-up does, at learning rate "
            f"{lr_at(last_step - 1, schedule, steps_per_epoch, origin):g}; "
            "--schedule.warmup-steps shortens it"
        )
    return text
