"""What a 3 x 3 convolution sees at a few cells of a pyramid: the RPN's losses need no more of it.

Shapes: N images, L levels, S cells asked for, C channels. Cells are counted over all levels of an
image, level by level, row by row, as anchors are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Shapes = tuple[tuple[int, int], ...]  # H, W of each level


class Pyramid:
    """A pyramid that is there: L x ``(N, C, H_l, W_l)``."""

    def __init__(self, levels: list[Tensor]) -> None:
        self.levels = levels
        self.shapes: Shapes = tuple(tuple(level.shape[2:]) for level in levels)

    def patches(self, cell: Tensor) -> Tensor:
        """Around cells ``(N, S)`` the 3 x 3 of their level, zeros outside it: ``(N, S, 9 C)``."""
        around = neighbours(locate(self.shapes, cell))
        return _rows(self.levels, around).flatten(2)


class UnfinishedPyramid:
    """A feature pyramid before its output convolutions, computed where they are asked for.

    `inner`: (L - 1) x ``(N, C, H_l, W_l)``; the last level is every other cell of the one before.
    """

    def __init__(self, inner: list[Tensor], outputs: list[nn.Conv2d]) -> None:
        self.inner, self.outputs = inner, outputs
        shapes = [tuple(level.shape[2:]) for level in inner]
        height, width = shapes[-1]
        self.shapes: Shapes = (*shapes, ((height + 1) // 2, (width + 1) // 2))

    def patches(self, cell: Tensor) -> Tensor:
        """As `Pyramid.patches`."""
        n, s = cell.shape
        wanted = neighbours(locate(self.shapes, cell))  # (N, S, 9)
        source = _before_pooling(self.shapes, wanted)
        flat = Cells(*(part.flatten(1) for part in source))  # (N, 9 S)
        seen = _rows(self.inner, neighbours(flat)).flatten(2)  # (N, 9 S, 9 C)
        found = 0.0
        for i, conv in enumerate(self.outputs):
            own = (flat.level == i) & flat.inside
            found = (
                found + functional.linear(seen, as_matrix(conv.weight), conv.bias) * own[..., None]
            )
        return found.view(n, s, -1)


def as_matrix(weight: Tensor) -> Tensor:
    """A convolution's weight ``(O, C, H, W)`` for patches: ``(O, H W C)``.

    Its gradient comes back in channels-last strides, those of DDP's buckets, for 1 x 1 too.
    """
    return weight.permute(0, 2, 3, 1).flatten(1)


class Cells(NamedTuple):
    """Cells of a pyramid, all parts of one shape ``(N, ...)``."""

    level: Tensor  # int64
    y: Tensor  # int64
    x: Tensor  # int64
    start: Tensor  # int64: number of the level's first cell
    height: Tensor  # int64, of the level
    width: Tensor  # int64, of the level
    inside: Tensor  # bool: False for cells beyond the level's border


def locate(shapes: Shapes, cell: Tensor) -> Cells:
    """The cells of these numbers ``(N, S)``."""
    level, start, height, width = (torch.zeros_like(cell) for _ in range(4))
    first = 0
    for i, (h, w) in enumerate(shapes):
        here = cell >= first
        level, start, height, width = (
            part.masked_fill(here, value)
            for part, value in ((level, i), (start, first), (height, h), (width, w))
        )
        first += h * w
    y, x = (cell - start) // width, (cell - start) % width
    return Cells(level, y, x, start, height, width, torch.ones_like(cell, dtype=torch.bool))


def neighbours(cells: Cells) -> Cells:
    """The 3 x 3 cells around each, ``(N, S, 9)``, those beyond the border not inside."""
    step = torch.arange(-1, 2, device=cells.y.device)
    y = cells.y[..., None] + step.repeat_interleave(3)
    x = cells.x[..., None] + step.repeat(3)
    level, start, height, width, inside = (
        part[..., None].expand_as(y)
        for part in (cells.level, cells.start, cells.height, cells.width, cells.inside)
    )
    within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return Cells(level, y, x, start, height, width, inside & within)


def _before_pooling(shapes: Shapes, cells: Cells) -> Cells:
    """Cells of the last level as those of the level before that it picks."""
    pooled = cells.level == len(shapes) - 1
    height, width = shapes[-2]
    start = sum(h * w for h, w in shapes[:-2])
    return Cells(
        cells.level - pooled.long(),
        torch.where(pooled, 2 * cells.y, cells.y),
        torch.where(pooled, 2 * cells.x, cells.x),
        cells.start.masked_fill(pooled, start),
        cells.height.masked_fill(pooled, height),
        cells.width.masked_fill(pooled, width),
        cells.inside,
    )


def _rows(levels: list[Tensor], cells: Cells) -> Tensor:
    """Values ``(*cells, C)``, zeros where not inside."""
    table = torch.cat([f.permute(0, 2, 3, 1).flatten(1, 2) for f in levels], dim=1)
    n, per_image = table.shape[:2]
    row = torch.where(cells.inside, cells.start + cells.y * cells.width + cells.x, 0)
    image = torch.arange(n, device=row.device).view(n, *[1] * (row.dim() - 1)) * per_image
    return functional.embedding(row + image, table.flatten(0, 1)) * cells.inside[..., None]
