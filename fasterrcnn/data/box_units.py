"""Finds boxes that are not what their format says: fractions, or corners in place of sizes."""

from __future__ import annotations

import numpy as np

from fasterrcnn.data.annotations import Annotations


def mistake(annotations: Annotations) -> str | None:
    """What the boxes of a split, said to be x y w h in pixels, must be instead; None if nothing.

    Fractions: no box has a number above 1. Corners: as x y w h some leave their image by more than
    a pixel, as x1 y1 x2 y2 all fit.
    """
    xywh = annotations.xywh
    if len(xywh) == 0 or not xywh.any():
        return None
    if xywh.min() >= 0 and xywh.max() <= 1:
        return "no number is above 1: boxes are fractions of the image; multiply them by its size"
    limit = np.repeat(annotations.sizes, np.diff(annotations.first), axis=0)[:, ::-1] + 1
    first, second = xywh[:, :2], xywh[:, 2:]
    leaves = np.any(first + second > limit)
    fits = np.all((second >= first) & (second <= limit))
    if leaves and fits:
        return (
            "boxes leave their images as x y w h, but all fit as corners x1 y1 x2 y2; subtract x1, "
            "y1 from the last two numbers"
        )
    return None
