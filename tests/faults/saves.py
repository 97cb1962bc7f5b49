"""Every system call of a save fails, or is the last that its process makes.

    python -m tests.faults.saves [--every N]

A process saves a checkpoint, deletes an old one and keeps the results of its evaluation, once for
each system call and fault: ENOSPC, EIO, and SIGKILL. strace injects them. After each, the folder is
looked at as a continued run does: the newest checkpoint verifies and holds what was saved, the one
before it and the best one still verify, no earlier evaluation is missing, what is unfinished is
removed, and a next save works. `--every N` tries every Nth call. Prints one line for each kind of
call, and ends with 1 if something was lost or a fault was not explained in one line. Needs Linux
and strace, and the right to trace a process.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fasterrcnn import recipes
from fasterrcnn.cli import exit_codes
from fasterrcnn.data.annotations import Classes
from fasterrcnn.engine import checkpoint, results
from fasterrcnn.errors import StorageError

CALLS = ("openat", "mkdir", "write", "ftruncate", "fsync", "rename", "unlink", "unlinkat", "rmdir")
FAULTS = {"ENOSPC": "error=ENOSPC", "EIO": "error=EIO", "SIGKILL": "signal=SIGKILL"}
BEST, NEWEST, SAVED = 1, 3, 4  # steps; step 2 is deleted when SAVED is saved


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """What a checkpoint of this step holds."""
    generator = torch.Generator().manual_seed(step)
    names = ("model", "optimizer", "ema")
    return {name: {"w": torch.randn(4096, generator=generator)} for name in names}


def save(run: Path, step: int) -> None:
    """Save the checkpoint of this step, and the results of its evaluation."""
    recipe = recipes.fasterrcnn_r10_fpn_shapes()
    state = checkpoint.State(step, 100, recipe, Classes(("a",), (1,)), {}, {"digest": "d"}, {})
    path = checkpoint.save(run / "checkpoints", tensors(step), state, keep=2)
    evaluation = results.Evaluation(step, "val", "d", 1, "data", "coco")
    results.save(evaluation, {"AP": 1 / step}, np.ones((3, 7)), path, own=True)


class Ended(NamedTuple):
    """How a process that saved has ended."""

    status: int  # exit code, or minus the signal's number
    said: str
    calls: list[str]  # its system calls, in order


def save_traced(run: Path, fault: str | None = None) -> Ended:
    """Save in a process of its own, which strace injects `fault` into."""
    with tempfile.TemporaryDirectory() as logs:
        said, log = Path(logs) / "said", Path(logs) / "log"
        pid = os.fork()
        if pid == 0:
            _save_and_exit(run, said)
        os.waitpid(pid, os.WUNTRACED)
        with _traced(pid, log, fault):
            os.kill(pid, signal.SIGCONT)
            _, status = os.waitpid(pid, 0)
        calls = re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE)
        return Ended(os.waitstatus_to_exitcode(status), said.read_text(), calls)


def _save_and_exit(run: Path, said: Path) -> None:
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    os.kill(os.getpid(), signal.SIGSTOP)  # until it is traced
    code = 1
    try:
        exit_codes.run(lambda: save(run, SAVED))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(code)


@contextmanager
def _traced(pid: int, log: Path, fault: str | None) -> Iterator[None]:
    """Inside, strace writes the system calls of a process to `log`."""
    command = ["strace", "-p", str(pid), "-o", str(log), "-e", f"trace={','.join(CALLS)}"]
    if fault is not None:
        command += ["-e", f"inject={fault}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        line = strace.stderr.readline()
        if "attached" not in line:
            os.kill(pid, signal.SIGKILL)
            raise SystemExit(f"strace: {line.strip()}")
        yield
        strace.stderr.read()


def what_is_wrong(run: Path, ended: Ended) -> str | None:
    """What was lost of a run in which a save was disturbed, or went wrong; None: nothing."""
    if ended.status not in (0, StorageError.code, -signal.SIGKILL):
        return f"ended with {ended.status}: {ended.said.strip().splitlines()[-1:]}"
    if ended.status == StorageError.code and len(ended.said.splitlines()) != 1:
        return f"said {ended.said!r}"
    folder = run / "checkpoints"
    checkpoint.remove_unfinished(folder)
    newest, _ = checkpoint.newest(folder)
    step = 0 if newest is None else checkpoint.load_state(newest).step
    if newest is None or step < NEWEST or (ended.status == 0 and step != SAVED):
        return f"the newest checkpoint is {newest}"
    for name, group in tensors(step).items():
        if not checkpoint.load_tensors(newest / f"{name}.safetensors")["w"].equal(group["w"]):
            return f"{newest.name}: holds other tensors"
    for kept in (BEST, NEWEST):
        if damage := checkpoint.verify(checkpoint.path_of(folder, kept)):
            return f"step {kept}: {damage}"
    if checkpoint.best(folder) != checkpoint.path_of(folder, BEST):
        return "another checkpoint is the best"
    save(run, SAVED + 1)
    left = sorted(int(path.name[5:]) for path in folder.glob("step-*"))
    if left != [BEST, step, SAVED + 1]:
        return f"after the next save, steps {left} are left"
    evaluated = [row["step"] for row in results.read(run)]
    known = [*range(BEST, SAVED), SAVED + 1]
    return None if {*known} <= {*evaluated} else f"evaluations of steps {evaluated} are left"


def main() -> None:
    """Try every fault, or some."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    every = parser.parse_args().every
    with tempfile.TemporaryDirectory() as root:
        before, run = Path(root) / "before", Path(root) / "run"
        for step in range(BEST, SAVED):
            save(before, step)
        shutil.copytree(before, run)
        undisturbed = save_traced(run)
        assert undisturbed.status == 0, undisturbed.said
        tried = lost = 0
        for call, count in sorted(Counter(undisturbed.calls).items()):
            ends: Counter[str] = Counter()
            for nth, (name, fault) in itertools.product(range(1, count + 1), FAULTS.items()):
                tried += 1
                if tried % every:
                    continue
                shutil.rmtree(run)
                shutil.copytree(before, run)
                ended = save_traced(run, f"{call}:{fault}:when={nth}")
                ends[f"{name} -> {ended.status}"] += 1
                if wrong := what_is_wrong(run, ended):
                    lost += 1
                    print(f"{call} {nth} of {count}, {name}: {wrong}")
            print(f"{call}, {count} calls:", *(f"{end} ({n})" for end, n in ends.items()))
    print(f"{tried // every} faults, {lost} with a loss")
    sys.exit(lost > 0)


if __name__ == "__main__":
    main()
