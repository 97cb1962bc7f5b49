"""What the operating system is asked for: no process of a run outlives the one that started it."""

import ctypes
import signal


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, however; elsewhere do nothing."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass
