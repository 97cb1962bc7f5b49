"""`--max-restarts` through the launchers: a run whose processes are killed ends by itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fasterrcnn.engine.run_folder import read_rows
from fasterrcnn.errors import UsageError
from tests.commands.processes import (
    ALL,
    HANG,
    ONE,
    left_after,
    processes_of,
    run_folder,
    start,
    train,
    wait_for_step,
)
from tests.commands.runs import assert_same_bits, refused, rows

__all__ = ["run_folder"]  # a fixture


@pytest.mark.slow
@pytest.mark.parametrize(("script", "ngpu"), [(ONE, 1), (ALL, 2)])
def test_killed_processes_are_restarted_and_end_with_the_same_bits(
    shapes_folder: Path, run_folder: Path, script: Path, ngpu: int
):
    """A rank is killed twice; at the end its supervisor is, and no process is left."""
    flags = ("--data-path", shapes_folder, "--val-split", "none", "--max-restarts", 1)
    flags += ("--save-every", 2, "--log-every", 1, "--workers", 1, "--steps", 14)
    whole = train(script, run_folder.with_name("whole"), *flags, ngpu=ngpu)
    process = start(script, run_folder, *flags, ngpu=ngpu)
    for step in (4, 8):
        wait_for_step(run_folder, step, process)
        os.kill(newest_rank(run_folder, process.pid, ngpu), signal.SIGKILL)
    assert process.wait(timeout=HANG) == 0
    assert left_after(run_folder) == {}
    log = run_folder.with_suffix(".log").read_text()
    assert "Traceback" not in log
    ends = [*read_rows(run_folder / "interventions.jsonl")]
    assert [row["code"] for row in ends] == [-9 if ngpu == 1 else 7] * 2
    assert 2 <= ends[0]["step"] < ends[1]["step"] < 14
    assert [row["step"] for row in rows(run_folder)] == [*range(1, 15)]
    last = max((run_folder / "checkpoints").glob("step-*"))
    assert_same_bits(whole, last)

    process = start(script, run_folder, *flags[:-1], 900, "--resume", ngpu=ngpu)
    wait_for_step(run_folder, 16, process)
    process.kill()
    process.wait()
    assert left_after(run_folder) == {}


def newest_rank(run: Path, supervisor: int, ngpu: int) -> int:
    """A training process: a child of the supervisor or, of several, of torchrun below it."""
    parents = processes_of(run)
    (child,) = [pid for pid, parent in parents.items() if parent == supervisor]
    return child if ngpu == 1 else max(p for p, parent in parents.items() if parent == child)


def test_the_command_checks_the_number(shapes_folder: Path, tmp_path: Path):
    text = refused(UsageError, shapes_folder, tmp_path, "--max-restarts", "-1")
    assert text == "--max-restarts: -1: must be 0 or more"
