"""Methods of a detector exchanged for a while, to watch or to change what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

Change = Callable[[Callable], Callable]  # from a method to what is called in its place


@contextmanager
def methods_changed(detector: nn.Module, changes: Mapping[str, Change]) -> Iterator[None]:
    """Inside, each method is what its change makes of it.

    Methods are named by their path from the detector, such as "rpn.sample"; those that it does not
    have are left out.
    """
    changed = []
    for path, change in changes.items():
        *modules, name = path.split(".")
        module: Any = detector
        for child in modules:
            module = getattr(module, child, None)
        if hasattr(module, name):
            setattr(module, name, change(getattr(module, name)))
            changed.append((module, name))
    try:
        yield
    finally:
        for module, name in changed:
            delattr(module, name)
