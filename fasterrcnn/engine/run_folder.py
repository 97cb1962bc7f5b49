"""The folder of one run: its lock, its status, its small json files.

recipe.json environment.json   what was run, and where
metrics.jsonl                  one line per step (metric_log)
evaluations.jsonl results.json metrics of all evaluations, and of the latest one (results)
problems.jsonl                 problems in the data
status.json                    how the last command ended: {"code", "kind", "message", "step", ...}
interventions.jsonl            one line per restart (restarts)
checkpoints/                   (checkpoint)
trackers.json tensorboard/     of --track (tracking)
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fasterrcnn.engine import signals
from fasterrcnn.errors import Failure, Stopped, StorageError, UsageError

METRICS = "metrics.jsonl"


class RunFolder:
    """The folder of a run; nothing is created or locked before `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_ours = False  # other ranks set it once rank 0 has the lock
        self._lock_file: Any = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def problems(self) -> Path:
        """The list of problems in the data."""
        return self.path / "problems.jsonl"

    def open(self) -> None:
        """Create the folder and lock it until this process ends, however it ends.

        Raises UsageError if another process holds the lock, StorageError if it cannot be written.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock_file = (self.path / ".lock").open("a+")
            (self.path / "status.json").unlink(missing_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"--output-dir: {self.path}: not a folder; choose a folder") from None
        except OSError as error:
            raise StorageError(
                f"--output-dir: {self.path}: {error.strerror}; choose a folder you can write to"
            ) from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock_file.seek(0)
            owner = self._lock_file.read().strip() or "another process"
            raise UsageError(
                f"--output-dir: {self.path}: in use by {owner}; wait for it or choose another "
                "folder"
            ) from None
        self._lock_file.truncate(0)
        self._lock_file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock_file.flush()
        self.is_ours = True

    @contextmanager
    def outcome(self) -> Iterator[dict[str, Any]]:
        """Write status.json when the block ends; the block may add entries to the dict it is given.

        If ranks fail, the first one to fail writes it.
        """
        status: dict[str, Any] = {"code": 0, "kind": "Done", "message": ""}

        def note(error: BaseException) -> None:
            code = error.code if isinstance(error, Failure) else 1
            status.update(code=code, kind=type(error).__name__, message=str(error))

        def note_end(stop: Stopped) -> None:
            note(stop)
            if self.is_ours:
                self._write_status(status)

        try:
            with signals.also_reported(note_end):
                yield status
        except BaseException as error:
            note(error)
            raise
        finally:
            failed = status["code"] != 0
            if self.is_ours and (failed or self._lock_file is not None):
                self._write_status(status)
            if self._lock_file is not None:
                self._lock_file.close()

    def write_json(self, name: str, content: Any) -> None:
        """Write a small file atomically, so that readers never see half of it."""
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(self.path / name)

    def _write_status(self, status: dict[str, Any]) -> None:
        try:
            with (self.path / "status.json").open("x") as file:  # the first rank wins
                file.write(json.dumps(status, indent=1) + "\n")
        except OSError:  # it exists, or the disk is full, which the command says itself
            pass


def read_json(file: Path) -> dict[str, Any]:
    """What a json file has; nothing if it is missing or a killed process left it incomplete."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a .jsonl file that are of a step; none if there is no file."""
    if not file.is_file():
        return
    for line in file.read_text(errors="replace").splitlines():
        if (row := row_of(line)) is not None:
            yield row


def row_of(line: str) -> dict[str, Any] | None:
    """A line of a .jsonl file that is of a step; None for any other."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
