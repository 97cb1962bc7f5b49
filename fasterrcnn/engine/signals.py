"""What ends a run after its current step: a signal, or the end of its time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fasterrcnn.errors import Stopped

_STARTED = "FASTERRCNN_STARTED"  # environment: when the first process of the command began (s)
_NAMES = {  # what is said of each
    signal.SIGINT: "SIGINT",
    signal.SIGUSR1: "SIGUSR1",  # Slurm's warning, with --signal
    signal.SIGALRM: "--max-hours",
    signal.SIGTERM: "SIGTERM",
}


def note_start() -> None:
    """Count the hours of `caught` from now on, in the processes that this one starts too."""
    os.environ.setdefault(_STARTED, str(time.time()))


@contextmanager
def caught(
    received: list[int], say: Callable[[str], None], *, alone: bool, hours: float
) -> Iterator[None]:
    """Inside, the signals of this module are only added to `received`; so is SIGALRM, `hours` after
    the start (0: never).

    `alone`: a second signal more than a second later exits at once. An earlier one is the same
    event: a terminal signals the whole group, and torchrun forwards.
    """
    last = 0.0

    def handle(number: int, _frame: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if not received:
            say(f"\n{_NAMES[signal.Signals(number)]}: saving after this step")
        elif alone and now - last > 1.0 and number != signal.SIGALRM:
            os._exit(exit_code(number))
        received.append(number)
        last = now

    numbers = _NAMES if hours else _NAMES.keys() - {signal.SIGALRM}
    before = {number: signal.signal(number, handle) for number in numbers}
    if hours:
        started = float(os.environ.get(_STARTED, time.time()))
        signal.setitimer(signal.ITIMER_REAL, max(0.001, started + 3600 * hours - time.time()))
    try:
        yield
    finally:
        if hours:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(number: int, what: str) -> Stopped:
    """What to raise for a signal that was received."""
    return Stopped(f"{_NAMES[signal.Signals(number)]}: {what}", exit_code(number))


def exit_code(number: int) -> int:
    """130 for SIGINT, else that of SIGTERM, 143, which schedulers know."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
