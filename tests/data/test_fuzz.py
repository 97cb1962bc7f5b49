"""Whatever stands in an annotation file, it is read or answered by an expected failure."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import Failure
from tests.data.fuzz import TARGETS, mutate

SEED = 20260214


def run(root: Path, name: str, count: int, seed: int) -> dict[str, int]:
    """Reads the data set `count` times, each time with one damaged file; what became of it."""
    target, random = TARGETS[name], Random(seed)
    target.write(root)
    outcomes = {"read": 0, "failure": 0}
    for _ in range(count):
        path = root / random.choice(target.files)
        whole = path.read_bytes()
        path.write_bytes(mutate(whole, random))
        problems = Problems(skip=random.random() < 0.5)
        try:
            formats.read(root, "train", random.choice(("auto", name)), (), problems)
            outcomes["read"] += 1
        except Failure as failure:
            assert str(failure)
            outcomes["failure"] += 1
        path.write_bytes(whole)
    return outcomes


def test_every_format_is_damaged():
    assert set(TARGETS) == set(formats.READERS)


@pytest.mark.parametrize("name", TARGETS)
def test_the_undamaged_files_are_read(tmp_path: Path, name: str):
    TARGETS[name].write(tmp_path)
    problems = Problems()
    data = formats.read(tmp_path, "train", "auto", (), problems)
    assert len(data.labels) >= 2
    assert {problem.action for problem in problems.found} <= {"its enclosing box is used"}


@pytest.mark.parametrize("name", TARGETS)
def test_100_damaged_files(tmp_path: Path, name: str):
    outcomes = run(tmp_path, name, 100, SEED)
    assert min(outcomes.values()) > 5  # the damage is neither harmless nor always fatal


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_2000_damaged_files(tmp_path: Path, name: str):
    outcomes = run(tmp_path, name, 2000, SEED + 1)
    assert sum(outcomes.values()) == 2000
