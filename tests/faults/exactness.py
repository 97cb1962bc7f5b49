"""Which changes of a run leave every bit of its tensors as it is, as a table.

    python -m tests.faults.exactness

A tiny detector is trained for a few steps by the launchers, once as a baseline and once for each
variant: other loader workers, evaluations on the way, two ranks, bf16, augmentation, a run that was
killed or stopped once and continued. Each variant is compared with the run that differs from it in
this alone: SHA-256 of all tensors of the last checkpoint, and if they differ the largest
|a - b| / |a| of a tensor. Prints a markdown table; ends with 1 if a variant differs that the
project claims to be the same.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fasterrcnn.data import shapes
from tests.commands.processes import ALL, ONE, start, train, wait_for_step
from tests.commands.runs import tensors
from tests.faults.kills import digest

STEPS = 6
ROUNDING = 1e-3  # of a norm: what summing in another order may make of it in so few steps
AUGMENTED = ("--augment.photometric", "--augment.zoom-out", "--augment.iou-crop")
EVALUATED = ("--val-split", "val", "--eval-every", 2)


@dataclass(frozen=True)
class Run:
    """How a run is made."""

    ranks: int = 1
    flags: tuple[object, ...] = ()
    ended: signal.Signals | None = None  # by what after step 3; then it is continued


@dataclass(frozen=True)
class Row:
    """Two runs of which something is claimed."""

    what: str
    one: Run
    other: Run
    claim: str  # BITS, CLOSE or NOTHING
    part: str = ""  # of the tensors, if not all


BITS, CLOSE, NOTHING = "same bits", "equal within rounding", "none"
STATISTICS, TRAINED = "statistics of batch norms", "weights and momentum"
PLAIN, TWO = Run(), Run(ranks=2)


def flagged(*flags: object, ranks: int = 1) -> Run:
    """A run with these flags besides."""
    return Run(ranks, flags)


def ended(run: Run, by: signal.Signals) -> Run:
    """The same run, ended once and continued."""
    return Run(run.ranks, run.flags, by)


def rows_of_table() -> list[Row]:
    """All that is compared."""
    bf16, augmented = flagged("--amp", "bf16"), flagged(*AUGMENTED)
    kill, stop = signal.SIGKILL, signal.SIGTERM
    interrupted = [
        Row(f"{name}: {how}, continued / undisturbed", run, ended(run, by), BITS)
        for name, run in (
            ("1 rank", PLAIN), ("2 ranks", TWO), ("bf16", bf16), ("augmentation", augmented),
            ("evaluations", flagged(*EVALUATED)),
        )
        for how, by in (("killed", kill), ("stopped", stop))
    ]  # fmt: skip
    return [
        Row("the same command again", PLAIN, flagged("--seed", 0), BITS),
        Row("1 loader worker / 0", PLAIN, flagged("--workers", 1), BITS),
        Row("2 loader workers / 0", PLAIN, flagged("--workers", 2), BITS),
        Row("augmentation: 2 loader workers / 0", augmented,
            flagged(*AUGMENTED, "--workers", 2), BITS),
        Row("evaluation every 2 steps / none", PLAIN, flagged(*EVALUATED), BITS),
        Row("2 ranks: evaluation every 2 steps / none", TWO, flagged(*EVALUATED, ranks=2), BITS),
        *interrupted,
        Row("2 ranks / 1", PLAIN, TWO, CLOSE, TRAINED),
        Row("2 ranks / 1", PLAIN, TWO, NOTHING, STATISTICS),
        Row("bf16 / off", PLAIN, bf16, NOTHING),
        Row("augmentation / none", PLAIN, augmented, NOTHING),
    ]  # fmt: skip


def make(run: Run, out: Path, root: Path) -> Path:
    """Train as asked for; the last checkpoint."""
    script = ONE if run.ranks == 1 else ALL
    flags: Sequence[object] = (
        *("--data-path", root, "--val-split", "none", "--steps", STEPS, "--save-every", 2),
        *("--log-every", 1, "--images-per-step", 4, "--images-per-gpu", 1, *run.flags),
        "--skip-finished",
    )
    if run.ended is not None:
        process = start(script, out, *flags, ngpu=run.ranks)
        wait_for_step(out, 3, process)
        os.kill(process.pid, run.ended)
        assert process.wait(timeout=600) != 0, "it ended before it was interrupted"
    return train(script, out, *flags, ngpu=run.ranks)


def largest_difference(a: Path, b: Path, part: str) -> float:
    """The largest difference of a tensor of two checkpoints, as a part of its norm."""
    first, second = tensors(a), tensors(b)
    assert set(first) == set(second)
    differences = []
    for name, tensor in first.items():
        if part and ("running_" in name or "num_batches" in name) != (part == STATISTICS):
            continue
        one, other = tensor.double(), second[name].double()
        norm = max(float(one.norm()), float(other.norm()))
        differences.append(float((one - other).norm()) / norm if norm else 0.0)
    return max(differences)


def main() -> None:
    """Make the runs, print the table."""
    made: dict[Run, Path] = {}
    wrong = 0
    print("| other / baseline | result | claimed |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "shapes"
        shapes.write(root, train=24, val=8)
        for row in rows_of_table():
            for run in (row.one, row.other):
                if run not in made:
                    made[run] = make(run, Path(folder) / f"run-{len(made)}", root)
            one, other = made[row.one], made[row.other]
            difference = largest_difference(one, other, row.part)
            same = difference == 0 if row.part else digest(one) == digest(other)
            held = same if row.claim == BITS else row.claim == NOTHING or difference <= ROUNDING
            wrong += not held
            result = "same bits" if same else f"differs by up to {difference:.2g} of a norm"
            claim = row.claim if held else f"{row.claim}: NOT SO"
            what = f"{row.what}, {row.part}" if row.part else row.what
            print(f"| {what} | {result} | {claim} |", flush=True)
    print(f"\n{len(made)} runs of {STEPS} steps, {wrong} claims that do not hold")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
