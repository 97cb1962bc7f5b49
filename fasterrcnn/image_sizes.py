"""Image sizes after resizing, and the few static shapes that images are padded to in training.

Sizes are (height, width) in pixels. No image is opened here: `data` groups images by these shapes,
`models` pads to them.
"""

from __future__ import annotations

import math
from functools import cache

from fasterrcnn.recipes import Input

STRIDE = 32  # padded sides are multiples of this, the stride of the last convolutional stage
_WIDTHS = 3  # padded long sides per orientation


def resized(height: int, width: int, config: Input, short: int | None = None) -> tuple[int, int]:
    """Size after resizing the short side to `short` (default: ``config.min_size``).

    Sides are rounded down as in torchvision's GeneralizedRCNNTransform, or to the nearest pixel as
    in Detectron2 and MMDetection.
    """
    scale = min(
        (short or config.min_size) / min(height, width), config.max_size / max(height, width)
    )
    half = 0.5 if config.rounding == "nearest" else 0.0
    return max(1, math.floor(height * scale + half)), max(1, math.floor(width * scale + half))


@cache
def buckets(config: Input) -> list[tuple[int, int]]:
    """The padded shapes used in training: landscape, then portrait, small to large.

    Three long sides per orientation. On COCO this pads 2 % more than padding each image to its own
    multiple of 32: 800 x 1088, 1216 and 1344 at 800/1333 px. For multi-scale training the same
    proportions are repeated at the middle of the range of short sides.
    """
    short, long = (_up(side) for side in (config.min_size, config.max_size))
    gap = max(STRIDE, (long - short) // (_WIDTHS + 1) // STRIDE * STRIDE)
    longs = sorted({max(short, long - k * gap) for k in range(_WIDTHS)})
    landscape = [(short, side) for side in longs]
    if config.train_min_sizes:
        middle = _up((min(config.train_min_sizes) + config.min_size) // 2)
        landscape += [(middle, min(long, _up(side * middle / short))) for side in longs[:-1]]
        landscape += [(middle, long)]
    landscape.sort(key=lambda shape: shape[0] * shape[1])
    return landscape + [(w, h) for h, w in landscape if w != h]


def smallest_bucket(height: int, width: int, config: Input) -> tuple[int, int]:
    """The smallest padded shape that holds an image of this resized size."""
    fits = [shape for shape in buckets(config) if height <= shape[0] and width <= shape[1]]
    return min(fits, key=lambda shape: shape[0] * shape[1])


def bucket_of(height: int, width: int, config: Input) -> int:
    """Index in `buckets` of the shape for an image of this original size, at the largest scale."""
    return buckets(config).index(smallest_bucket(*resized(height, width, config), config))


def _up(side: float) -> int:
    """`side` rounded up to a multiple of `STRIDE`."""
    return math.ceil(side / STRIDE) * STRIDE
