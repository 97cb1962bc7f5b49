"""Restarts of real processes: which ends are restarted, how often, and what signals do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fasterrcnn.engine import restarts

# It saves a checkpoint in the first SAVES starts, and ends as CODES say, one after the other.
CHILD = """
import os, pathlib, sys
from fasterrcnn.engine import restarts
restarts.tell(sys.argv[1])
run = pathlib.Path(sys.argv[1])
starts = len(list(run.glob("start-*")))
(run / f"start-{starts}").write_text(" ".join(sys.argv))
if starts < int(os.environ["SAVES"]):
    (run / "checkpoints" / f"step-{10 * (starts + 1):08d}").mkdir(parents=True)
code = int(os.environ["CODES"].split(",")[starts])
os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
"""


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(restarts, "_PAUSE", 0.0)


def supervise(run: Path, monkeypatch, codes: str, *, most: int, saves: int = 0) -> int:
    monkeypatch.setenv("SAVES", str(saves))
    monkeypatch.setenv("CODES", codes)
    return restarts.supervise([sys.executable, "-c", CHILD, str(run)], most)


def test_deaths_and_hangs_are_restarted_until_the_end(tmp_path: Path, monkeypatch, capsys):
    assert supervise(tmp_path, monkeypatch, "-9,7,8,-11,0", most=1, saves=4) == 0
    lines = [json.loads(t) for t in (tmp_path / "interventions.jsonl").read_text().splitlines()]
    assert [(row["step"], row["code"]) for row in lines] == [(10, -9), (20, 7), (30, 8), (40, -11)]
    assert lines[0]["message"] == "SIGKILL"
    assert "restarting at step 10 after: SIGKILL" in capsys.readouterr().out
    words = [(tmp_path / f"start-{k}").read_text().split()[2:] for k in range(5)]
    assert words == [[], *[["--skip-finished"]] * 4]


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 130, 143])
def test_other_ends_are_not(tmp_path: Path, monkeypatch, code: int):
    assert supervise(tmp_path, monkeypatch, str(code), most=5) == code
    assert not (tmp_path / "interventions.jsonl").exists()


def test_restarts_without_progress_are_counted(tmp_path: Path, monkeypatch):
    """One checkpoint, then none: the third death is one too many for 2 restarts."""
    assert supervise(tmp_path, monkeypatch, "7,8,-9,-9", most=2, saves=1) == 7
    assert len((tmp_path / "interventions.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_run_once_and_ends_it(tmp_path: Path, number: int):
    child = (
        "import signal, sys, time\n"
        "got = []\n"
        "for n in (2, 15): signal.signal(n, lambda s, f: got.append(s))\n"
        "print('ready', flush=True)\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "print(len(got), flush=True)\n"
        "sys.exit(128 + got[0])\n"
    )
    call = f"restarts.supervise([sys.executable, '-c', {child!r}], 3)"
    code = f"import sys\nfrom fasterrcnn.engine import restarts\nsys.exit({call})"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout and parent.stdout.readline() == "ready\n"
    os.kill(parent.pid, number)
    assert parent.communicate()[0] == "1\n"
    assert parent.returncode == 128 + number
    assert not (tmp_path / "interventions.jsonl").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_that_the_run_cannot_explain_yet_is_explained_for_it(number: int):
    code = (
        "import sys\n"
        "from fasterrcnn.cli import exit_codes\n"
        "from fasterrcnn.engine import restarts\n"
        "child = [sys.executable, '-c', 'print(1, flush=True); import time; time.sleep(600)']\n"
        "exit_codes.run(lambda: restarts.supervise(child, 3))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True)
    assert parent.stdout and parent.stdout.readline() == "1\n"
    os.kill(parent.pid, number)
    said = parent.communicate()[1]
    assert said.startswith(f"stopped: {signal.Signals(number).name}: no step was under way")
    assert parent.returncode == 143


def test_only_training_is_supervised_and_only_once(monkeypatch):
    argv = ["--max-restarts", "3", "--lr", "1"]
    assert restarts.asked_for("train", argv) == 3
    assert restarts.asked_for("torchrun", ["-m", "fasterrcnn", "train", "--max-restarts=2"]) == 2
    assert restarts.asked_for("torchrun", [*argv[:2], "-m", "fasterrcnn", "train"]) == 0, "its own"
    assert restarts.asked_for("train", [*argv, "--max-restarts=1"]) == 1, "the last one"
    assert restarts.asked_for("evaluate", argv) == restarts.asked_for("train", argv[2:]) == 0
    assert restarts.asked_for("train", ["--max-restarts", "many"]) == 0, "refused by the command"
    monkeypatch.setenv("FASTERRCNN_SUPERVISOR", "file")
    assert restarts.asked_for("train", argv) == 0
