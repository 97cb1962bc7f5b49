"""Where the tiles of an image are: the same in training, evaluation and prediction."""

from __future__ import annotations

from itertools import product

SMALLEST = 32  # px: side of a tile


def shared_px(side: int, overlap: float) -> int:
    """The px that neighboring tiles of `side` px have in common at least."""
    return round(side * overlap)


def starts(length: int, side: int, shared: int) -> list[int]:
    """Where tiles begin along an axis of `length` px; neighbors have `shared` px in common, the
    last ones more."""
    last = max(0, length - side)
    return [*range(0, last, side - shared), last]


def tiles(height: int, width: int, side: int, shared: int) -> list[tuple[int, int, int, int]]:
    """Tiles x1 y1 x2 y2 of `side` px, or the image's where that is less, that cover an image, row
    by row."""
    corners = product(starts(height, side, shared), starts(width, side, shared))
    return [(x, y, min(x + side, width), min(y + side, height)) for y, x in corners]
