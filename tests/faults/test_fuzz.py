"""Damaged files and odd command lines: some of them here, thousands in a slow test."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import HANG, PROJECT, clean_environment
from tests.faults import fuzz


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_60_inputs_are_taken_or_refused(tmp_path: Path, name: str):
    target = fuzz.TARGETS[name](tmp_path)
    found = Counter(fuzz.outcome(target, 0, number) for number in range(60))
    assert {*found} == {"taken", "refused"}


def test_anything_else_is_a_crash():
    class Target:
        def try_one(self, _) -> None:
            raise IndexError("x")

    assert fuzz.outcome(Target(), 0, 0).startswith("crash: IndexError: 'x' at test_fuzz.py:")


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_minute_of_inputs(name: str):
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz", name, "--seconds", "60", "--seed", "2"],
        cwd=PROJECT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" taken, 0 crashes")
