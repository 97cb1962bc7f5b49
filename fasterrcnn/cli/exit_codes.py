"""How a command ends: expected failures as one line on stderr and the exit code of their kind."""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from fasterrcnn.engine import signals
from fasterrcnn.engine.torch_errors import expected_failures
from fasterrcnn.errors import Failure, Stopped, StorageError

# Names in files can hold what a terminal would obey.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(line: str) -> str:
    """`line` with escapes for control characters."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], line)


def run(main: Callable[[], Any]) -> NoReturn:
    """Call `main` and exit with 0, or with the code of the Failure it raised.

    Other exceptions are bugs and keep their traceback.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a script's background job
    try:
        with expected_failures():
            main()
        code = 0
    except Failure as failure:
        code = report(failure)
    except BrokenPipeError:  # the reader of stdout has ended, as with "| head"
        code = 128 + signal.SIGPIPE
    except OSError as error:  # a path given by a flag that cannot be written, such as --json
        if error.filename is None:
            raise
        code = report(StorageError(f"{error.filename}: {error.strerror}; give another path"))
    except KeyboardInterrupt:
        code = 130
    signals.let_end()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # else Python would fail in flushing it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if "TORCHELASTIC_RUN_ID" in os.environ:  # a rank of torchrun
        _end_rank(code)
    sys.exit(code)


def _end_rank(code: int) -> NoReturn:
    """Exit without taking the interpreter apart: a thread of gloo that frees a tensor while Python
    does that aborts the process (torch 2.11), and a rank that ended well would count as killed."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def report(failure: Failure) -> int:
    """Print the failure unless another rank of this run already did; its exit code."""
    status = os.environ.get("FASTERRCNN_STATUS")  # set by fasterrcnn torchrun, one file per run
    try:
        if status:
            with Path(status).open("x") as file:
                json.dump({"code": failure.code, "message": str(failure)}, file)
    except FileExistsError:
        return failure.code
    except OSError:  # torchrun itself has failed, and its folder is gone
        pass
    label = "stopped" if isinstance(failure, Stopped) else "error"
    for line in str(failure).splitlines():
        print(f"{label}: {printable(line)}", file=sys.stderr)
    return failure.code
