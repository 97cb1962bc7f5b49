"""Ties child processes to their parent, so that no process of a run outlives its launcher."""

import ctypes
import signal


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent exits for any reason; elsewhere do nothing."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass
