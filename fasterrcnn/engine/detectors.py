"""A detector from whatever it is kept in."""

from __future__ import annotations

from pathlib import Path

from fasterrcnn.engine import checkpoint, hub, importing
from fasterrcnn.importers import published
from fasterrcnn.importers.recognize import Hints
from fasterrcnn.models.build import Detector

_FILES = (".pth", ".pkl", ".safetensors")  # of other frameworks


def load(source: str) -> tuple[Detector, checkpoint.State]:
    """The detector, on the CPU and in evaluation mode, and its state.

    source: what `checkpoint.load_detector` takes, a folder of `hub.write` or its name on the Hub
    (``hf:ORG/NAME``), a file of another framework or the name of a published one (``mmdet:...``).
    Raises Failure.
    """
    path = hub.download(source) if hub.is_name(source) else Path(source)
    if hub.is_ours(path):
        return hub.load(path)
    if published.is_name(source) or (path.is_file() and path.suffix in _FILES):
        imported = importing.load(source, Hints(), environment={})
        return imported.model.eval(), imported.state
    return checkpoint.load_detector(path)[:2]
