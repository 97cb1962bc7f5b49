"""How commands end: one line and the code of the failure's kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fasterrcnn.cli import exit_codes
from fasterrcnn.errors import DataError, Stopped
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
