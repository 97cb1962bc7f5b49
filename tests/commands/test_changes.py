"""A run goes on with other values, from its checkpoint on, and keeps what it did before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fasterrcnn.errors import UsageError
from tests.commands.runs import assert_same_bits, refused, rows, run

BEFORE = ("--val-split", "none", "--epochs", 2, "--save-every", 2, "--log-every", 1)
AFTER = ("--lr", 0.001, "--schedule.clip-grad-norm", 1, "--images-per-gpu", 1)
AFTER += ("--schedule.warmup-steps", 0, "--schedule.milestones", 1.2)


def test_learning_rate_and_micro_batch_are_changed(shapes_folder: Path, tmp_path: Path, capsys):
    """A kill after the change gives the same bits as none; both commands continue the run."""
    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        run(shapes_folder, out, *BEFORE, "--steps", 3)
    capsys.readouterr()
    whole = run(shapes_folder, one, *BEFORE, *AFTER, "--steps", 9, "--resume")
    said = capsys.readouterr().out
    assert "changed from step 3 on: schedule." in said and "schedule.lr: 0.02 -> 0.001" in said
    # 3 of 7 steps were done; epochs have 6 from here on, of which 1.2 end before the 9th step.
    assert "step 4/9  epoch 0.60 " in said
    assert [row["lr"] for row in rows(one)[3:]] == pytest.approx([0.001] * 5 + [0.0001])
    run(shapes_folder, two, *BEFORE, *AFTER, "--steps", 5, "--resume")
    run(shapes_folder, two, *BEFORE, *AFTER, "--steps", 7, "--resume")
    parts = run(shapes_folder, two, *BEFORE, "--steps", 9, "--skip-finished")
    assert "changed on the way: schedule." in capsys.readouterr().out
    assert_same_bits(whole, parts)
    assert rows(one) and [r["lr"] for r in rows(one)] == [r["lr"] for r in rows(two)]
    (change,) = json.loads((parts / "state.json").read_text())["history"]
    assert change["step"] == 3 and change["was"]["schedule.lr"] == 0.02
    assert json.loads((two / "recipe.json").read_text())["schedule"]["images_per_gpu"] == 1


def test_what_can_be_changed_is_said(shapes_folder: Path, tmp_path: Path):
    out = tmp_path / "run"
    run(shapes_folder, out, *BEFORE, "--steps", 2)
    kept = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.suffix != ".json"}
    lower = refused(UsageError, shapes_folder, out, *BEFORE, "--lr", 0.001, "--steps", 3)
    assert "(schedule.lr: 0.02 -> 0.001)" in lower and "--resume to change it from step 2" in lower
    other = ("--lr", 0.001, "--seed", 5, "--steps", 3)
    for resume in ((), ("--resume",)):
        text = refused(UsageError, shapes_folder, out, *BEFORE, *other, *resume)
        assert f"--weights {out} and another --output-dir" in text
        assert ("schedule.lr" in text) == (not resume), "only what stands in the way"
    assert all(p.read_bytes() == content for p, content in kept.items())


@pytest.mark.slow
def test_more_epochs_and_another_precision(shapes_folder: Path, tmp_path: Path):
    """As the messages of a finished run and of an overflow advise."""
    out = tmp_path / "run"
    first = ("--val-split", "none", "--lr-scheduler", "cosine")
    last = run(shapes_folder, out, *first, "--epochs", 0.1)
    text = refused(UsageError, shapes_folder, out, *first, "--epochs", 0.1)
    assert "train longer with --resume and --epochs or --steps" in text
    for epochs, amp in enumerate(("bf16", "fp16", "off"), start=1):
        flags = (*first, "--amp", amp, "--epochs", epochs)
        longer = run(shapes_folder, out, *flags, "--resume")
        assert longer > last
        last = longer
    assert [row["step"] for row in rows(out)] == [*range(1, int(last.name[5:]) + 1)]
