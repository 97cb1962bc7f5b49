"""What is wrong in a data set, found before the first step: collected, counted, never silent.

A *fault* stops the run unless bad data is skipped, which drops exactly that box or image. A *note*
(box of zero size, box outside the image) is what published data sets contain: it is dropped or
clipped, counted and listed, and training goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from fasterrcnn.errors import DataError

_SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """One finding; `field` points into `file` (a json pointer, an XML path, a line number)."""

    file: str
    field: str
    value: str
    what: str
    action: str  # "stop", "dropped" or "clipped"

    def __str__(self) -> str:
        value = self.value if len(self.value) <= 80 else self.value[:77] + "..."
        return f"{self.file}: {self.field}: {value}: {self.what}"


class Problems:
    """The findings of one reading of a data set. `skip`: drop what a fault points at and go on."""

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.found: list[Problem] = []

    def fault(self, file: object, field: str, value: object, what: str) -> None:
        """A box or image that cannot be used; the caller leaves it out."""
        action = "dropped" if self.skip else "stop"
        self.found.append(Problem(str(file), field, _text(value), what, action))

    def note(self, file: object, field: str, value: object, what: str, action: str) -> None:
        """A box that is dropped or clipped without stopping the run."""
        self.found.append(Problem(str(file), field, _text(value), what, action))

    def counts(self) -> dict[str, int]:
        """``{"zero width or height: dropped": 2, ...}``, the most frequent first."""
        return dict(Counter(f"{p.what}: {p.action}" for p in self.found).most_common())

    def write(self, path: Path) -> None:
        """Every finding as one json line; no file when there is none."""
        if self.found:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(asdict(p)) + "\n" for p in self.found))

    def stop_if_any(self) -> None:
        """Raise DataError with the first faults and the count of the others."""
        stops = [p for p in self.found if p.action == "stop"]
        if not stops:
            return
        lines = [
            f"{p}; correct it, or drop such boxes and images with --bad-data skip" for p in stops
        ]
        if len(lines) > _SHOWN:
            lines[_SHOWN:] = [f"{len(lines) - _SHOWN} more like these, all in problems.jsonl"]
        raise DataError("\n".join(lines))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
