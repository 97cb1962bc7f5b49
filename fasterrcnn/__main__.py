"""The one entry point: ``fasterrcnn COMMAND ...`` or ``python -m fasterrcnn COMMAND ...``."""

from __future__ import annotations

import difflib
import gc
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module

if __name__ == "__main__":  # Ctrl-C during the imports would end in a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from fasterrcnn.cli import exit_codes, names
from fasterrcnn.engine import restarts, signals
from fasterrcnn.errors import UsageError
from fasterrcnn.processes import die_with_launcher


def main() -> None:
    """Run the command that the first argument names, and exit with its code."""
    exit_codes.run(choose(sys.argv[1:]))


def choose(argv: list[str]) -> Callable[[], None]:
    """What the arguments ask for. A command is imported when it is run."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        return show_help
    return partial(run_command, *argv)


def run_command(name: str, *argv: str) -> None:
    """Run command `name`. Raises UsageError for one that does not exist, or whose requirements
    this Python does not have."""
    if name not in names.COMMANDS:
        close = difflib.get_close_matches(name, names.COMMANDS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"{name}: unknown command{hint} (fasterrcnn --help lists them)")
    if name in names.CONTINUED:
        signals.end_at_once(exit_codes.report)
    die_with_launcher()
    # By default a waiting thread of OpenMP spins, on a core that another process could use: on a
    # busy machine training on a CPU was more than 10 times as slow (docs/measurements.md). The
    # variable is read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    signals.note_start()
    if most := restarts.asked_for(name, argv):
        sys.exit(restarts.supervise([sys.executable, "-m", "fasterrcnn", name, *argv], most))
    # What is imported stays. The garbage collector, which visits it again and again, at the exit
    # too, took a quarter of the time in which a command starts.
    gc.disable()
    try:
        module = import_module(names.module_of(name))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "fasterrcnn"):
            raise
        raise UsageError(
            f"PYTHON: {sys.executable}: has no {package}; install requirements.txt into it, or "
            "use another"
        ) from None
    finally:
        gc.freeze()
        gc.enable()
    module.main([*argv])


def show_help() -> None:
    """The commands, a line each."""
    width = max(map(len, names.COMMANDS))
    print("usage: fasterrcnn COMMAND [flags]\n\ncommands:")
    for name in names.COMMANDS:
        print(f"  {name:{width}}  {names.summary(name)}")
    print("\nfasterrcnn COMMAND --help shows its flags.")


if __name__ == "__main__":
    main()
