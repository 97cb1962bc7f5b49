"""Runs whose processes are killed at random moments end with the bits of undisturbed ones.

    python -m tests.faults.kills [--kills N] [--seed S]

Runs of one and of two ranks in turn, by the launchers. Of each, a random process (launcher, rank or
loader worker) is killed with SIGKILL after a random time, two to four times; then the same command
ends the run. Every tensor of its last checkpoint must have the bits of an undisturbed run, and no
process may be left after a kill. Prints a line for each run, and ends with 1 if anything differed
or was left.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from fasterrcnn.data import shapes
from tests.commands.processes import ALL, ONE, left_after, processes_of, start, train
from tests.commands.runs import rows, tensors

STEPS = 24
SCRIPTS = {1: ONE, 2: ALL}


def flags(root: Path) -> list[object]:
    """Of every run: a checkpoint every other step."""
    return [
        *("--data-path", root, "--val-split", "none", "--steps", STEPS, "--save-every", 2),
        *("--log-every", 1, "--workers", 1, "--images-per-step", 2, "--images-per-gpu", 1),
        "--skip-finished",
    ]


def digest(checkpoint: Path) -> str:
    """SHA-256 of all tensors of a checkpoint."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors(checkpoint).items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def step_of(out: Path) -> int:
    """The steps that a run has logged."""
    try:
        return len(rows(out))
    except (OSError, ValueError):
        return 0


def kill_once(out: Path, root: Path, ranks: int, chance: random.Random) -> tuple[str, int, int]:
    """Start or continue a run, and kill one of its processes a random time later: what was killed,
    at which step, and how many processes were left. The run may end before."""
    process = start(SCRIPTS[ranks], out, *flags(root), ngpu=ranks)
    at_step = step_of(out) + chance.randint(1, 5)
    at_once = chance.random() < 0.2  # while it starts
    until = time.monotonic() + (chance.uniform(0, 4) if at_once else 600)
    while process.poll() is None and time.monotonic() < until and step_of(out) < at_step:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.3))
    alive = sorted(processes_of(out))
    victim = chance.choice(alive) if alive else process.pid
    what = "launcher" if victim == process.pid else "rank or worker"
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    process.wait(timeout=600)
    return what, step_of(out), len(left_after(out))


def main() -> None:
    """Kill so many times, then report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    done = differing = left = runs = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "shapes"
        shapes.write(root, train=24, val=1)
        expected = {}
        for ranks, script in SCRIPTS.items():
            undisturbed = train(script, Path(folder) / f"{ranks}", *flags(root), ngpu=ranks)
            expected[ranks] = digest(undisturbed)
        while done < options.kills:
            ranks = 1 + runs % 2
            out = Path(folder) / f"run-{runs}"
            kills = [kill_once(out, root, ranks, chance) for _ in range(chance.randint(2, 4))]
            ended = train(SCRIPTS[ranks], out, *flags(root), ngpu=ranks)
            same = digest(ended) == expected[ranks]
            done, runs = done + len(kills), runs + 1
            differing += not same
            left += sum(each[2] for each in kills)
            said = ", ".join(f"{what} after step {step}" for what, step, _ in kills)
            print(f"{ranks} ranks, {said}: {'same bits' if same else 'OTHER BITS'}", flush=True)
            shutil.rmtree(out)
            out.with_suffix(".log").unlink()
    print(f"seed {options.seed}: {done} kills in {runs} runs, {differing} with other bits, "
          f"{left} processes left")  # fmt: skip
    sys.exit(differing + left > 0)


if __name__ == "__main__":
    main()
