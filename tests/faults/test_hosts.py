"""A run on two machines of which one is lost and comes back; both are this one, by the loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.processes import ALL, left_after, processes_of, train, wait_for_step
from tests.commands.runs import assert_same_bits, rows
from tests.conftest import HANG, TINY, clean_environment


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_the_other_machine_waits_for_the_lost_one_and_the_bits_are_the_same(
    shapes_folder: Path, tmp_path: Path, lost: int
):
    """The first machine is the one whose address all are given."""
    out = tmp_path / "run"
    flags = ("--data-path", shapes_folder, "--val-split", "none", "--save-every", 2)
    flags += ("--log-every", 1, "--workers", 1, "--steps", 14, "--max-restarts", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(machine: int) -> subprocess.Popen:
        cluster = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        own = {"NODE_RANK": str(machine), "NGPU": "1", "RUN": f"{tmp_path}/{machine}"}
        with out.with_suffix(".log").open("a") as log:
            return subprocess.Popen(
                ["bash", ALL, *TINY, "--amp", "off", "--output-dir", out, *map(str, flags)],
                env=clean_environment()
                | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **cluster, **own},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    machines = [start(0), start(1)]
    wait_for_step(out, 4, machines[0])
    for pid in processes_of(tmp_path / str(lost)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    machines[lost].wait(timeout=HANG)
    machines[lost] = start(lost)
    assert [machine.wait(timeout=HANG) for machine in machines] == [0, 0]
    assert out.with_suffix(".log").read_text().count("\nrestarting at step") == 1
    assert [row["step"] for row in rows(out)] == [*range(1, 15)]
    assert [left_after(tmp_path / str(machine)) for machine in (0, 1)] == [{}, {}]
    whole = train(ALL, tmp_path / "whole", *flags, ngpu=2)
    assert_same_bits(whole, max((out / "checkpoints").glob("step-*")))
