"""The folder for what is known of a user's data from run to run. Deleting it costs time only."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """``$XDG_CACHE_HOME/fasterrcnn``, else ``~/.cache/fasterrcnn``; it may not exist.

    Raises RuntimeError if this user has no home folder.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))  # to be ignored unless it is absolute
    return (given if given.is_absolute() else Path.home() / ".cache") / "fasterrcnn"
