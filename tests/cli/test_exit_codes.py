"""How commands end: one line and the code of the failure's kind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fasterrcnn.cli import exit_codes
from fasterrcnn.errors import DataError, Stopped
from tests.commands.processes import has_handlers
from tests.conftest import PROJECT, clean_environment, command


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        (DataError("file: field: wrong"), 3, "error: file: field: wrong\n"),
        (Stopped("SIGTERM: saved", 143), 143, "stopped: SIGTERM: saved\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(failure: BaseException, code: int, line: str, capsys: pytest.CaptureFixture):
    def main():
        raise failure

    with pytest.raises(SystemExit) as stop:
        exit_codes.run(main)
    assert stop.value.code == code
    assert capsys.readouterr().err == line


def test_of_several_ranks_one_speaks(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture):
    monkeypatch.setenv("FASTERRCNN_STATUS", str(tmp_path / "status.json"))

    def main():
        raise DataError("wrong")

    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            exit_codes.run(main)
        assert stop.value.code == 3
    assert capsys.readouterr().err == "error: wrong\n"


def test_a_rank_ends_before_python_takes_itself_apart():
    """What then goes wrong in a thread of gloo would make its exit code another."""
    program = """
import atexit, os
from fasterrcnn.cli import exit_codes
from fasterrcnn.errors import DataError

class Late:
    def __del__(self, abort=os.abort):
        abort()

def main():
    global kept
    kept = Late()
    atexit.register(print, "tidied up")
    print("half a line", end=" ")
    raise DataError("wrong")

exit_codes.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False,
        env=clean_environment() | {"TORCHELASTIC_RUN_ID": "x"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (
        3, "half a line tidied up\n", "error: wrong\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)]
)
def test_a_signal_before_the_first_step_ends_a_run_with_one_line(number: int, code: int):
    """As soon as the program has begun: while torch is imported."""
    process = subprocess.Popen(
        command("train"), cwd=PROJECT, env=clean_environment(), stderr=subprocess.PIPE, text=True
    )
    while not has_handlers(process.pid, "PATH"):
        assert process.poll() is None
    process.send_signal(number)
    said = process.communicate()[1]
    expected = f"stopped: {signal.Signals(number).name}: no step was under way; "
    assert (process.returncode, said) == (code, f"{expected}the same command continues the run\n")


ENDING = """
import os, signal, sys, time
from fasterrcnn.cli import exit_codes
from fasterrcnn.engine import signals
signals.end_at_once(exit_codes.report)
"""


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("signals.let_end(); os.kill(os.getpid(), 15); sys.exit(7)", 7, ""),  # in time
        ("signals.let_end(); time.sleep(1.2); os.kill(os.getpid(), 15); sys.exit(7)", 143, ""),
        ("if os.fork(): sys.exit(-os.wait()[1])\nos.kill(os.getpid(), 15); time.sleep(9)", 241, ""),
        (
            "received = []\nwith signals.caught(received, print, alone=True, hours=0):\n"
            "    os.kill(os.getpid(), 15)\nos.kill(os.getpid(), 15); sys.exit(received[0])",
            15,
            "",
        ),
        (
            "with signals.caught([], print, alone=True, hours=0):\n"
            "    os.kill(os.getpid(), 15); time.sleep(1.2); os.kill(os.getpid(), 2)",
            130,
            "stopped: SIGINT: again: what is not saved is lost; the same command continues\n",
        ),
    ],
    ids=["exits", "should have exited", "forked", "stopped already", "again"],
)
def test_what_a_signal_does_outside_of_training(program: str, code: int, said: str):
    done = subprocess.run(
        [sys.executable, "-c", ENDING + program], cwd=PROJECT, env=clean_environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, said)


def test_an_unexpected_exception_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_codes.run(lambda: 1 / 0)


def test_a_closed_pipe_is_no_traceback():
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | true', "bash", *command("recipes")],
        cwd=PROJECT, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")


def test_a_status_file_that_is_gone_hides_no_message(monkeypatch, tmp_path: Path, capsys):
    monkeypatch.setenv("FASTERRCNN_STATUS", str(tmp_path / "gone" / "status.json"))

    def main():
        raise DataError("wrong")

    with pytest.raises(SystemExit):
        exit_codes.run(main)
    assert capsys.readouterr().err == "error: wrong\n"


def test_what_a_terminal_would_obey_is_escaped(capsys):
    """Names in files can hold it."""

    def main() -> None:
        raise DataError("a\x1b]0;owned\x07\x9b2J.png: missing\nb\tc")

    with pytest.raises(SystemExit):
        exit_codes.run(main)
    assert capsys.readouterr().err == (
        "error: a\\x1b]0;owned\\x07\\x9b2J.png: missing\nerror: b\tc\n"
    )
