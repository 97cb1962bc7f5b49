"""Image sizes after resizing, and the few static shapes that images are padded to in training.

Sizes are (height, width) in pixels. No image is opened here: `data` groups images by these shapes,
`models` pads to them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

from fasterrcnn.recipes import Input, Recipe

STRIDE = 32  # padded sides are multiples of this, the stride of the last convolutional stage
_WIDTHS = 3  # padded long sides per orientation


def training_sizes(recipe: Recipe) -> Input:
    """The recipe's input with the sizes of training: those of one square if images are jittered."""
    if not recipe.augment.jitter:
        return recipe.input
    side = recipe.augment.jitter_size
    return replace(recipe.input, min_size=side, max_size=side, train_min_sizes=())


def resized(
    height: int,
    width: int,
    config: Input,
    short: int | None = None,
    limit: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """Size after resizing the short side to `short` (default: ``config.min_size``), or to less
    where the image would exceed `limit` (H, W; px).

    Sides are rounded down as in torchvision's GeneralizedRCNNTransform, or to the nearest pixel as
    in Detectron2 and MMDetection.
    """
    scale = min(
        (short or config.min_size) / min(height, width), config.max_size / max(height, width)
    )
    if limit is not None:
        scale = min(scale, limit[0] / height, limit[1] / width)
    half = 0.5 if config.rounding == "nearest" else 0.0
    return max(1, math.floor(height * scale + half)), max(1, math.floor(width * scale + half))


def padded(size: tuple[int, int], config: Input) -> tuple[int, int]:
    """A resized `size` (H, W; px) up to multiples of `size_divisible`: what detection pads to."""
    step = config.size_divisible
    height, width = (math.ceil(side / step) * step for side in size)
    return height, width


@cache
def buckets(config: Input) -> list[tuple[int, int]]:
    """The padded shapes used in training: landscape, then portrait, small to large.

    Three long sides per orientation. On COCO this pads 2 % more than padding each image to its own
    multiple of 32: 800 x 1088, 1216 and 1344 at 800/1333 px. For multi-scale training the same
    proportions are repeated at the middle of the range of short sides.
    """
    step = _step(config)
    short, long = (_up(side, step) for side in (config.min_size, config.max_size))
    gap = max(step, (long - short) // (_WIDTHS + 1) // step * step)
    longs = sorted({max(short, long - k * gap) for k in range(_WIDTHS)})
    landscape = [(short, side) for side in longs]
    if config.train_min_sizes:
        middle = _up((min(config.train_min_sizes) + config.min_size) // 2, step)
        landscape += [(middle, min(long, _up(side * middle / short, step))) for side in longs[:-1]]
        landscape += [(middle, long)]
    landscape.sort(key=lambda shape: shape[0] * shape[1])
    return landscape + [(w, h) for h, w in landscape if w != h]


def smallest_bucket(
    height: int, width: int, config: Input, limit: tuple[int, int] | None = None
) -> tuple[int, int]:
    """The smallest padded shape, of those inside `limit`, that holds an image of this resized
    size."""
    most = limit or (math.inf, math.inf)
    fits = [
        shape
        for shape in buckets(config)
        if height <= shape[0] <= most[0] and width <= shape[1] <= most[1]
    ]
    return min(fits, key=lambda shape: shape[0] * shape[1])


def planned_shape(height: int, width: int, config: Input) -> tuple[int, int]:
    """The padded shape for an image of this original size, at the largest scale."""
    return smallest_bucket(*resized(height, width, config), config)


def bucket_of(height: int, width: int, config: Input) -> int:
    """Index in `buckets` of `planned_shape`."""
    return buckets(config).index(planned_shape(height, width, config))


def _step(config: Input) -> int:
    """What padded sides are multiples of in training (px): `STRIDE`, or what a network with larger
    windows needs. A divisor of 64, as MMDetection's configurations have, leaves it as it is."""
    return STRIDE if 64 % config.size_divisible == 0 else math.lcm(STRIDE, config.size_divisible)


def _up(side: float, step: int) -> int:
    """`side` rounded up to a multiple of `step`."""
    return math.ceil(side / step) * step
