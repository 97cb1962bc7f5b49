"""TensorBoard's files read back: every step once, however often the run was killed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fasterrcnn.engine import resume, training
from fasterrcnn.engine.tracking import Trackers
from fasterrcnn.errors import UsageError
from tests.commands.processes import ONE, left_after, run_folder, start, train, wait_for_step
from tests.commands.runs import assert_same_bits, rows, run
from tests.commands.test_patience import before

__all__ = ["run_folder"]  # a fixture
STEPS = ("--steps", "6", "--eval-every", "2", "--save-every", "3", "--log-every", "2")
TRACKED = (*STEPS, "--track", "tensorboard")


def read(out: Path) -> dict[str, dict[int, float]]:
    """The scalars in the files of a run: name -> step -> value; no step twice."""
    reason = "tensorboard is not installed"
    files = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=reason
    )
    found = files.EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    scalars = {}
    for name in found.Tags()["scalars"]:
        events = found.Scalars(name)
        scalars[name] = {event.step: event.value for event in events}
        assert len(scalars[name]) == len(events), name
    return scalars


def assert_is_the_log(out: Path, steps: int) -> None:
    """The files have every step of metrics.jsonl and every evaluation."""
    scalars = read(out)
    for name in ("lr", "loss_classifier", "loss_box_reg", "grad_norm", "roi_accuracy"):
        logged = {row["step"]: pytest.approx(row[name], rel=1e-6) for row in rows(out)}
        assert scalars[f"train/{name}"] == logged, name
    assert [*scalars["train/lr"]] == [*range(1, steps + 1)]
    for name in ("AP", "AP50", "validation_loss"):
        assert [*scalars[f"val/{name}"]] == [n for n in range(1, steps + 1) if n % 2 == 0], name


@pytest.fixture(scope="module")
def undisturbed(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run without trackers."""
    return run(shapes_folder, tmp_path_factory.mktemp("runs") / "run", *STEPS)


def test_a_whole_run(shapes_folder: Path, tmp_path: Path, undisturbed: Path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    last = run(shapes_folder, tmp_path / "run", *TRACKED)
    assert_is_the_log(tmp_path / "run", 6)
    assert_same_bits(undisturbed, last)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        pytest.param(training, "train_step", 6, id="in a step after a log line"),
        pytest.param(training, "evaluate", 2, id="between checkpoint and evaluation"),
        pytest.param(training, "find_stall", 4, id="after an evaluation"),
        pytest.param(resume, "save", 3, id="between log and checkpoint"),
        pytest.param(Trackers, "log", 8, id="before a row of evaluations.jsonl is tracked"),
        pytest.param(Trackers, "log", 7, id="before rows of metrics.jsonl are tracked"),
    ],
)
def test_killed_and_continued(
    shapes_folder: Path, tmp_path: Path, undisturbed: Path, monkeypatch, module, name, call
):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        before(module, name, call, patched)
        with pytest.raises(KeyboardInterrupt):
            run(shapes_folder, out, *TRACKED)
    time.sleep(1)  # files of one process are ordered by the second in which they were made
    last = run(shapes_folder, out, *TRACKED)
    assert_is_the_log(out, 6)
    assert_same_bits(undisturbed, last)


def test_a_killed_process(shapes_folder: Path, run_folder: Path):
    """kill -9, at a step that no checkpoint has."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    flags = ("--data-path", shapes_folder, "--steps", 12, "--track", "tensorboard")
    flags += ("--eval-every", 2, "--save-every", 5, "--log-every", 1)
    process = start(ONE, run_folder, *flags)
    wait_for_step(run_folder, 7, process)
    process.kill()
    process.wait()
    assert left_after(run_folder) == {}
    assert len(rows(run_folder)) < 12
    train(ONE, run_folder, *flags)
    assert "continuing at step" in run_folder.with_suffix(".log").read_text()
    assert_is_the_log(run_folder, 12)


def test_a_tracker_that_cannot_write_does_not_stop_the_run(
    shapes_folder: Path, tmp_path: Path, capsys, undisturbed: Path
):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    out = tmp_path / "run"
    out.mkdir()
    (out / "tensorboard").write_text("in the way")
    assert_same_bits(undisturbed, run(shapes_folder, out, *TRACKED))
    assert capsys.readouterr().out.count("note: --track tensorboard failed and is left out") == 1


def test_wrong_names_are_refused_before_anything_is_touched(shapes_folder: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="--track: tensorbaord: unknown"):
        run(shapes_folder, tmp_path / "run", "--track", "tensorbaord")
    assert not (tmp_path / "run").exists()
