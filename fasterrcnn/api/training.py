"""`train` as a function."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from fasterrcnn.api.fields import as_flags
from fasterrcnn.api.mistakes import value_errors
from fasterrcnn.cli import names
from fasterrcnn.engine import runtime


def train(
    *,
    data_path: str | Path,
    recipe: str | None = None,
    output: str | Path | None = None,
    **fields: Any,
) -> Path:
    """Train a detector as ``fasterrcnn train`` does; its run folder, which `load` takes.

    fields: flags of the command by name, such as ``epochs=12``, ``weights="coco"`` or
    ``classes=("cat", "dog")``; one with a dot as ``**{"input.min_size": 640}``. The same call
    continues a run that was killed. Raises ValueError for what the command exits with 2, 3 or 4
    for, and another `errors.Failure` for what else it expects.
    """
    given = {"recipe": recipe, "data_path": data_path, "output_dir": output, **fields}
    if fields.get("max_restarts"):
        raise ValueError("max_restarts: only the command restarts itself; leave it out")
    command = import_module(names.module_of("train"))
    with value_errors(), runtime.settings_kept():
        return command.main(as_flags(given, command.Options))
