"""Tiles of large images as the images of a split, so that all that follows sees images of one size.

Nothing is written: a tile is a row of arrays, and the loader reads its window of the file. n images
become m tiles; B boxes become parts of boxes, one in every tile that shows some of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fasterrcnn import seeds, tile_grid
from fasterrcnn.data.annotations import Annotations, Strings, Tiles, clip
from fasterrcnn.errors import DataError
from fasterrcnn.recipes import Data

_LEAST = 1.0  # px: a box of which less is left in width or height is not trained on


def cut(data: Annotations, side: int, shared: int, min_visible: float = 0.0) -> Annotations:
    """All tiles of `side` px (less where the image is smaller) of all images, neighbors with
    `shared` px in common, as a split whose images they are.

    Boxes to train on are clipped to the tile. One of which less than the share `min_visible` of its
    area is visible there is marked as crowd, as is one of which less than a pixel is left.
    """
    grids = [tile_grid.tiles(h, w, side, shared) for h, w in data.sizes.tolist()]
    owner = np.repeat(np.arange(len(data)), [len(grid) for grid in grids])
    corners = np.array([tile for grid in grids for tile in grid], np.int32).reshape(-1, 4)
    tile, box = _shown(data, side, shared, np.cumsum([0, *map(len, grids)]))
    whole = clip(data.xywh[box], data.sizes[owner[tile]])
    low, high = corners[tile, :2], corners[tile, 2:]
    part = np.concatenate([np.maximum(whole[:, :2], low), np.minimum(whole[:, 2:], high)], axis=1)
    own, left = (boxes[:, 2:] - boxes[:, :2] for boxes in (whole, part))
    share = left.prod(axis=1) / own.prod(axis=1)
    thin = (left < np.minimum(own, _LEAST)).any(axis=1)
    trainable = (share >= min_visible) & ~thin
    images = _without_boxes(data).take(owner)
    ids = (f"{id}@{x},{y}" for id, (x, y, *_) in zip(images.ids, corners.tolist(), strict=True))
    return replace(
        images,
        ids=Strings(ids),
        sizes=(corners[:, 2:] - corners[:, :2])[:, ::-1].astype(np.int32),
        first=np.searchsorted(tile, np.arange(len(owner) + 1)).astype(np.int64),
        xywh=np.concatenate([part[:, :2] - low, left], axis=1),
        labels=data.labels[box],
        area=left.prod(axis=1),
        crowd=~trainable,
        trainable=trainable,
        tiles=Tiles(owner, images.ids, images.sizes, corners[:, 1::-1]),
    )


def of_recipe(data: Annotations, config: Data) -> Annotations:
    """All tiles of the images, as a recipe has them."""
    shared = tile_grid.shared_px(config.tile, config.tile_overlap)
    return cut(data, config.tile, shared, config.tile_min_visible)


def to_train_on(data: Annotations, config: Data, seed: int) -> tuple[Annotations, list[str]]:
    """The tiles of the training images that a recipe asks for, and lines for the log.

    All that have a box to train on, and of the others the share `tile_empty`, chosen by `seed` and
    their ids. Raises DataError for a box that no tile can show.
    """
    side, shared = config.tile, tile_grid.shared_px(config.tile, config.tile_overlap)
    largest = _largest(data)
    if largest > side and config.tile_min_visible > 0:
        raise DataError(
            f"--data.tile: {side}: smaller than the largest box to train on, {largest} px; give "
            f"--data.tile {largest} or more, or train on parts: --data.tile-min-visible 0"
        )
    every = of_recipe(data, config)
    filled = every.with_boxes()
    kept = filled.copy()
    for i in np.flatnonzero(~filled).tolist():
        kept[i] = seeds.fraction(seed, "empty tile", every.ids[i]) < config.tile_empty
    found = every.select(kept)
    lines = [
        f"data: {len(found)} tiles of {side} px, {shared} px in common: {filled.sum()} with boxes "
        f"to train on, and {len(found) - filled.sum()} of {(~filled).sum()} others; "
        f"{int(found.crowd.sum())} parts of boxes are ignored, less than "
        f"{config.tile_min_visible:g} of the box"
    ]
    if shared < largest <= side:
        lines.append(
            f"note: the largest box is of {largest} px, so some may be cut in every tile; "
            f"--data.tile-overlap {np.ceil(100 * largest / side) / 100:g} shows each whole"
        )
    return found, lines


def _largest(data: Annotations) -> int:
    """The longest side of all boxes to train on, rounded up (px)."""
    boxes = clip(data.xywh[data.trainable], data.sizes[data.owners()[data.trainable]])
    return int(np.ceil((boxes[:, 2:] - boxes[:, :2]).max(initial=0)))


def _shown(
    data: Annotations, side: int, shared: int, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which tile shows which box to train on, int64 ``(pairs,)`` each, by tile and then by box.

    `first`: the first tile of each image.
    """
    tiles, boxes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for i in np.flatnonzero(data.with_boxes()).tolist():
        rows = np.arange(data.first[i], data.first[i + 1])
        rows = rows[data.trainable[rows]]
        corners = clip(data.xywh[rows], data.sizes[i])
        height, width = data.sizes[i].tolist()
        x, y = (np.array(tile_grid.starts(length, side, shared)) for length in (width, height))
        (left, across), (top, down) = (
            _span(starts, side, corners[:, axis], corners[:, axis + 2])
            for axis, starts in enumerate((x, y))
        )
        counts = across * down
        box = np.repeat(np.arange(len(rows)), counts)
        number = np.arange(len(box)) - np.repeat(np.cumsum(counts) - counts, counts)
        row, column = top[box] + number // across[box], left[box] + number % across[box]
        tiles.append(first[i] + row * len(x) + column)
        boxes.append(rows[box])
    tile, box = np.concatenate(tiles), np.concatenate(boxes)
    order = np.argsort(tile, kind="stable")
    return tile[order], box[order]


def _span(
    starts: np.ndarray, side: int, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Along an axis, of the tiles that show some of low to high (px): the first, and how many."""
    first = np.searchsorted(starts + side, low, side="right")
    return first, np.searchsorted(starts, high, side="left") - first


def _without_boxes(data: Annotations) -> Annotations:
    """The images alone: taken once for each of their tiles, boxes would fill the memory."""
    none = np.zeros(0, np.int64)
    return replace(
        data,
        first=np.zeros_like(data.first),
        xywh=data.xywh[none],
        labels=none,
        area=data.area[none],
        crowd=data.crowd[none],
        trainable=data.trainable[none],
    )
