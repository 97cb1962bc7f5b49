"""How far a command is: a bar on a terminal, elsewhere a line every so often."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

_EVERY = 30.0  # s between lines


class Progress:
    """Counts things up to `total`, if that is known; `close` it, or use it as a context."""

    def __init__(
        self, total: int | None, what: str, doing: str = "", *, shown: bool = True
    ) -> None:
        """`what` is counted ("images") while `doing` something ("evaluating")."""
        self._total, self._what, self._doing, self._shown = total, what, doing, shown
        self._bar = tqdm(
            total=total, desc=doing or None, unit=f" {what}", delay=1, leave=False,
            disable=None if shown else True, dynamic_ncols=True,
        )  # fmt: skip
        self._started = self._last = time.monotonic()
        self.count = 0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def step(self, count: int = 1) -> None:
        """Count `count` more."""
        self.count += count
        self._bar.update(count)
        if self._shown and not sys.stderr.isatty() and time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            tqdm.write(f"{self._doing}: {self}" if self._doing else str(self), file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __str__(self) -> str:
        of = f" of {self._total}" if self._total is not None else ""
        rate = self.count / max(self.seconds, 1e-9)
        return f"{self.count}{of} {self._what}, {rate:.1f} {self._what}/s"


def over(doing: str, items: Iterable[Item], total: int, what: str = "images") -> Iterator[Item]:
    """`items`, counted as they are done."""
    with Progress(total, what, doing) as shown:
        for item in items:
            yield item
            shown.step()
