"""Saves survive faults in their system calls: some of them here, all of them in a slow test."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.conftest import HANG, PROJECT, clean_environment


@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_call_of_a_save_fails_no_checkpoint_is_lost(every: int):
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.saves", "--every", str(every)],
        cwd=PROJECT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    if done.stderr.startswith("strace: "):
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    count, _, rest = done.stdout.splitlines()[-1].partition(" ")
    assert rest == "faults, 0 with a loss"
    assert int(count) >= 150 // every
