"""Runs of several processes by the launchers, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.runs import rows
from tests.conftest import HANG, PROJECT, TINY, clean_environment

ONE = PROJECT / "start_scripts" / "train_fasterrcnn_resnet50_amp_torch.sh"
ALL = PROJECT / "start_scripts" / "train_fasterrcnn_resnet50_amp_dist_torch.sh"


def start(script: Path, out: Path, *flags: object, ngpu: int = 1) -> subprocess.Popen:
    """Start a launcher in a session of its own, its output in ``<out>.log``."""
    return in_session(["bash", script], out, *flags, ngpu=ngpu)


def in_session(program: list, out: Path, *flags: object, ngpu: int) -> subprocess.Popen:
    """`start` for any program that takes the trainer's flags.

    One thread per process: another number sums in another order, and near ties of fresh weights
    then give other proposals.
    """
    out.parent.mkdir(exist_ok=True)
    log = out.with_suffix(".log").open("a")
    return subprocess.Popen(
        [*program, *TINY, "--amp", "off", "--output-dir", out, *map(str, flags)],
        env=clean_environment()
        | {"PYTHON": sys.executable, "NGPU": str(ngpu), "RUN": str(out), "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def train(script: Path, out: Path, *flags: object, ngpu: int = 1) -> Path:
    """Run a launcher to its end; the newest checkpoint."""
    code = start(script, out, *flags, ngpu=ngpu).wait(timeout=HANG)
    assert code == 0, out.with_suffix(".log").read_text()
    return max((out / "checkpoints").glob("step-*"))


def processes_of(out: Path) -> dict[int, int]:
    """pid -> parent of the living processes of a run, known by a variable they inherit."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            state, parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            if state != "Z" and f"\0RUN={out}\0" in (path / "environ").read_text():
                found[int(path.name)] = int(parent)
    return found


def has_handlers(pid: int, variable: str) -> bool:
    """Whether a process, known by a variable that its parent gives it, has a handler of its own for
    SIGTERM."""
    with contextlib.suppress(OSError, StopIteration):
        if f"\0{variable}=" not in Path(f"/proc/{pid}/environ").read_text():
            return False
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
    return False


def left_after(out: Path) -> dict[int, int]:
    deadline = time.monotonic() + HANG
    while processes_of(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    return processes_of(out)


def wait_for_step(out: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            if len(rows(out)) >= step:
                return
        time.sleep(0.02)
    pytest.fail(f"step {step} was not reached: {out.with_suffix('.log').read_text()[-2000:]}")


@pytest.fixture
def run_folder(tmp_path: Path):
    """A run folder; whatever runs in it is killed at the end."""
    yield tmp_path / "run"
    for pid in processes_of(tmp_path / "run"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
