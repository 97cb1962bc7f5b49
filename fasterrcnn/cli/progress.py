"""How far a command is: a bar on a terminal, elsewhere a line every so often."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_EVERY = 30.0  # s between lines


class Progress:
    """Counts `what` ("images") up to `total`, if that is known."""

    def __init__(self, total: int | None, what: str) -> None:
        self._bar = tqdm(total=total, unit=f" {what}", delay=1, leave=False, disable=None)
        self._total, self._what = total, what
        self._started = self._last = time.monotonic()
        self.count = 0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def step(self) -> None:
        """Count one."""
        self.count += 1
        self._bar.update()
        if not sys.stderr.isatty() and time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            print(self, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def __str__(self) -> str:
        of = f" of {self._total}" if self._total is not None else ""
        rate = self.count / max(self.seconds, 1e-9)
        return f"{self.count}{of} {self._what}, {rate:.1f} {self._what}/s"
