"""A run that is restarted after a death or a hang, from its newest checkpoint (`--max-restarts`).

The run is a child of this process, in a session of its own, so that every signal reaches it once:
through this process. A restart after progress is not counted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

from fasterrcnn.engine import signals
from fasterrcnn.engine.run_folder import read_json
from fasterrcnn.errors import Hang, ProcessDied
from fasterrcnn.processes import die_with_parent

_FOLDER = "FASTERRCNN_SUPERVISOR"  # environment: the file in which a run tells its folder
_FLAG = "--max-restarts"
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_PAUSE = 1.0  # s before a restart, so that sockets and GPUs are free again; and for a start


def asked_for(command: str, argv: Sequence[str]) -> int:
    """How often a training command is to be restarted; 0 for other commands, and for a process that
    is supervised already. The command itself refuses what is no number."""
    words = [command, *argv]
    if command not in ("train", "torchrun") or "train" not in words or _FOLDER in os.environ:
        return 0
    flags = [part for word in words[words.index("train") :] for part in word.split("=", 1)]
    values = [value for flag, value in pairwise(flags) if flag == _FLAG]
    return int(values[-1]) if values and values[-1].isdecimal() else 0


def tell(run: Path) -> None:
    """Tell the process that supervises this one, if there is any, in which folder the run is."""
    if _FOLDER in os.environ:
        Path(os.environ[_FOLDER]).write_text(str(run))


def supervise(command: list[str], most: int) -> int:
    """Run a training command until it ends otherwise than by a death or a hang; its exit code, or
    that of the last death when `most` restarts in a row made no progress. Raises Stopped for a
    signal that came too early for the command to explain it.

    Restarts are lines of ``interventions.jsonl`` in the run folder.
    """
    used, newest = 0, -1
    with tempfile.NamedTemporaryFile("r") as folder, _signals() as received:
        while True:
            child = subprocess.Popen(
                command,
                env={**os.environ, _FOLDER: folder.name},
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
            code = _wait(child, received)
            if -code in received:  # before the child was ready for signals
                raise signals.interrupted(-code)
            if not _restartable(code) or received:
                return code if code >= 0 else 128 - code
            folder.seek(0)
            run = folder.read()
            step = _newest(Path(run)) if run else 0  # it may have died before it told
            used = 0 if step > newest else used
            if used == most:
                return ProcessDied.code if code < 0 else code
            used, newest = used + 1, step
            if run:
                _record(Path(run), step, code)
            time.sleep(_PAUSE)
            if "--skip-finished" not in command:  # it may have been killed after its last save
                command = [*command, "--skip-finished"]


def _restartable(code: int) -> bool:
    """A death or a hang: not data, usage, a bug, divergence or a stop."""
    return code < 0 or code in (ProcessDied.code, Hang.code, 128 + signal.SIGKILL)


def _newest(run: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    steps = (run / "checkpoints").glob("step-*")
    return max((int(path.name[5:]) for path in steps), default=0)


def _record(run: Path, step: int, code: int) -> None:
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    message = read_json(run / "status.json").get("message") or how
    print(f"restarting at step {step} after: {message}", flush=True)
    row = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "step": step,
        "code": code,
        "message": message,
    }
    run.mkdir(parents=True, exist_ok=True)
    with (run / "interventions.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals received inside, in place of what they do."""
    received: list[int] = []
    handlers = {n: signal.signal(n, lambda got, _: received.append(got)) for n in _FORWARDED}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _wait(child: subprocess.Popen[bytes], received: list[int]) -> int:
    """The exit code of the child, which gets every signal that arrives meanwhile, once Python has
    started in it and it can answer."""
    passed, ready = 0, time.monotonic() + _PAUSE
    while True:
        for number in received[passed:] if time.monotonic() > ready else ():
            child.send_signal(number)
            passed += 1
        try:
            return child.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
