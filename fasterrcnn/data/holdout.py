"""Holds images out of a split for validation, where a data set has only one."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import numpy as np

from fasterrcnn import seeds
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.paths import without_hash
from fasterrcnn.errors import UsageError


def hold_out(
    annotations: Annotations, fraction: float, root: Path
) -> tuple[Annotations, Annotations]:
    """The images to train on, and those held out: about `fraction` of all.

    An image's side is a function of its path in the data set's folder `root`, without the hash that
    Roboflow adds, so it stays when images are added or the data is moved or exported again; copies
    of one image that were augmented before the export are on the same side. Of an image outside
    `root`, which is elsewhere on another machine, only the name counts. Raises UsageError if a side
    is empty.
    """
    start = os.path.abspath(root)  # noqa: PTH100 # with links as they are written
    names = [_name(annotations.path(i), start) for i in range(len(annotations))]
    held = np.array([_position(name) < fraction for name in names], bool)
    if not 0 < held.sum() < len(held):
        raise UsageError(
            f"--val-fraction: {fraction:g}: holds out {held.sum()} of {len(held)} images; give "
            "another fraction, or name a split with --val-split"
        )
    return annotations.select(~held), annotations.select(held)


def _name(path: str, start: str) -> str:
    """What decides the side of the image at `path`."""
    inner = os.path.relpath(path, start)
    return PurePosixPath(path).name if inner.startswith("../") else inner


def _position(name: str) -> float:
    """Where a file stands between 0 and 1."""
    return seeds.fraction(0, "val-fraction", without_hash(name))
