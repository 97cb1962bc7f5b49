"""Processes that end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import PROJECT, clean_environment


@pytest.mark.parametrize(("launcher", "code"), [("this", 0), ("1", -signal.SIGKILL), (None, 0)])
def test_a_rank_whose_launcher_has_exited_ends(launcher: str | None, code: int):
    program = "from fasterrcnn.processes import die_with_launcher; die_with_launcher()"
    variables = clean_environment() | {"TORCHELASTIC_RUN_ID": "x"}
    if launcher is not None:
        variables["FASTERRCNN_LAUNCHER"] = launcher.replace("this", str(os.getpid()))
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, env=variables, check=False)
    assert done.returncode == code
