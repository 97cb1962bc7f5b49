"""A detector of another framework, from its file or published name, in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fasterrcnn import recipes
from fasterrcnn.engine import checkpoint, download
from fasterrcnn.errors import UsageError
from fasterrcnn.importers import published, recognize, translate
from fasterrcnn.importers.recognize import Hints, Recognized
from fasterrcnn.models.build import Detector
from fasterrcnn.safe_load import reading
from fasterrcnn.safe_load.reading import File
from fasterrcnn.settings import as_flag


class Imported(NamedTuple):
    """A detector, and where it came from."""

    model: Detector
    state: checkpoint.State  # of a run that was never trained here
    file: File
    found: Recognized
    report: dict[str, Any]  # of every tensor, as `importers.translate.load` makes it


def load(
    name: str, hints: Hints, environment: dict[str, Any], entry: str | None = None
) -> Imported:
    """Import `entry` of file `name`, or what is published under that name; see `fasterrcnn import`.

    Raises Failure.
    """
    path = Path(name)
    if published.is_name(name):
        if hints.fields:
            raise UsageError(
                f"{as_flag(min(hints.fields))}: {name}: is published with its own value"
            )
        path = download.cached(published.url_of(name))
        hints = replace(hints, source=hints.source or name, published=True)
    file = reading.read(path, entry)
    found = recognize.recognize(file, hints)
    model, report = translate.load(file, found)
    state = checkpoint.State(
        step=0,
        last_step=0,
        recipe=recipes.change(found.recipe, weights=str(file.path.absolute())),
        classes=found.classes,
        scaler={},
        data={"digest": "", "path": "", "dataset": "auto", "val_split": "val"},
        environment=environment,
    )
    return Imported(model, state, file, found, report)
