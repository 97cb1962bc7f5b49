"""Faster R-CNN training recipes on torchvision. README.md beside this file explains the code.

`load` gives a detector to call from Python, `train` trains one; `fasterrcnn.api` documents them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasterrcnn.api import Detections, Predictor, load, train

__all__ = ["Detections", "Predictor", "load", "train"]


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported with torch when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("fasterrcnn.api"), name)
