"""The batch script for Slurm, with commands of its name that start two machines on this one."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.processes import (
    ALL,
    HANG,
    left_after,
    processes_of,
    run_folder,
    train,
    wait_for_step,
)
from tests.commands.runs import assert_same_bits, rows
from tests.conftest import PROJECT, TINY, clean_environment

__all__ = ["run_folder"]  # a fixture
SCRIPT = PROJECT / "start_scripts" / "slurm_train.sbatch"
# Of every task the exit code counts that is largest; SIGUSR1 goes to every task.
SRUN = """#!/usr/bin/env bash
for id in 0 1; do SLURM_NODEID=$id "$@" >>"$LOG-$id" 2>&1 & tasks+=($!); done
trap 'kill -USR1 "${tasks[@]}"' USR1
most=0
for task in "${tasks[@]}"; do
  while code=0; wait "$task" || code=$?; kill -0 "$task" 2>/dev/null; do :; done
  ((code <= most)) || most=$code
done
exit "$most"
"""
SCONTROL = """#!/usr/bin/env bash
if [[ $1 == show ]]; then printf '127.0.0.1\\nother\\n'; else echo "$*" >>"$REQUEUED"; fi
"""


@pytest.fixture
def slurm(tmp_path: Path, run_folder: Path):
    """Starts the script with other FLAGS, in a session of its own."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def start(*flags: object, **environment: str) -> subprocess.Popen:
        words = shlex.join(map(str, (*TINY, "--output-dir", run_folder, *flags)))
        lines = SCRIPT.read_text().splitlines()
        edited = [f"FLAGS=({words})" if line.startswith("FLAGS=") else line for line in lines]
        (tmp_path / "job").write_text("\n".join(edited))
        job = {"SLURM_SUBMIT_DIR": PROJECT, "SLURM_NNODES": 2, "SLURM_JOB_ID": 9000 + os.getpid()}
        job |= {"SLURM_JOB_NODELIST": "both", "REQUEUED": tmp_path / "requeued", "NGPU": 1}
        job |= {"LOG": tmp_path / "log"}
        job |= {"PYTHON": sys.executable, "RUN": run_folder, "OMP_NUM_THREADS": 1, **environment}
        return subprocess.Popen(
            ["bash", tmp_path / "job"],
            env=clean_environment()
            | {key: str(value) for key, value in job.items()}
            | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            stdout=run_folder.with_suffix(".log").open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    return start


def test_every_machine_gets_its_number_and_the_first_ones_address(slurm, tmp_path: Path):
    assert slurm("--lr", 0.1, DRY_RUN="1").wait(timeout=HANG) == 0
    for rank in (0, 1):
        (line,) = (tmp_path / f"log-{rank}").read_text().splitlines()
        assert f" --nnodes=2 --node-rank={rank} --master-addr=127.0.0.1 " in line
        assert line.endswith(" --lr 0.1")


@pytest.mark.slow
def test_a_warned_run_is_queued_again_and_ends_with_the_same_bits(
    slurm, shapes_folder: Path, run_folder: Path, tmp_path: Path
):
    flags = ("--data-path", shapes_folder, "--val-split", "none", "--save-every", 0)
    flags += ("--log-every", 1, "--device", "cpu", "--amp", "off")
    job = slurm(*flags, "--steps", 900)
    wait_for_step(run_folder, 3, job)
    (srun,) = [pid for pid, parent in processes_of(run_folder).items() if parent == job.pid]
    os.kill(srun, signal.SIGUSR1)
    assert job.wait(timeout=HANG) == 143
    assert left_after(run_folder) == {}
    assert (tmp_path / "requeued").read_text() == f"requeue {9000 + os.getpid()}\n"
    (saved,) = (run_folder / "checkpoints").glob("step-*")
    steps = int(saved.name[5:]) + 2
    assert slurm(*flags, "--steps", steps).wait(timeout=HANG) == 0
    assert [row["step"] for row in rows(run_folder)] == [*range(1, steps + 1)]
    whole = train(ALL, tmp_path / "whole", *flags, "--steps", steps, ngpu=2)
    assert_same_bits(whole, max((run_folder / "checkpoints").glob("step-*")))
