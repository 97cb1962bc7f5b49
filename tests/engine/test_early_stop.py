"""When a run ends early, from the lines of its evaluations alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fasterrcnn.engine import checkpoint, early_stop, results

OWN = {"split": "val", "digest": "own", "images": 3, "changed": []}


def state(step: int, last: int = 100) -> checkpoint.State:
    return checkpoint.State(step, last, None, None, {}, {"val_digest": "own"}, {})  # type: ignore[arg-type]


def write(run: Path, *rows: dict) -> None:
    with (run / results.FILE).open("a") as file:
        file.writelines(json.dumps({**OWN, **row}) + "\n" for row in rows)


def steps(*scores: float | None) -> list[dict]:
    """An evaluation every 2 steps."""
    return [{"step": 2 * i, "AP": score} for i, score in enumerate(scores, 1)]


@pytest.mark.parametrize(
    ("scores", "patience", "why"),
    [
        ((), 1, None),
        ((0.5,), 1, None),
        ((0.5, 0.4), 1, "no better AP in 1 evaluation since step 2 (50.0)"),
        ((0.5, 0.4), 2, None),
        ((0.5, 0.4), 0, None),
        ((0.5, 0.4, 0.3), 2, "no better AP in 2 evaluations since step 2 (50.0)"),
        ((0.5, 0.4, 0.6), 2, None),
        ((0.5, 0.5, 0.5), 2, "no better AP in 2 evaluations since step 2 (50.0)"),  # equal
        ((None, None, None), 2, "no better AP in 2 evaluations since step 2 (0.0)"),
        ((0.1, 0.2, 0.1, 0.3, 0.1, 0.2), 2, "no better AP in 2 evaluations since step 8 (30.0)"),
    ],
)
def test_a_run_ends_after_so_many_evaluations_without_a_better_one(
    tmp_path: Path, scores: tuple, patience: int, why: str | None
):
    write(tmp_path, *steps(*scores))
    assert early_stop.reason(tmp_path, state(2 * len(scores)), 2, patience) == why


def test_an_rpn_is_measured_by_its_recall(tmp_path: Path):
    write(tmp_path, {"step": 2, "AR_1000": 0.4}, {"step": 4, "AR_1000": 0.3})
    why = "no better AR_1000 in 1 evaluation since step 2 (40.0)"
    assert early_stop.reason(tmp_path, state(4), 2, 1) == why


def test_only_what_an_undisturbed_run_has_counts(tmp_path: Path):
    """Not other data, other settings, later steps, checkpoints evaluated by hand, a repetition."""
    write(tmp_path, *steps(0.5, 0.4))
    others = [{"digest": "another"}, {"changed": ["nms-thresh: 0.7"]}, {"step": 3}, {"step": 6}, {}]
    for other in others:
        write(tmp_path, {"step": 4, "AP": 0.4, **other})
        assert early_stop.reason(tmp_path, state(4), 2, 1) is not None
        assert early_stop.reason(tmp_path, state(4), 2, 2) is None
    write(tmp_path, {"step": 4, "AP": 0.9, "digest": "another"}, {"step": 6, "AP": 0.9})
    assert early_stop.reason(tmp_path, state(4), 2, 1) is not None


def test_a_run_at_its_last_step_has_not_ended_early(tmp_path: Path):
    write(tmp_path, *steps(0.5, 0.4))
    assert early_stop.reason(tmp_path, state(4, last=4), 2, 1) is None
