"""Whether a data set is better trained on in tiles: how small its boxes are at the network's input.

A box of 16 px is half as long as the smallest anchors of most recipes, whose IoU with it is 0.25.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fasterrcnn import image_sizes
from fasterrcnn.data.annotations import Annotations, clip
from fasterrcnn.recipes import Input
from fasterrcnn.tile_grid import SMALLEST

SMALL = 16.0  # px: side of a small box, sqrt(width * height), at the network's input
_MANY = 0.25  # the share of small boxes from which tiles are advised
_STEP = 32  # px: sides of tiles are multiples of it


@dataclass(frozen=True)
class Advice:
    """The share of small boxes, and the flags that lower it."""

    small: float  # share of boxes below `SMALL` px at the network's input
    flags: str  # empty: no tiles are advised
    small_in_tiles: float  # the share with them


def advise(data: Annotations, sizes: Input) -> Advice | None:
    """For the boxes to train on, at the sizes of training; None without boxes."""
    boxes = clip(data.xywh[data.trainable], data.sizes[data.owners()[data.trainable]])
    if not len(boxes):
        return None
    sides = boxes[:, 2:] - boxes[:, :2]
    side, largest = np.sqrt(sides.prod(axis=1)), sides.max()
    owner = data.owners()[data.trainable]
    few, which = np.unique(data.sizes, axis=0, return_inverse=True)
    scales = np.array([image_sizes.resized(h, w, sizes)[0] / h for h, w in few.tolist()])
    small = float((side * scales[which.reshape(-1)][owner] < SMALL).mean())
    fine = int(sizes.min_size * np.quantile(side, 0.1) / SMALL) // _STEP * _STEP
    tile = max(SMALLEST, fine, math.ceil(2 * largest / _STEP) * _STEP)
    in_tiles = float((side * sizes.min_size / tile < SMALL).mean())
    if small < _MANY or in_tiles > small / 2 or tile >= few.max():
        return Advice(small, "", small)
    overlap = math.ceil(100 * largest / tile) / 100
    return Advice(small, f"--data.tile {tile} --data.tile-overlap {overlap:g}", in_tiles)
