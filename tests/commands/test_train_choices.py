"""Other optimizers, schedules and frozen parts: a run that is continued ends with the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fasterrcnn.engine import trials
from fasterrcnn.errors import UsageError
from tests.commands.processes import ALL as DISTRIBUTED
from tests.commands.processes import left_after, run_folder, start, train, wait_for_step
from tests.commands.runs import assert_same_bits, rows, run
from tests.commands.test_train import FP16

__all__ = ["run_folder"]  # a fixture
FROZEN = ("--freeze", "backbone.body,rpn.head.conv")
ALL = ("--optimizer", "adamw", "--lr-scheduler", "cosine", "--epochs", "2", *FROZEN)


@pytest.mark.parametrize("extra", [(), FP16], ids=["fp32", "fp16"])
def test_a_continued_run_ends_with_the_same_bits(shapes_folder: Path, tmp_path: Path, extra):
    flags = ("--val-split", "none", *ALL, *extra)
    straight = run(shapes_folder, tmp_path / "straight", *flags, "--steps", "8")
    run(shapes_folder, tmp_path / "parts", *flags, "--steps", "3")
    parts = run(shapes_folder, tmp_path / "parts", *flags, "--steps", "8", "--resume")
    assert_same_bits(straight, parts)
    one, two = (rows(tmp_path / name) for name in ("straight", "parts"))
    assert [row["lr"] for row in one] == [row["lr"] for row in two]
    steps = {v.item() for k, v in load_file(straight / "optimizer.safetensors").items()
             if k.endswith("/step")}  # fmt: skip
    assert len(steps) == 1
    assert steps.pop() == 8 - sum(row.get("skipped", False) for row in one)


def test_two_killed_processes_end_with_the_same_bits(shapes_folder: Path, run_folder: Path):
    """With all that a run can have besides."""
    flags = ("--data-path", shapes_folder, "--steps", 12, "--log-every", 1, "--save-every", 4, *ALL)
    flags += ("--patience", 9, "--eval-every", 5, "--images-per-gpu", 1)
    whole = train(DISTRIBUTED, run_folder.with_name("whole"), *flags, ngpu=2)
    process = start(DISTRIBUTED, run_folder, *flags, ngpu=2)
    wait_for_step(run_folder, 7, process)
    process.kill()
    process.wait()
    assert left_after(run_folder) == {}
    assert len(rows(run_folder)) < 12
    assert_same_bits(whole, train(DISTRIBUTED, run_folder, *flags, ngpu=2))
    assert "continuing at step" in run_folder.with_suffix(".log").read_text()


def test_frozen_parts_keep_their_first_weights(shapes_folder: Path, tmp_path: Path, capsys):
    """Statistics of their norms too."""
    flags = ("--val-split", "none", *FROZEN)
    one = run(shapes_folder, tmp_path / "run", *flags, "--steps", "1")
    two = run(shapes_folder, tmp_path / "run", *flags, "--steps", "3", "--resume")
    before, after = (load_file(path / "model.safetensors") for path in (one, two))
    same = {name for name in before if before[name].equal(after[name])}
    assert same == {n for n in before if n.startswith(("backbone.body.", "rpn.head.conv."))}
    assert "freeze: () -> ('backbone.body', 'rpn.head.conv')" in capsys.readouterr().out
    for other in ((), ("--freeze", "rpn")):
        with pytest.raises(UsageError, match=r"holds another run \(freeze: "):
            run(shapes_folder, tmp_path / "run", "--val-split", "none", *other, "--steps", "5")


@pytest.mark.parametrize("flags", [("--optimizer", "adamw"), ("--lr-scheduler", "cosine")])
def test_another_choice_is_another_run(shapes_folder: Path, tmp_path: Path, flags: tuple):
    run(shapes_folder, tmp_path / "run", "--val-split", "none", "--steps", "1")
    with pytest.raises(UsageError, match=f"holds another run .*{flags[1]}"):
        run(shapes_folder, tmp_path / "run", "--val-split", "none", "--steps", "2", *flags)


@pytest.mark.parametrize("flags", [(), ("--checkpoint-activations",)])
def test_a_micro_batch_is_chosen_for_the_memory_of_the_run(
    shapes_folder: Path, tmp_path: Path, monkeypatch, flags: tuple
):
    def choose(*_, checkpointed: bool):
        raise UsageError(f"computed again: {checkpointed}")

    monkeypatch.setattr(trials, "choose", choose)
    with pytest.raises(UsageError, match=f"computed again: {bool(flags)}"):
        run(shapes_folder, tmp_path, "--images-per-gpu", "auto", "--val-split", "none", *flags)


@pytest.mark.slow
def test_a_chosen_micro_batch_is_part_of_the_run(shapes_folder: Path, tmp_path: Path, capsys):
    """On a CPU it is the recipe's own; a run that began with another number keeps that."""
    flags = ("--images-per-gpu", "auto", "--val-split", "none", "--save-every", 1)
    run(shapes_folder, tmp_path / "a", *flags, "--steps", 1)
    assert "--images-per-gpu auto: 4; on a CPU" in capsys.readouterr().out
    recipe = json.loads((tmp_path / "a" / "recipe.json").read_text())
    assert recipe["schedule"]["images_per_gpu"] == 4

    run(shapes_folder, tmp_path / "b", *flags, "--images-per-gpu", 2, "--steps", 1)
    continued = run(shapes_folder, tmp_path / "b", *flags, "--steps", 2, "--resume")
    assert "--images-per-gpu auto: 2, as when this run began" in capsys.readouterr().out
    whole = run(shapes_folder, tmp_path / "c", *flags, "--images-per-gpu", 2, "--steps", 2)
    assert_same_bits(continued, whole)
