"""Early stopping: a run that is killed, wherever, ends at the same step with the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fasterrcnn.engine import results, resume, training
from fasterrcnn.errors import UsageError
from tests.commands.runs import assert_same_bits, rows, run

SCORES = {1: 0.1, 2: 0.2, 3: 0.15, 4: 0.3, 5: 0.2, 6: 0.3, 7: 0.9, 8: 0.9}
FLAGS = ("--steps", "8", "--eval-every", "1", "--log-every", "1", "--keep", "9")
PATIENT = (*FLAGS, "--patience", "2")


@pytest.fixture(autouse=True)
def _scores_by_hand(monkeypatch):
    """The AP of each step is that of `SCORES`; the rest is as it was measured."""
    save = results.save

    def write(evaluation, metrics, *args, **kwargs):
        return save(evaluation, {**metrics, "AP": SCORES[evaluation.step]}, *args, **kwargs)

    monkeypatch.setattr(results, "save", write)


def evaluated(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / results.FILE).read_text().splitlines()]


def test_it_stops_says_why_and_how_to_go_on(shapes_folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "run"
    last = run(shapes_folder, out, *PATIENT)
    text = capsys.readouterr().out
    assert last.name == "step-00000006"
    assert evaluated(out) == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows(out)] == [1, 2, 3, 4, 5, 6]
    why = "no better AP in 2 evaluations since step 4 (30.0)"
    assert f"stopped early: {why}; a larger --patience, or 0, continues the run" in text
    assert "done: 6 steps" in text
    status = json.loads((out / "status.json").read_text())
    assert (status["code"], status["step"]) == (0, 6)

    for more in ((), ("--resume",)):
        with pytest.raises(UsageError) as error:
            run(shapes_folder, out, *PATIENT, *more)
        assert f"finished at step 6: {why}; train longer with a larger --patience" in str(
            error.value
        )
    run(shapes_folder, out, *PATIENT, "--skip-finished")
    assert "already finished, 6 steps" in capsys.readouterr().out
    longer = run(shapes_folder, out, *FLAGS, "--patience", "3")
    assert longer.name == "step-00000008"
    assert_same_bits(longer, run(shapes_folder, tmp_path / "never", *FLAGS))


def before(module, name: str, step: int, monkeypatch) -> None:
    """The process dies when it calls a function for the `step`-th time; once."""
    original, calls = getattr(module, name), []

    def die(*args, **kwargs):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, die)


@pytest.mark.parametrize("step", [3, 5, 6])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        pytest.param(training, "train_step", id="before a step"),
        pytest.param(training, "evaluate", id="between checkpoint and evaluation"),
        pytest.param(resume, "save", id="before a checkpoint"),
        pytest.param(training, "find_stall", id="after the evaluation"),
    ],
)
def test_wherever_it_is_killed_it_ends_at_the_same_step(
    shapes_folder: Path,
    tmp_path: Path,
    undisturbed: Path,
    monkeypatch,
    module,
    name: str,
    step: int,
):
    out = tmp_path / "run"
    calls = step + 2 if name == "find_stall" else step  # two calls before the first step
    before(module, name, calls, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(shapes_folder, out, *PATIENT)
    if (name, step) == ("find_stall", 6):  # all was done but to say so
        with pytest.raises(UsageError, match="finished at step 6: no better AP in 2 evaluations"):
            run(shapes_folder, out, *PATIENT)
    else:
        run(shapes_folder, out, *PATIENT)
    assert_same_bits(undisturbed, max((out / "checkpoints").glob("step-*")))
    assert evaluated(out) == [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def undisturbed(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run of 6 steps."""
    flags = (*FLAGS, "--steps", "6", "--val-split", "none")
    return run(shapes_folder, tmp_path_factory.mktemp("runs") / "run", *flags)


@pytest.mark.parametrize(
    "flags",
    [
        ("--patience", "-1"),
        ("--patience", "2", "--val-split", "none"),
        ("--patience", "2", "--eval-every", "0"),
    ],
)
def test_patience_needs_something_to_wait_for(shapes_folder: Path, tmp_path: Path, flags: tuple):
    with pytest.raises(UsageError, match="--patience: ") as error:
        run(shapes_folder, tmp_path / "run", *flags)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
