"""What ends a run after its current step: a signal, or the end of its time.

Before the first step and after the last one, while there is nothing to save, a signal ends it at
once.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from fasterrcnn.errors import Stopped

_STARTED = "FASTERRCNN_STARTED"  # environment: when the first process of the command began (s)
_NAMES = {  # what is said of each
    signal.SIGINT: "SIGINT",
    signal.SIGUSR1: "SIGUSR1",  # Slurm's warning, with --signal
    signal.SIGALRM: "--max-hours",
    signal.SIGTERM: "SIGTERM",
}
_SAME = 1.0  # s within which signals are one event: a terminal signals the group, torchrun forwards


def note_start() -> None:
    """Count the hours of `caught` from now on, in the processes that this one starts too."""
    os.environ.setdefault(_STARTED, str(time.time()))


class Ending:
    """A handler that reports why the process ends and ends it at once.

    It raises nothing: what is imported meanwhile may catch it, or Python exit as after SIGINT.
    """

    def __init__(self, report: Callable[[Stopped], object]) -> None:
        self.reports = [report]
        self.begun = math.inf  # when the process began to end by itself
        self._process = os.getpid()

    def __call__(self, number: int, _frame: Any) -> None:
        """Called by Python."""
        if os.getpid() != self._process:  # it was forked, such as a worker of a pool
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif time.monotonic() - self.begun > _SAME:
            os._exit(exit_code(number))  # it should be over
        elif self.begun == math.inf:
            self.end(interrupted(number))

    def end(self, stop: Stopped) -> NoReturn:
        """Report why, and exit."""
        try:
            for report in reversed(self.reports):
                report(stop)
        finally:
            os._exit(stop.code)


def end_at_once(report: Callable[[Stopped], object]) -> None:
    """From now on, except inside `caught`, a signal ends the process after a call of `report`."""
    handler = Ending(report)
    for number in _NAMES.keys() - {signal.SIGALRM}:
        signal.signal(number, handler)


@contextmanager
def also_reported(report: Callable[[Stopped], object]) -> Iterator[None]:
    """Inside, a signal that ends the process at once is reported here too."""
    handler = signal.getsignal(signal.SIGTERM)
    reports = handler.reports if isinstance(handler, Ending) else []
    reports.append(report)
    try:
        yield
    finally:
        reports.remove(report)


def let_end() -> None:
    """The process is about to exit: a signal is no reason to report something else."""
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, Ending):
        handler.begun = min(handler.begun, time.monotonic())


def interrupted(number: int) -> Stopped:
    """The end by a signal while there is nothing to save."""
    return stopped(number, "no step was under way; the same command continues the run")


@contextmanager
def caught(
    received: list[int], say: Callable[[str], None], *, alone: bool, hours: float
) -> Iterator[None]:
    """Inside, the signals of this module are only added to `received`; so is SIGALRM, `hours` after
    the start (0: never).

    `alone`: a second signal more than a second later exits at once.
    """
    last = 0.0

    def handle(number: int, _frame: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if not received:
            say(f"\n{_NAMES[signal.Signals(number)]}: saving after this step")
        elif alone and now - last > _SAME and number != signal.SIGALRM:
            again = stopped(number, "again: what is not saved is lost; the same command continues")
            if isinstance(handler := before[number], Ending):
                handler.end(again)
            os._exit(again.code)
        received.append(number)
        last = now

    numbers = _NAMES if hours else _NAMES.keys() - {signal.SIGALRM}
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    for each in before:
        signal.signal(each, handle)
    if hours:
        started = float(os.environ.get(_STARTED, time.time()))
        signal.setitimer(signal.ITIMER_REAL, max(0.001, started + 3600 * hours - time.time()))
    try:
        yield
    finally:
        if hours:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in before.items():
            if received and isinstance(handler, Ending):
                handler.begun = last
            signal.signal(each, handler)


def stopped(number: int, what: str) -> Stopped:
    """What to raise for a signal that was received."""
    return Stopped(f"{_NAMES[signal.Signals(number)]}: {what}", exit_code(number))


def exit_code(number: int) -> int:
    """130 for SIGINT, else that of SIGTERM, 143, which schedulers know."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
