"""Where a hostile file lies, and what surrounds it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """The folders of one file."""

    root: Path
    base: Path  # a run and a data set of shapes, neither of them to be written to

    @property
    def given(self) -> Path:
        """What the command is given: the hostile file is in it."""
        return self.root / "given"

    @property
    def outside(self) -> Path:
        """A folder beside it, with files that a command has no reason to touch."""
        return self.root / "outside"

    @property
    def out(self) -> Path:
        """Where the command may write."""
        return self.root / "out"

    @property
    def canary(self) -> Path:
        """What only code in a file would make."""
        return self.root / "canary"


class Skipped(Exception):
    """A file that cannot be tried here, and why."""
