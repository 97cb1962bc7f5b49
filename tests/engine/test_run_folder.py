"""Run folders: one run at a time, and how it ended."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from fasterrcnn.engine import signals
from fasterrcnn.engine.run_folder import RunFolder
from fasterrcnn.errors import DataError, UsageError


def test_one_run_at_a_time_of_many_that_start_at_once(tmp_path: Path):
    """Twenty processes; the lock goes with the process that has it."""
    read, write = os.pipe()
    hold, release = os.pipe()
    children = []
    for _ in range(20):
        child = os.fork()
        if child == 0:
            os.close(release)
            try:
                folder = RunFolder(tmp_path / "run")
                folder.open()
                os.write(write, b"1")
                os.read(hold, 1)
            except UsageError as error:
                os.write(write, b"0" if "in use by" in str(error) else b"?")
            finally:
                os._exit(0)
        children.append(child)
    answers = b""
    while len(answers) < 20:
        answers += os.read(read, 20)
    assert sorted(answers) == sorted(b"1" + 19 * b"0")
    os.close(release)
    os.close(hold)
    for child in children:
        os.waitpid(child, 0)
    RunFolder(tmp_path / "run").open()  # free again


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, {"code": 0, "kind": "Done", "message": ""}),
        (DataError("bad box"), {"code": 3, "kind": "DataError", "message": "bad box"}),
        (KeyError("x"), {"code": 1, "kind": "KeyError", "message": "'x'"}),
    ],
)
def test_outcome(tmp_path: Path, error: Exception | None, expected: dict):
    folder = RunFolder(tmp_path)
    try:
        with folder.outcome() as status:
            folder.open()
            status["step"] = 7
            if error:
                raise error
    except type(error or Exception) as raised:
        assert raised is error
    assert json.loads((tmp_path / "status.json").read_text()) == expected | {"step": 7}


def test_a_signal_that_ends_the_process_at_once_is_an_outcome(tmp_path: Path):
    child = os.fork()
    if child == 0:
        signals.end_at_once(print)
        folder = RunFolder(tmp_path)
        with folder.outcome() as status:
            folder.open()
            status["step"] = 7
            os.kill(os.getpid(), signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["code"], status["kind"], status["step"]) == (130, "Stopped", 7)
    assert status["message"].startswith("SIGINT: no step was under way")


def test_another_runs_folder_is_left_alone(tmp_path: Path):
    owner = RunFolder(tmp_path)
    owner.open()
    other = RunFolder(tmp_path)
    with pytest.raises(UsageError), other.outcome():
        other.open()
    assert not (tmp_path / "status.json").exists()
