"""Run a command in several processes: torchrun, with the exit code of the rank that failed.

Takes torchrun's arguments and runs torchrun's own main. In addition it exits with the code of the
failure that a rank reported (torchrun turns every code into 1), names a killed rank in one line
instead of a traceback, and divides the cores among the processes of a machine.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch.distributed import DistNetworkError, run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from fasterrcnn.engine import signals
from fasterrcnn.errors import ProcessDied, UsageError
from fasterrcnn.processes import launch_ranks


def main(argv: list[str]) -> None:
    """Run the command and exit with the code of the run."""
    sys.unraisablehook = leave_out_timer
    sys.exit(launch(argv))


def leave_out_timer(unraisable: Any) -> None:
    """Show what was raised where nothing can catch it, but for torchrun's keep-alive timer: when it
    is collected in its own thread, its finalizer tries to join that thread (torch 2.11)."""
    if str(unraisable.exc_value) != "cannot join current thread":
        sys.__unraisablehook__(unraisable)


def launch(argv: list[str]) -> int:
    """Run torchrun with these arguments; the exit code. Raises UsageError for a port in use, and
    Stopped for a signal that no rank could explain."""
    for name in ("torch.distributed.run", "torch.distributed.elastic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    arguments = run.parse_args(argv)
    launch_ranks()
    processes = run.determine_local_world_size(arguments.nproc_per_node)
    # torchrun would die of it: Slurm's warning goes the way of a SIGTERM to the ranks.
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with tempfile.TemporaryDirectory() as folder:
        status = Path(folder) / "status.json"
        # The first rank to fail writes it (cli.exit_codes).
        os.environ["FASTERRCNN_STATUS"] = str(status)
        try:
            run.main(argv)
        except SignalException as error:
            if not status.exists() and error.sigval in (signal.SIGINT, signal.SIGTERM):
                raise signals.interrupted(error.sigval) from None  # no rank was ready for it
            return 128 + error.sigval
        except ChildFailedError as error:
            killed = _killed(error)
            if killed:
                print(f"error: {killed}; the same command continues the run", file=sys.stderr)
                return ProcessDied.code
            if status.exists():
                return json.loads(status.read_text())["code"]
            if any(failure.exitcode == -signal.SIGTERM for failure in error.failures.values()):
                raise signals.interrupted(signal.SIGTERM) from None
            return 1
        except DistNetworkError as error:
            if "EADDRINUSE" not in str(error):
                raise
            raise UsageError(
                f"MASTER_PORT: {arguments.master_port}: in use on this machine; set another on "
                "every machine"
            ) from None
        finally:
            del os.environ["FASTERRCNN_STATUS"]
    return 0


def _killed(error: ChildFailedError) -> str:
    """The ranks that a signal killed, torchrun's own SIGTERM to the others left out."""
    found = [
        f"rank {rank} (process {failure.pid}) was killed by "
        f"{signal.Signals(-failure.exitcode).name}"
        for rank, failure in error.failures.items()
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
    ]
    return ", ".join(found)
