"""Hostile files cost nothing but a line: some of them here, all of them in a slow test."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import HANG, PROJECT, clean_environment


@pytest.mark.parametrize("every", [25, pytest.param(1, marks=pytest.mark.slow)])
def test_hostile_files_run_nothing_and_cost_little(every: int):
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.hostile", "--every", str(every)],
        cwd=PROJECT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=2 * HANG,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = re.match(r"(\d+) files, \d+ skipped: 0 executed, 0 that", done.stdout.splitlines()[-1])
    assert count is not None, done.stdout
    assert int(count[1]) >= 210 // every
