"""Ties child processes to their parent, so that no process of a run outlives its launcher."""

import ctypes
import os
import signal

_LAUNCHER = "FASTERRCNN_LAUNCHER"  # environment: the process that starts the ranks


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent exits for any reason; elsewhere do nothing."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass


def launch_ranks() -> None:
    """Tell the processes that this one starts that it is their launcher."""
    os.environ[_LAUNCHER] = str(os.getpid())


def die_with_launcher() -> None:
    """In a rank, `die_with_parent`, also if the launcher has exited already."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    die_with_parent()
    launcher = os.environ.get(_LAUNCHER)  # none under torch's own torchrun
    if launcher is not None and os.getppid() != int(launcher):
        os.kill(os.getpid(), signal.SIGKILL)
