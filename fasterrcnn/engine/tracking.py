"""Sends the metrics of a run to trackers while it trains.

Rank 0 gives them the rows of metrics.jsonl and evaluations.jsonl, as train/loss_classifier,
train/lr, val/AP and so on, each once: a run that was killed repeats the steps since its last
checkpoint. TensorBoard forgets these. Of the others, RUN/trackers.json says which run of theirs
this one is and how far they have come; what they have they are not given again.

A tracker that fails is not used any more, and one note says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from tqdm import tqdm

from fasterrcnn.engine import results
from fasterrcnn.engine.run_folder import METRICS, RunFolder, read_json, read_rows
from fasterrcnn.errors import UsageError

_PROJECT = "fasterrcnn"  # unless the environment names another
_MLFLOW_PARAMS = 100  # that it takes at once
_NO_METRICS = ("step", "images")
Row = dict[str, Any]


@dataclass
class Run:
    """What a tracker is told when it starts."""

    path: Path
    step: int  # done already
    config: dict[str, Any]
    id: str | None  # the tracker's own, if this run was tracked before


class Tracker(Protocol):
    """Takes scalars by name."""

    id: str | None  # of its run, to continue it

    def log(self, values: dict[str, float], step: int) -> None:
        """Take the values of a step."""

    def flush(self) -> None:
        """Keep what was taken, even if this process is killed."""

    def close(self) -> None:
        """End the run."""


class TensorBoard:
    """Event files in RUN/tensorboard. Readers drop what earlier ones have from `step` on."""

    id: str | None = None

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(run.path / "tensorboard", purge_step=run.step)

    def log(self, values: dict[str, float], step: int) -> None:
        """A scalar per name."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write to the file."""
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, whose axis is `step`: its own counter can only grow."""

    def __init__(self, run: Run) -> None:
        import wandb

        self.id: str | None = run.id or uuid4().hex
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=self.id,
            name=run.path.name,
            dir=run.path,
            config=run.config,
            resume="allow",
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, values: dict[str, float], step: int) -> None:
        """A row of its history."""
        self.run.log({**values, "step": step})

    def flush(self) -> None:
        """Nothing: a process of its own has the values."""

    def close(self) -> None:
        """Wait until they are sent."""
        self.run.finish()


class Mlflow:
    """A run of MLflow, where MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say."""

    def __init__(self, run: Run) -> None:
        import mlflow

        self.module = mlflow
        started = mlflow.start_run(run_id=run.id, run_name=None if run.id else run.path.name)
        self.id: str | None = started.info.run_id
        if run.id is None:
            items = [*run.config.items()]
            for first in range(0, len(items), _MLFLOW_PARAMS):
                mlflow.log_params(dict(items[first : first + _MLFLOW_PARAMS]))

    def log(self, values: dict[str, float], step: int) -> None:
        """A point of each metric."""
        self.module.log_metrics(values, step=step)

    def flush(self) -> None:
        """Nothing: values are sent as they are logged."""

    def close(self) -> None:
        """Mark the run as finished."""
        self.module.end_run()


class Trackio:
    """A run of trackio, known by its name; it stays on this machine unless TRACKIO_SPACE_ID is
    set."""

    def __init__(self, run: Run) -> None:
        import trackio

        self.id: str | None = run.id or f"{run.path.name}-{uuid4().hex[:8]}"
        project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
        self.run = trackio.init(project=project, name=self.id, config=run.config, resume="allow")

    def log(self, values: dict[str, float], step: int) -> None:
        """A row of its table."""
        self.run.log(values, step=step)

    def flush(self) -> None:
        """Nothing: a thread writes them at once."""

    def close(self) -> None:
        """Wait until they are written."""
        self.run.finish()


TRACKERS: dict[str, Callable[[Run], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}


def check(names: Iterable[str]) -> None:
    """Raise UsageError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"--track: {name}: unknown; choose from {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise UsageError(f"--track: {name}: is not installed; pip install {name}")


class Trackers:
    """The trackers of a run, by name; none on other ranks than 0."""

    def __init__(
        self, names: Iterable[str], folder: RunFolder, step: int, config: dict[str, Any]
    ) -> None:
        self._folder = folder
        self._open: dict[str, Tracker] = {}
        self._known = _read(folder.path / "trackers.json")
        for name in dict.fromkeys(names):
            record = self._known.setdefault(name, {})
            run = Run(folder.path, step, config, record.get("id"))
            self._try(name, partial(self._start, name, run))

    def log(self, kind: str, rows: Iterable[Row]) -> None:
        """Give rows to all trackers: of metrics.jsonl ("train") or evaluations.jsonl ("val")."""
        rows = list(rows)
        for name in [*self._open]:
            self._try(name, partial(self._feed, name, kind, rows))

    def repeat(self, step: int, digest: str | None) -> None:
        """Give the rows of `step`, at which a run continues, to those that may lack them. `digest`:
        of its validation split."""
        if not self._open:
            return
        path = self._folder.path
        for kind, rows in (
            ("train", read_rows(path / METRICS)),
            ("val", results.own(path, digest)),
        ):
            self.log(kind, [row for row in rows if row["step"] == step])

    def close(self) -> None:
        """End the runs of all trackers."""
        for name, tracker in [*self._open.items()]:
            self._try(name, tracker.close)

    def _start(self, name: str, run: Run) -> None:
        self._open[name] = tracker = TRACKERS[name](run)
        if tracker.id is None:  # it forgets what comes again
            self._known[name] = {"train": run.step - 1, "val": run.step - 1}
        else:
            self._known[name]["id"] = tracker.id
        self._folder.write_json("trackers.json", self._known)

    def _feed(self, name: str, kind: str, rows: list[Row]) -> None:
        tracker, record = self._open[name], self._known[name]
        new = [row for row in rows if row["step"] > record.get(kind, 0)]
        for row in new:
            tracker.log(_values(kind, row), row["step"])
        tracker.flush()
        if new:
            record[kind] = new[-1]["step"]
            self._folder.write_json("trackers.json", self._known)

    def _try(self, name: str, work: Callable[[], None]) -> None:
        """Training goes on whatever a tracker raises."""
        try:
            work()
        except Exception as error:
            self._open.pop(name, None)
            reason = " ".join(str(error).split()) or type(error).__name__
            tqdm.write(f"note: --track {name} failed and is left out from here on: {reason}")


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """What is known of the trackers of a run, by name."""
    return {name: known for name, known in read_json(file).items() if isinstance(known, dict)}


def _values(kind: str, row: Row) -> dict[str, float]:
    """The scalars of a row."""
    return {
        f"{kind}/{name}": value
        for name, value in row.items()
        if name not in _NO_METRICS
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    }
