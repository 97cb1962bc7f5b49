"""What trackers are given, and that none of them stops a training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from fasterrcnn.engine import results, tracking
from fasterrcnn.engine.run_folder import METRICS, RunFolder
from fasterrcnn.engine.tracking import Run, Trackers
from fasterrcnn.errors import UsageError

OWN = {"digest": "own", "split": "val", "changed": [], "images": 8}


class Fake:
    """Remembers what it is told; fails when it is told to."""

    made: ClassVar[list[Fake]] = []
    fails = ""

    def __init__(self, run: Run) -> None:
        self.id = run.id or "new"
        self.run = run
        self.given: list[tuple] = []
        self.made.append(self)
        self._fail("start")

    def log(self, values: dict[str, float], step: int) -> None:
        self._fail("log")
        self.given.append((step, values))

    def flush(self) -> None:
        self.flushed = len(self.given)

    def close(self) -> None:
        self._fail("close")

    def _fail(self, name: str) -> None:
        if name == self.fails:
            raise RuntimeError(f"no\nnetwork in {name}")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    monkeypatch.setattr(Fake, "made", [])
    monkeypatch.setattr(Fake, "fails", "")
    monkeypatch.setitem(tracking.TRACKERS, "fake", Fake)


def trackers(run: Path, step: int = 0) -> Trackers:
    return Trackers(("fake", "fake"), RunFolder(run), step, {"seed": 0})


def test_scalars_of_rows_by_name(tmp_path: Path):
    made = trackers(tmp_path)
    row = {"step": 1, "lr": 0.1, "loss_classifier": 2.0, "grad_norm": None, "skipped": True}
    made.log("train", [row, {"step": 2, "lr": 0.2}])
    made.log("val", [{"step": 2, **OWN, "AP": 0.5, "AP50": None, "per_class": {"cat": {"AP": 1}}}])
    (fake,) = Fake.made
    assert fake.given == [
        (1, {"train/lr": 0.1, "train/loss_classifier": 2.0}),
        (2, {"train/lr": 0.2}),
        (2, {"val/AP": 0.5}),
    ]
    assert fake.flushed == 3  # before a checkpoint of the step is saved
    assert fake.run == Run(tmp_path, 0, {"seed": 0}, None)


def test_a_continued_run_is_the_same_and_is_given_nothing_twice(tmp_path: Path):
    trackers(tmp_path).log("train", [{"step": n, "lr": 0.1} for n in (1, 2, 3)])
    made = trackers(tmp_path, step=2)
    made.log("train", [{"step": 3, "lr": 0.1}, {"step": 4, "lr": 0.1}])
    made.log("val", [{"step": 2, **OWN, "AP": 0.5}])
    assert [step for step, _ in Fake.made[1].given] == [4, 2]
    assert Fake.made[1].run.id == "new"
    known = json.loads((tmp_path / "trackers.json").read_text())
    assert known == {"fake": {"id": "new", "train": 4, "val": 2}}


def test_what_a_killed_process_had_written_but_not_given_is_given_on_resume(tmp_path: Path):
    """Only the run's own evaluation of that step."""
    (tmp_path / METRICS).write_text("".join(f'{{"step": {n}, "lr": 0.1}}\n' for n in (1, 2, 3)))
    rows = [{"step": n, **OWN, "AP": 0.5} for n in (1, 2)]
    rows += [{"step": 2, **OWN, "digest": "other", "AP": 0.9}]
    (tmp_path / results.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = trackers(tmp_path, step=2)
    made.repeat(2, "own")
    assert Fake.made[0].given == [(2, {"train/lr": 0.1}), (2, {"val/AP": 0.5})]
    made.repeat(2, "own")
    assert len(Fake.made[0].given) == 2


@pytest.mark.parametrize("when", ["start", "log", "close"])
def test_a_tracker_that_fails_is_one_note(tmp_path: Path, monkeypatch, capsys, when: str):
    monkeypatch.setattr(Fake, "fails", when)
    made = trackers(tmp_path)
    for step in (1, 2):
        made.log("train", [{"step": step, "lr": 0.1}])
    made.close()
    assert capsys.readouterr().out.splitlines() == [
        f"note: --track fake failed and is left out from here on: no network in {when}"
    ]


def test_names_are_checked(monkeypatch):
    with pytest.raises(UsageError, match="--track: tensorbord: unknown; choose from tensorboard"):
        tracking.check(["tensorbord"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="--track: wandb: is not installed; pip install wandb"):
        tracking.check(["wandb"])
    tracking.check([])


# The trackers themselves, where they are installed, without a network


def two_processes(name: str, run: Path) -> str:
    """Steps 1 to 3, then 2 to 4 in a second process; the id of the run."""
    for first, last in ((1, 3), (2, 4)):
        made = Trackers((name,), RunFolder(run), first - 1, {"seed": 0})
        for step in range(first, last + 1):
            made.log("train", [{"step": step, "lr": step / 10}])
        made.log("val", [{"step": last, **OWN, "AP": last / 10}])
        made.close()
    return json.loads((run / "trackers.json").read_text())[name].get("id")


def test_wandb_offline(tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for kind in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{kind}_DIR", str(tmp_path / kind))
    id = two_processes("wandb", tmp_path)
    assert "note: --track" not in capsys.readouterr().out
    assert len([*tmp_path.glob(f"wandb/offline-run-*/run-{id}.wandb")]) == 2


def test_mlflow_in_a_folder(tmp_path: Path, monkeypatch, capsys):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    id = two_processes("mlflow", tmp_path)
    assert "note: --track" not in capsys.readouterr().out
    history = mlflow.MlflowClient().get_metric_history(id, "train/lr")
    assert [(point.step, point.value) for point in history] == [
        (n, pytest.approx(n / 10)) for n in (1, 2, 3, 4)
    ]
    assert mlflow.get_run(id).data.params == {"seed": "0"}


def test_trackio_on_this_machine(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="trackio is not installed")
    id = two_processes("trackio", tmp_path)
    assert "note: --track" not in capsys.readouterr().out
    (run,) = trackio.Api().runs("fasterrcnn")
    assert run.name == id
