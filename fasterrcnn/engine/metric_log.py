"""Reports training metrics: progress bar, log lines, metrics.jsonl.

Only this module reads scalars of training from the device. Between two log steps they stay there; a
log step synchronizes once, averages over the micro-batches of all ranks, writes one json line per
step and checks that values are finite.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from fasterrcnn.engine.run_folder import row_of
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.engine.tracking import Trackers
from fasterrcnn.errors import GO_ON, Diverged

_MAX_OVERFLOWS = 50  # skipped steps in a row from which fp16 does not recover


class Step(NamedTuple):
    """Scalars of an optimizer step, still on the device."""

    step: int  # from 0
    lr: float
    names: list[str]  # files of this rank's images
    scalars: list[dict[str, Tensor]]  # per micro-batch: losses and diagnostics
    grad_norm: Tensor  # L2, before clipping


class MetricLog:
    """Collects the scalars of steps until `flush` reads them.

    The command runs the steps `first_step` to `last_step` - 1. A step whose gradient is not finite
    was skipped in fp16 (`may_overflow`); otherwise the run diverged.
    """

    def __init__(
        self,
        runtime: Runtime,
        path: Path,
        *,
        first_step: int,
        last_step: int,
        epoch_at: Callable[[int], float],
        images_per_step: int,
        micro_batches_per_step: int,
        may_overflow: bool,
        trackers: Trackers,
    ) -> None:
        self.runtime = runtime
        self.last_step = last_step
        self.epoch_at = epoch_at
        self.images_per_step = images_per_step
        self.micro_batches_per_rank = micro_batches_per_step / runtime.ranks
        self.may_overflow = may_overflow
        self.trackers = trackers
        self._window: list[Step] = []
        self._skipped = self._skipped_in_a_row = 0
        self._file: IO[str] | None = None
        self._bar: tqdm | None = None
        if runtime.is_main:
            _truncate(path, first_step)
            self._file = path.open("a")
            self._bar = tqdm(
                total=last_step, initial=first_step, unit="step", disable=None, dynamic_ncols=True
            )
        self.start_clock()

    def start_clock(self) -> None:
        """Restart timing, to leave out what just happened (an evaluation, a checkpoint)."""
        self._started = time.monotonic()
        self._waited = 0.0

    def add_wait(self, seconds: float) -> None:
        """Count `seconds` spent waiting for the data loader."""
        self._waited += seconds

    def add(self, step: Step) -> None:
        """Add one step, without synchronizing."""
        self._window.append(step)
        if self._bar is not None:
            self._bar.update(1)

    def flush(self) -> None:
        """Synchronize, and report the steps since the last flush.

        Raises Diverged on every rank if a loss is not finite.
        """
        if not self._window:
            return
        keys = [*self._window[0].scalars[0], "grad_norm"]
        own = torch.stack([_row(step, self.micro_batches_per_rank) for step in self._window]).cpu()
        seconds = time.monotonic() - self._started
        mean = self.runtime.mean(own.clone())
        self._stop_if_diverged(keys, own, mean)
        rows = []
        for step, values in zip(self._window, mean.tolist(), strict=True):
            rows.append(
                {"step": step.step + 1, "lr": step.lr, **dict(zip(keys, values, strict=True))}
            )
            if not math.isfinite(rows[-1]["grad_norm"]):
                rows[-1] |= {"grad_norm": None, "skipped": True}
        rows[-1] |= {
            "images_per_s": len(rows) * self.images_per_step / seconds,
            "step_s": seconds / len(rows),
            "data_s": self._waited / len(rows),
            "peak_memory_gb": self.runtime.peak_memory_gb(),
        }
        if self._file is not None:
            self._file.write("".join(json.dumps(row) + "\n" for row in rows))
            self._file.flush()
            assert self._bar is not None  # opened with the file
            self._bar.set_postfix_str(f"loss {_loss(rows[-1]):.3f}")
            tqdm.write(self._line(rows[-1]))
            self.trackers.log("train", rows)
        self._window.clear()
        self.start_clock()

    def close(self) -> None:
        """Close the file and the progress bar."""
        if self._bar is not None:
            self._bar.close()
        if self._file is not None:
            self._file.close()

    def _stop_if_diverged(self, keys: list[str], own: Tensor, mean: Tensor) -> None:
        """Raise Diverged at the first step with a value that is not finite; count skipped steps.

        `own`: rows of this rank, to name the images; `mean`: averages over ranks.
        """
        for step, mine, values in zip(self._window, own, mean, strict=True):
            finite = torch.isfinite(values)
            skipped = self.may_overflow and bool(finite[:-1].all()) and not finite[-1]
            self._skipped += skipped
            self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
            if self._skipped_in_a_row >= _MAX_OVERFLOWS:
                raise Diverged(
                    f"step {step.step + 1}: {_MAX_OVERFLOWS} steps in a row overflowed fp16; "
                    f"try --amp bf16 or a lower --lr; {GO_ON}"
                )
            if bool(finite.all()) or skipped:
                continue
            suspects = step.names if not torch.isfinite(mine).all() else []
            names = [name for names in self.runtime.gather(suspects) or [] for name in names]
            what = ", ".join(key for key, fine in zip(keys, finite, strict=True) if not fine)
            raise Diverged(
                f"step {step.step + 1}: {what} not finite at learning rate {step.lr:g}, images "
                f"{' '.join(names)}; try a lower --lr or --schedule.clip-grad-norm 10; {GO_ON}, "
                "from an older one if the newest is deleted"
            )

    def _line(self, row: dict[str, Any]) -> str:
        """The log line of a step."""
        losses = "  ".join(
            f"{key.removeprefix('loss_')} {value:.4f}"
            for key, value in row.items()
            if key.startswith("loss_")
        )
        eta = timedelta(seconds=round((self.last_step - row["step"]) * row["step_s"]))
        skipped = f"  {self._skipped} skipped" if self._skipped else ""
        return (
            f"step {row['step']}/{self.last_step}  epoch {self.epoch_at(row['step']):.2f}  "
            f"loss {_loss(row):.4f} ({losses})  lr {row['lr']:.3g}  "
            f"{row['images_per_s']:.1f} img/s (step {row['step_s']:.2f} s, "
            f"data {row['data_s']:.2f} s)  {row['peak_memory_gb']:.1f} GiB  eta {eta}{skipped}"
        )


def _row(step: Step, micro_batches_per_rank: float) -> Tensor:
    """float64 ``(scalars + 1,)``: values whose mean over ranks is the mean over all micro-batches
    of each scalar, and the grad norm."""
    values = [
        torch.stack([scalars[key].detach().double() for scalars in step.scalars]).sum()
        / micro_batches_per_rank
        for key in step.scalars[0]
    ]
    return torch.stack([*values, step.grad_norm.detach().double()])


def _loss(row: dict[str, Any]) -> float:
    """The total loss."""
    return sum(value for key, value in row.items() if key.startswith("loss_"))


def _truncate(path: Path, step: int) -> None:
    """Cut the file, in place, at the first incomplete line or one after `step`, so that a resumed
    run logs each step once."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        row = row_of(line)
        if row is None or row["step"] > step:
            break
        kept.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
