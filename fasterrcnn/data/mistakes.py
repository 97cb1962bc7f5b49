"""Boxes in another unit or order than their format's: mistakes that every box of a set shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fasterrcnn.data.annotations import Annotations
from fasterrcnn.errors import DataError


def check_pixels(annotations: Annotations, file: Path) -> None:
    """Raise DataError if boxes that should be x y w h in pixels are fractions, or corners.

    Corners: nearly all boxes fit into their image as x1 y1 x2 y2, and many leave it as x y w h.
    """
    xywh = annotations.xywh
    if not len(xywh):
        return
    if np.all(xywh <= 1) and np.any(xywh[:, 2:] > 0):
        raise DataError(
            f"{file}: bbox: {xywh[0].tolist()}: every box is smaller than a pixel, so these are "
            "fractions; multiply them by width and height of the image"
        )
    sizes = np.repeat(annotations.sizes[:, ::-1], np.diff(annotations.first), axis=0)
    leaves = np.any(xywh[:, :2] + xywh[:, 2:] > sizes + 1, axis=1)
    if are_corners(xywh[:, :2], xywh[:, 2:], leaves, sizes):
        raise DataError(
            f"{file}: bbox: {xywh[0].tolist()}: boxes leave their images as x, y, width, height "
            "but fit as x1, y1, x2, y2; write width and height in place of x2 and y2"
        )


def are_corners(
    first: np.ndarray, second: np.ndarray, leaves: np.ndarray, sizes: np.ndarray
) -> bool:
    """Are boxes written as two corners, where a corner or center and a size were expected?

    `first`, `second`: the two pairs of numbers of each box, float ``(B, 2)`` (px). `leaves`: bool
    ``(B,)``, boxes that are partly outside their image as they were expected. `sizes`: W, H of each
    box's image, ``(B, 2)``.
    """
    fits = np.all((second > first) & (first >= 0) & (second <= sizes + 1), axis=1)
    return bool(len(fits) and fits.mean() >= 0.95 and leaves.mean() >= 0.5)
