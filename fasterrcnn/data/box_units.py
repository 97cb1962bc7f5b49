"""Finds boxes that are not what their format says: fractions, or corners in place of sizes."""

from __future__ import annotations

import numpy as np

from fasterrcnn.data.annotations import Annotations
from fasterrcnn.errors import DataError


def stop_if_fractions(annotations: Annotations, where: object) -> None:
    """Raise DataError, which names `where`, if no box of a split in pixels has a number above 1."""
    xywh = annotations.xywh
    if xywh.any() and xywh.min() >= 0 and xywh.max() <= 1:
        raise DataError(
            f"{where}: no number is above 1: boxes are fractions of their image; multiply them by "
            "its size"
        )


def stop_if_corners(annotations: Annotations, where: object) -> None:
    """Raise DataError, which names `where`, if boxes x y w h must be x1 y1 x2 y2.

    At least half leave their image by more than a pixel, but as corners 95 % fit: boxes of a few
    objects at the border, or with a few other faults, are not mistaken for corners, or hide them.
    """
    if not len(annotations.labels):
        return
    limit = np.repeat(annotations.sizes, np.diff(annotations.first), axis=0)[:, ::-1] + 1
    first, second = annotations.xywh[:, :2], annotations.xywh[:, 2:]
    leave = np.any(first + second > limit, axis=1)
    fit = np.all((second >= first) & (second <= limit), axis=1)
    if leave.mean() >= 0.5 and fit.mean() >= 0.95:
        raise DataError(
            f"{where}: {leave.sum()} of {len(leave)} boxes leave their images as x y w h, but they "
            "fit as corners x1 y1 x2 y2; subtract x1, y1 from the last two numbers"
        )
