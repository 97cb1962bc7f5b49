"""Signals at any moment of a run stop it with its last step saved, and it ends with the same bits.

    python -m tests.faults.signals [--signals N] [--seed S] [--runs NAME]

Runs of one and of two ranks, by the launchers. A run is started, signaled and started again until
it is near its end; then the same command ends it. Every signal is SIGTERM, SIGINT or SIGUSR1, to
the launcher, to torchrun under `--max-restarts`, to one rank or to the whole group, while the run
starts, between steps, in a save, in an evaluation, or twice, 0.2 or 2 s apart, in a long step. Then
the exit code must be 143 (130 of SIGINT), one line say why, no process be left, and the newest
checkpoint verify and be of the last step in the log; at the end every tensor must have the bits of
an undisturbed run. A second signal may end a run of one process at once, so that the step under way
is lost. Prints a line for each signal and the seconds from the signal to the exit; ends with 1 if
anything was lost, or took more than 25 s.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fasterrcnn.data import shapes
from fasterrcnn.engine import checkpoint
from fasterrcnn.engine.run_folder import read_json
from tests.commands.processes import ALL, ONE, has_handlers, left_after, processes_of, start, train
from tests.commands.runs import rows
from tests.faults.kills import digest, step_of

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LIMIT = 25.0  # s from a signal to the exit
EVALUATE = 6  # steps between evaluations
SIGNALS_OF_A_RUN = 5
MARKS = {"torchrun": "FASTERRCNN_SUPERVISOR", "rank": "TORCHELASTIC_RUN_ID"}
STARTING, TRAINING, SAVING, EVALUATING, TWICE = (
    "starting", "training", "saving", "evaluating", "twice",
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How a run is started, and which of its processes are signaled when."""

    name: str
    script: Path
    ranks: int
    targets: tuple[str, ...]
    phases: tuple[str, ...] = (STARTING, TRAINING, SAVING, EVALUATING)
    images: int = 2  # of a step
    steps: int = 36
    last: int = 8  # steps in which it is signaled no more
    restarts: int = 0


def long_steps(name: str, script: Path, ranks: int, targets: tuple[str, ...]) -> Layout:
    """A layout whose steps take seconds, so that a second signal meets the same one."""
    return Layout(name, script, ranks, targets, (TWICE,), images=96, steps=8, last=3)


ONE_RANK, TWO_RANKS = ("launcher", "group"), ("launcher", "rank", "group")
LAYOUTS = (
    Layout("1 rank", ONE, 1, ONE_RANK),
    Layout("2 ranks", ALL, 2, TWO_RANKS),
    Layout("2 ranks, supervised", ALL, 2, ("torchrun", *TWO_RANKS), restarts=1),
    long_steps("1 rank, long steps", ONE, 1, ONE_RANK),
    long_steps("2 ranks, long steps", ALL, 2, TWO_RANKS),
)


@dataclass(frozen=True)
class Case:
    """A signal: when, which, to whom; and how many seconds later it is sent again (0: not)."""

    phase: str
    number: signal.Signals
    target: str
    again: float

    def __str__(self) -> str:
        again = f", again {self.again:g} s later" if self.again else ""
        return f"{self.phase}, {self.number.name} to {self.target}{again}"


def flags(layout: Layout, root: Path) -> list[object]:
    """Of every run of a layout: checkpoints and evaluations, so that signals meet them."""
    return [
        *("--data-path", root, "--steps", layout.steps, "--save-every", 3, "--log-every", 1),
        *("--eval-every", EVALUATE, "--workers", 1, "--images-per-gpu", 1, "--skip-finished"),
        *("--images-per-step", layout.images, "--max-restarts", layout.restarts),
    ]


def cases_of(layout: Layout, chance: random.Random) -> Iterator[Case]:
    """Every signal that the processes of a layout can get, in random order, again and again."""
    gaps = (0.2, 2.0) if TWICE in layout.phases else (0.0,)
    every = [*itertools.product(layout.phases, SIGNALS, layout.targets, gaps)]
    while True:
        chance.shuffle(every)
        yield from itertools.starmap(Case, every)


def pid_of(target: str, layout: Layout, out: Path, launcher: int) -> int:
    """The process to be signaled: of two ranks the second; 0 if it does not exist yet."""
    if target in ("launcher", "group"):
        return launcher
    parents = processes_of(out)
    torchrun = launcher
    if layout.restarts:
        torchrun = min((pid for pid, parent in parents.items() if parent == launcher), default=0)
    if target == "torchrun":
        return torchrun
    ranks = [pid for pid, parent in parents.items() if torchrun and parent == torchrun]
    return max(ranks, default=0)


def wait_until(process: subprocess.Popen, reached: Callable[[], bool], limit: float = 600) -> None:
    """Return when it is reached, or the process has ended, or after so many seconds."""
    until = time.monotonic() + limit
    while process.poll() is None and time.monotonic() < until and not reached():
        time.sleep(0.002)


def is_evaluating(out: Path) -> bool:
    """Whether the newest checkpoint is due an evaluation and has none yet."""
    newest = max((out / "checkpoints").glob("step-*"), default=None)
    due = newest is not None and int(newest.name[5:]) % EVALUATE == 0
    return due and not (newest / "results.json").exists()


