"""Where evaluations are kept, and which of them decide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn import recipes
from fasterrcnn.engine import checkpoint, results
from fasterrcnn.engine.results import Evaluation
from tests.faults import hostile_runs
from tests.faults.places import Place

FOUND = np.array([[0, 1.1, 2.2, 30.3, 40.4, 0.9, 1], [2, 0.1, 0.2, 0.3, 0.4, 0.05, 7]])
FOUND[:, 1:3] = FOUND[:, 1:3].astype(np.float32)
FOUND[:, 3:5] = (FOUND[:, 1:3] + FOUND[:, 3:5]).astype(np.float32) - FOUND[:, 1:3]
FOUND[:, 5] = FOUND[:, 5].astype(np.float32)


def keep(run: Path, step: int, ap: float, *, split: str = "val", own: bool = True, **changes):
    path = checkpoint.path_of(run / "checkpoints", step)
    path.mkdir(parents=True, exist_ok=True)
    done = Evaluation(step, split, f"digest of {split}", 3, "data", "auto")._replace(**changes)
    results.save(done, {"AP": ap, "validation_loss": 1.5}, FOUND, path, own=own)
    return path


def test_detections_are_kept_to_the_bit(tmp_path: Path):
    path = keep(tmp_path, 1, 0.5)
    assert results.load_detections(path / "detections.npz").tolist() == FOUND.tolist()


def test_only_the_own_split_decides(tmp_path: Path):
    best = keep(tmp_path, 1, 0.6)
    keep(tmp_path, 2, 0.5)
    keep(tmp_path, 2, 0.99, split="train", own=False)
    assert checkpoint.best(tmp_path / "checkpoints") == best
    assert json.loads((tmp_path / "results.json").read_text())["AP"] == 0.5
    assert json.loads((tmp_path / "results-train.json").read_text())["AP"] == 0.99
    assert (tmp_path / "detections-train.npz").exists()
    assert [(row["step"], row["split"]) for row in results.read(tmp_path)] == [
        (1, "val"), (2, "val"), (2, "train"),
    ]  # fmt: skip


def test_other_data_is_not_compared(tmp_path: Path):
    keep(tmp_path, 1, 0.9, digest="of the former validation split")
    latest = keep(tmp_path, 2, 0.5)
    assert checkpoint.best(tmp_path / "checkpoints") == latest


def test_a_repeated_evaluation_counts_once(tmp_path: Path):
    keep(tmp_path, 1, 0.5)
    keep(tmp_path, 1, 0.6)
    keep(tmp_path, 1, 0.7, changed=("nms-thresh: 0.7",), own=False)
    assert [row["AP"] for row in results.read(tmp_path)] == [0.6, 0.7]


def test_a_line_that_a_killed_process_left_is_ignored_and_removed(tmp_path: Path):
    keep(tmp_path, 1, 0.5)
    file = tmp_path / results.FILE
    file.write_bytes(file.read_bytes() + b'{"step": 2, "spl')
    assert len(results.read(tmp_path)) == 1
    keep(tmp_path, 3, 0.6)
    assert [row["step"] for row in results.read(tmp_path)] == [1, 3]
    results.cut(tmp_path, 2)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1]


def test_the_own_evaluations(tmp_path: Path):
    assert results.own(tmp_path, "digest of val") == []
    keep(tmp_path, 1, 0.5, changed=("nms-thresh: 0.7",), own=False)
    keep(tmp_path, 2, 0.5, split="train", own=False)
    assert results.own(tmp_path, "digest of val") == []
    keep(tmp_path, 1, 0.6)
    assert [(row["step"], row["AP"]) for row in results.own(tmp_path, "digest of val")] == [
        (1, 0.6)
    ]


@pytest.mark.parametrize(
    ("known", "split", "changed", "own"),
    [
        ("digest", "val", (), True),
        ("digest", "elsewhere", (), True),
        ("digest", "val", ("limit: 10",), False),
        ("another", "val", (), False),
        (None, "val", (), True),  # an imported detector
        (None, "test", (), True),
        (None, "train", (), False),
    ],
)
def test_what_is_the_own_split(known, split, changed, own):
    recipe = recipes.fasterrcnn_r10_fpn_shapes()
    state = checkpoint.State(1, 2, recipe, None, {}, {"val_digest": known}, {})  # type: ignore[arg-type]
    assert Evaluation(1, split, "digest", 3, "data", "auto", changed).is_own(state) is own


def test_detections_of_a_checkpoint_on_a_split(tmp_path: Path):
    """By the step, the data and the run's own settings; of another step they do not count."""
    own = keep(tmp_path, 1, 0.5)
    later = keep(tmp_path, 2, 0.5)
    keep(tmp_path, 2, 0.5, split="test", own=False)
    assert results.detections_on(own, 1, "digest of val") == own / "detections.npz"
    assert results.detections_on(later, 2, "digest of test") == tmp_path / "detections-test.npz"
    assert results.detections_on(own, 1, "digest of test") is None
    assert results.detections_on(own, 1, "digest of another") is None
    keep(tmp_path, 2, 0.5, split="test", own=False, changed=("top-n: 3",))
    assert results.detections_on(later, 2, "digest of test") is None
    (later / "detections.npz").unlink()
    assert results.detections_on(later, 2, "digest of val") is None
    (own / "results.json").write_text('{"step"')
    assert results.detections_on(own, 1, "digest of val") is None


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" + bytes(30), b"{}"])
def test_a_damaged_file_of_detections(tmp_path: Path, content: bytes):
    (tmp_path / "detections.npz").write_bytes(content)
    with pytest.raises(ValueError):
        results.load_detections(tmp_path / "detections.npz")


@pytest.mark.parametrize("line", [
    "[" * 100_000, "7", "{}", '{"step": {}}', '{"step": 1}', '{"step": "1", "split": "val"}',
])  # fmt: skip
def test_lines_that_are_no_evaluation(tmp_path: Path, line: str):
    keep(tmp_path, 1, 0.5)
    with (tmp_path / results.FILE).open("a") as file:
        file.write(line + "\n")
    assert [row["step"] for row in results.read(tmp_path)] == [1]
    results.cut(tmp_path, 1)
    assert [row["step"] for row in results.read(tmp_path)] == [1]


@pytest.mark.parametrize("file", [
    hostile_runs.detections_of_terabytes, hostile_runs.detections_of_objects,
    hostile_runs.detections_of_text, hostile_runs.detections_deflated,
])  # fmt: skip
def test_detections_that_are_made_to_harm(tmp_path: Path, monkeypatch, file):
    monkeypatch.setattr(hostile_runs, "_run", lambda place: place.root)
    file(Place(tmp_path, tmp_path))
    with pytest.raises(ValueError, match="not a file of detections") as error:
        results.load_detections(tmp_path / "detections.npz")
    assert "\n" not in str(error.value)
