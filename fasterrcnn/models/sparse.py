"""The 3 x 3 patches of a pyramid around a few cells: all that the RPN's losses need.

Shapes: N images, L levels, S cells, C channels. Cells are numbered over all levels of an image,
level by level and row by row, as anchors are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Shapes = tuple[tuple[int, int], ...]  # H, W of each level


def shapes_of(levels: list[Tensor]) -> Shapes:
    """Height and width of each level ``(N, C, H, W)``."""
    return tuple((level.shape[2], level.shape[3]) for level in levels)


class Pyramid:
    """A computed pyramid: L x ``(N, C, H_l, W_l)``."""

    def __init__(self, levels: list[Tensor]) -> None:
        self.levels = levels
        self.shapes = shapes_of(levels)

    def patches(self, cell: Tensor) -> Tensor:
        """The 3 x 3 patches around cells ``(N, S)``, zeros beyond the border: ``(N, S, 9 C)``."""
        around = neighbors(locate(self.shapes, cell))
        return _gather(self.levels, around).flatten(2)


class UnfinishedPyramid:
    """A feature pyramid before its output convolutions, which are computed only where needed.

    `inner`: (L - 1) x ``(N, C, H_l, W_l)``. The last level is every other cell of the one before.
    """

    def __init__(self, inner: list[Tensor], outputs: list[nn.Conv2d]) -> None:
        self.inner, self.outputs = inner, outputs
        height, width = inner[-1].shape[2:]
        self.shapes: Shapes = (*shapes_of(inner), ((height + 1) // 2, (width + 1) // 2))

    def patches(self, cell: Tensor) -> Tensor:
        """As `Pyramid.patches`."""
        n, s = cell.shape
        wanted = neighbors(locate(self.shapes, cell))  # (N, S, 9)
        source = _before_pooling(self.shapes, wanted)
        flat = Cells(*(part.flatten(1) for part in source))  # (N, 9 S)
        seen = _gather(self.inner, neighbors(flat)).flatten(2)  # (N, 9 S, 9 C)
        found = seen.new_zeros(())
        for i, conv in enumerate(self.outputs):
            own = (flat.level == i) & flat.valid
            found = (
                found + functional.linear(seen, as_matrix(conv.weight), conv.bias) * own[..., None]
            )
        return found.view(n, s, -1)


def as_matrix(weight: Tensor) -> Tensor:
    """A convolution's weight ``(O, C, H, W)`` as a matrix ``(O, H W C)`` for patches.

    Its gradient has channels-last strides, those of DDP's buckets, for 1 x 1 kernels too.
    """
    return weight.permute(0, 2, 3, 1).flatten(1)


class Cells(NamedTuple):
    """Cells of a pyramid: tensors of one shape ``(N, ...)``."""

    level: Tensor  # int64
    y: Tensor  # int64
    x: Tensor  # int64
    start: Tensor  # int64: index of the level's first cell
    height: Tensor  # int64, of the level
    width: Tensor  # int64, of the level
    valid: Tensor  # bool: False beyond the level's border


def locate(shapes: Shapes, cell: Tensor) -> Cells:
    """Level and position of the cells with index ``(N, S)``."""
    level, start = torch.zeros_like(cell), torch.zeros_like(cell)
    height, width = (torch.full_like(cell, side) for side in shapes[0])
    first = 0
    for i, (h, w) in enumerate(shapes[1:], 1):
        first += math.prod(shapes[i - 1])
        here = cell >= first
        level, start, height, width = (
            part.masked_fill(here, value)
            for part, value in ((level, i), (start, first), (height, h), (width, w))
        )
    y, x = (cell - start) // width, (cell - start) % width
    return Cells(level, y, x, start, height, width, torch.ones_like(cell, dtype=torch.bool))


def neighbors(cells: Cells) -> Cells:
    """The 3 x 3 cells around each cell, ``(N, S, 9)``; those beyond the border are not valid."""
    step = torch.arange(-1, 2, device=cells.y.device)
    y = cells.y[..., None] + step.repeat_interleave(3)
    x = cells.x[..., None] + step.repeat(3)
    level, start, height, width, valid = (
        part[..., None].expand_as(y)
        for part in (cells.level, cells.start, cells.height, cells.width, cells.valid)
    )
    within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return Cells(level, y, x, start, height, width, valid & within)


def _before_pooling(shapes: Shapes, cells: Cells) -> Cells:
    """Cells of the last level, which is subsampled, as the cells that they are taken from."""
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
        cells.valid,
    )


def _gather(levels: list[Tensor], cells: Cells) -> Tensor:
    """The features of cells, ``(*cells, C)``, zeros where they are not valid."""
    table = torch.cat([f.permute(0, 2, 3, 1).flatten(1, 2) for f in levels], dim=1)
    n, per_image = table.shape[:2]
    row = torch.where(cells.valid, cells.start + cells.y * cells.width + cells.x, 0)
    image = torch.arange(n, device=row.device).view(n, *[1] * (row.dim() - 1)) * per_image
    return functional.embedding(row + image, table.flatten(0, 1)) * cells.valid[..., None]