def wait_for(
    case: Case, out: Path, said: Callable[[], str], process: subprocess.Popen,
    pid: Callable[[], int], chance: random.Random,
) -> None:  # fmt: skip
    """Return at a random moment of the phase. `said`: the log since the start."""
    if case.phase == STARTING:
        # Until Python has run the first lines of the program, a signal has its default effect.
        variable = MARKS.get(case.target, "RUN")
        wait_until(process, lambda: has_handlers(pid(), variable))
        wait_until(process, lambda: "\nstep " in said(), limit=chance.uniform(0, 10))
        return
    begun = chance.randint(1, 3)
    wait_until(process, lambda: said().count("\nstep ") >= begun)
    if case.phase == SAVING:
        wait_until(process, lambda: any((out / "checkpoints").glob(".tmp-*")))
    if case.phase == EVALUATING:
        wait_until(process, lambda: is_evaluating(out))
    time.sleep(chance.uniform(0, 0.03 if case.phase == SAVING else 0.3))


def send(case: Case, pid: int) -> None:
    """Send the signal; the process may have ended."""
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if case.target == "group" else os.kill)(pid, case.number)


def signal_once(
    case: Case, layout: Layout, out: Path, root: Path, chance: random.Random
) -> tuple[float, list[str]]:
    """Start or continue a run and send it a signal: the seconds until it ended, and what of the
    outcome is wrong."""
    log = out.with_suffix(".log")
    before = log.stat().st_size if log.exists() else 0

    def said() -> str:
        return log.read_text()[before:]

    process = start(layout.script, out, *flags(layout, root), ngpu=layout.ranks)

    def pid() -> int:
        return pid_of(case.target, layout, out, process.pid)

    wait_for(case, out, said, process, pid, chance)
    signaled = time.monotonic()
    send(case, pid())
    if case.again:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=case.again)
    if case.again and process.poll() is None:
        send(case, process.pid if case.target == "group" else pid())
    code = process.wait(timeout=600)
    seconds = time.monotonic() - signaled
    wrong = [*wrong_in_state(out, may_lose=layout.ranks == 1 and case.again > 1)]
    wrong += wrong_in_end(case, code, said())
    if left := left_after(out):
        wrong.append(f"{len(left)} processes left")
    if seconds > LIMIT:
        wrong.append(f"{seconds:.1f} s")
    return seconds, wrong


def wrong_in_end(case: Case, code: int, said: str) -> Iterator[str]:
    """What is wrong with an exit code, as a shell has it, and with what a run said."""
    code = 128 - code if code < 0 else code
    if code != (130 if case.number == signal.SIGINT else 143):
        yield f"ended with {code}"
    lines = [line for line in said.splitlines() if line.startswith(("stopped:", "error:"))]
    if len(lines) != 1 or not lines[0].startswith("stopped:"):
        yield f"said {lines}"
    if "Traceback" in said:
        yield "a traceback"


def wrong_in_state(out: Path, *, may_lose: bool) -> Iterator[str]:
    """What is wrong with the files of a run that was signaled. `may_lose`: the last steps."""
    folder = out / "checkpoints"
    newest, damaged = checkpoint.newest(folder)
    yield from damaged
    saved = 0 if newest is None else checkpoint.load_state(newest).step
    logged = step_of(out)
    if logged < saved or (logged > saved and not may_lose):
        yield f"step {saved} saved, {logged} logged"
    status = read_json(out / "status.json")
    if status.get("step", saved) != saved:
        yield f"step {saved} saved, status.json says {status['step']}"


def try_run(
    layout: Layout, cases: Iterator[Case], out: Path, root: Path, whole: str, chance: random.Random
) -> tuple[list[float], int]:
    """Signal a run some times, then end it: the seconds of each signal, and how many went wrong.
    `whole`: the digest of an undisturbed run."""
    seconds: list[float] = []
    faults = 0
    while len(seconds) < SIGNALS_OF_A_RUN and step_of(out) < layout.steps - layout.last:
        case = next(cases)
        took, wrong = signal_once(case, layout, out, root, chance)
        seconds.append(took)
        faults += bool(wrong)
        found = "; ".join(wrong) or "saved"
        print(f"{layout.name}: {case}: step {step_of(out)}, {took:.1f} s: {found}", flush=True)
    ended = train(layout.script, out, *flags(layout, root), ngpu=layout.ranks)
    logged = [row["step"] for row in rows(out)] == [*range(1, layout.steps + 1)]
    same = digest(ended) == whole and logged
    print(f"{layout.name}: ended with {'the same bits' if same else 'OTHER BITS'}", flush=True)
    return seconds, faults + (not same)


def main() -> None:
    """Send at least so many signals, then report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--signals", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="", help='only runs so named, such as "long steps"')
    options = parser.parse_args()
    chance = random.Random(options.seed)
    seconds: list[float] = []
    faults = runs = 0
    cases = {layout: cases_of(layout, chance) for layout in LAYOUTS}
    whole: dict[Layout, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "shapes"
        shapes.write(root, train=24, val=24)
        for layout in itertools.cycle(one for one in LAYOUTS if options.runs in one.name):
            if len(seconds) >= options.signals:
                break
            if layout not in whole:
                out = Path(folder) / f"whole-{runs}"
                done = train(layout.script, out, *flags(layout, root), ngpu=layout.ranks)
                whole[layout] = digest(done)
            out = Path(folder) / f"run-{runs}"
            took, wrong = try_run(layout, cases[layout], out, root, whole[layout], chance)
            seconds += took
            faults += wrong
            runs += 1
            shutil.rmtree(out)
    p50, p99 = np.percentile(seconds, [50, 99])
    print(f"seed {options.seed}: {len(seconds)} signals in {runs} runs, {faults} faults")
    print(f"seconds to the exit: p50 {p50:.1f}, p99 {p99:.1f}, max {max(seconds):.1f}")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
