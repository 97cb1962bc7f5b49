"""Holds images out of a split for validation, where a data set has only one."""

from __future__ import annotations

import re

import numpy as np

from fasterrcnn import seeds
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.errors import UsageError

_ROBOFLOW = re.compile(r"\.rf\.[0-9A-Za-z]+(?=\.[^.]+$)")  # a new hash in every export


def hold_out(annotations: Annotations, fraction: float) -> tuple[Annotations, Annotations]:
    """The images to train on, and those held out: about `fraction` of all.

    An image's side is a function of its file name, without the hash that Roboflow adds, so it stays
    when images are added or the data is exported again; copies of one image that were augmented
    before the export are on the same side. Raises UsageError if a side is empty.
    """
    held = np.array([_position(file) < fraction for file in annotations.files], bool)
    if not 0 < held.sum() < len(held):
        raise UsageError(
            f"--val-fraction: {fraction:g}: holds out {held.sum()} of {len(held)} images; give "
            "another fraction, or name a split with --val-split"
        )
    return annotations.select(~held), annotations.select(held)


def _position(file: str) -> float:
    """Where a file stands between 0 and 1."""
    return seeds.fraction(0, "val-fraction", _ROBOFLOW.sub("", file))
