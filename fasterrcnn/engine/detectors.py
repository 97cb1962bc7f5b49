"""A detector from whatever it is kept in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fasterrcnn.engine import checkpoint, hub, importing
from fasterrcnn.export import detector as exported
from fasterrcnn.importers import published
from fasterrcnn.importers.recognize import Hints
from fasterrcnn.models.build import Detector

_FILES = (".pth", ".pkl", ".safetensors")  # of other frameworks


class Loaded(NamedTuple):
    """A detector, on the CPU and in evaluation mode, and where it came from."""

    model: Detector
    state: checkpoint.State
    path: Path  # of the checkpoint, file or folder; as given, if that is a name
    folder: Path  # for what is made with it: the run's, or one of its own
    of_run: bool  # a checkpoint, whose run keeps its results


def load(source: str | Path) -> Loaded:
    """Load what `source` names: what `checkpoint.load_detector` takes, a folder of `hub.write` or
    its name on the Hub (``hf:ORG/NAME``), a file of another framework or the name of a published
    one (``mmdet:...``).

    Raises Failure.
    """
    name, given = str(source), Path(source)
    path = hub.download(name) if hub.is_name(name) else given
    if hub.is_ours(path):
        beside = Path(given.name) if path != given else given
        folder = beside.absolute().with_name(f"{beside.absolute().name}-results")
        return Loaded(*hub.load(path), given, folder, of_run=False)
    if published.is_name(name) or (path.is_file() and path.suffix in _FILES):
        imported = importing.load(name, Hints(), environment={})
        folder = path.with_suffix("") if path.is_file() else Path(name.rpartition(":")[2])
        return Loaded(imported.model.eval(), imported.state, path, folder, of_run=False)
    model, state, path = checkpoint.load_detector(path)
    of_run = path.suffix not in exported.FILES
    return Loaded(model, state, path, checkpoint.run_of(path), of_run)
