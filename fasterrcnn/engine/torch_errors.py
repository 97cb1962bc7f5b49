"""Errors of torch and of the disk with a known cause, as failures that a user can act on.

Does not import torch: commands that do without it end here too.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from fasterrcnn.errors import GO_ON, Failure, Hang, ProcessDied, StorageError, UsageError

COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # rank 0 may measure a large split while others wait
_NO_COMPILER = ("InvalidCxxCompiler", "TritonMissing", "GPUTooOldForTriton")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
_PEER_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Socket closed",
    "ncclRemote",
)


@contextmanager
def expected_failures() -> Iterator[None]:
    """Inside, an error of torch or of the disk is raised as the Failure that explains it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise StorageError(
            f"{error.filename or 'a file'}: {error.strerror}; free some space or check the disk; "
            "the same command continues a run"
        ) from None
    except RuntimeError as error:
        failure = explain(error)
        if failure is None:
            raise
        raise failure from None


def explain(error: RuntimeError) -> Failure | None:
    """The Failure that `error` stands for, or None."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    if type(error).__name__ == "OutOfMemoryError":
        return ProcessDied(
            f"GPU memory: {first}; lower --images-per-gpu (a step keeps its --images-per-step); "
            f"{GO_ON}"
        )
    if "DefaultCPUAllocator" in text or "Storage size calculation overflowed" in text:
        asked = re.search(r"tried to allocate (\d+) bytes", text)
        size = f"{int(asked[1]) / 2**30:,.1f} GiB" if asked else "a tensor of that size"
        return ProcessDied(
            f"memory: {size} could not be allocated; lower --images-per-gpu, or the size of images "
            f"or of the network; {GO_ON}"
        )
    if first.startswith(_NO_COMPILER):
        return UsageError(f"--compile: {first}; install it, or leave --compile out")
    if "deterministic implementation" in text:
        return UsageError(f"--deterministic: {first.split(',')[0]}; leave --deterministic out")
    if "DataLoader worker" in text:
        return ProcessDied(
            f"loader: {first} If memory ran out, lower --workers; the same command continues"
        )
    if any(sign in text for sign in _PEER_LOST):
        return ProcessDied("another process of this run ended; the same command continues the run")
    if "Timed out" in text:
        return Hang(f"a process did not arrive within {COLLECTIVE_TIMEOUT}: {first}")
    return None
