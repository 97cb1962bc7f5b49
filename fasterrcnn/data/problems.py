"""Problems in a data set: all are found before the first step, and none is silently ignored.

A *fault* stops the run, unless bad data is skipped, which drops just that box or image. A *note* (a
box of zero size or outside its image) is common in published data sets: the box is dropped or
clipped, the note counted and listed, and training goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fasterrcnn.data.json_values import shown
from fasterrcnn.errors import DataError

if TYPE_CHECKING:  # it imports this module
    from fasterrcnn.data.images import Header

_MAX_SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """One problem; `field` is its place in `file` (a json pointer, an XML path, a line number)."""

    file: str
    field: str
    value: str
    what: str
    action: str  # "stop", "dropped", "clipped", ...

    def __str__(self) -> str:
        file = self.file if len(self.file) <= 4096 else self.file[:77] + "..."  # a path's limit
        value = self.value if len(self.value) <= 80 else self.value[:77] + "..."
        return f"{file}: {self.field}: {value}: {self.what}"


class Problems:
    """The problems found while reading a data set. `skip`: a fault drops its box or image and does
    not stop the run. `kept`: files, by absolute path, whose damage is no fault, because the run
    replaces their images; with their headers from before."""

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.kept: dict[str, Header] = {}
        self.found: list[Problem] = []

    def fresh(self) -> Problems:
        """No problems yet, of the same run."""
        other = Problems(self.skip)
        other.kept = self.kept
        return other

    def fault(self, file: object, field: str, value: object, what: str) -> None:
        """Record a box or image that cannot be used; the caller leaves it out."""
        action = "dropped" if self.skip else "stop"
        self.found.append(Problem(str(file), field, _text(value), what, action))

    def note(self, file: object, field: str, value: object, what: str, action: str) -> None:
        """Record a box that is dropped or clipped without stopping the run."""
        self.found.append(Problem(str(file), field, _text(value), what, action))

    def add_new(self, other: Problems) -> None:
        """Add the findings of `other` that are not here yet: splits of one folder have the same."""
        known = set(self.found)
        self.found += [problem for problem in other.found if problem not in known]

    def counts(self) -> dict[str, int]:
        """``{"zero width or height: dropped": 2, ...}``, the most frequent first."""
        return dict(Counter(f"{p.what}: {p.action}" for p in self.found).most_common())

    def summary(self) -> list[str]:
        """One log line per kind of problem."""
        return [f"data: {count} x {what}" for what, count in self.counts().items()]

    def write(self, path: Path, *, append: bool = False) -> None:
        """Write every problem as one json line; without problems no file is written."""
        if self.found:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a" if append else "w") as file:
                file.writelines(json.dumps(asdict(p)) + "\n" for p in self.found)

    def stop_if_any(self) -> None:
        """Raise DataError with the first faults and the number of others, if any stop the run."""
        stops = [p for p in self.found if p.action == "stop"]
        if not stops:
            return
        lines = [
            f"{p}; correct it, or drop such boxes and images with --bad-data skip" for p in stops
        ]
        if len(lines) > _MAX_SHOWN:
            lines[_MAX_SHOWN:] = [f"{len(lines) - _MAX_SHOWN} more; all are in problems.jsonl"]
        raise DataError("\n".join(lines))


def _text(value: object) -> str:
    """`value` as it stands in json; strings without quotes."""
    text = value if isinstance(value, str) else shown(value)
    return text.encode("utf-8", "backslashreplace").decode()
