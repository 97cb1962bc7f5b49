"""The order of the data as a pure function: which images make micro-batch v of epoch e.

Life of a batch, step 2. Nothing here has state, so a resumed run, another number of workers or
ranks and an evaluation in between all see the same micro-batches. ``tests/data/golden_order.json``
holds values that no refactoring may move.

N images per micro-batch (`images_per_gpu`), G micro-batches per optimizer step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from fasterrcnn import seeds
from fasterrcnn.errors import UsageError
from fasterrcnn.recipes import Input

STRIDE = 32  # padded sides are multiples of this, the stride of the last convolutional stage
_WIDTHS = 3  # padded long sides per orientation


class MicroBatch(NamedTuple):
    """What a worker needs to make micro-batch `index` of optimizer step `step`."""

    step: int
    index: int
    epoch: int
    images: tuple[int, ...]  # positions in Annotations


def resized(height: int, width: int, recipe: Input, short: int | None = None) -> tuple[int, int]:
    """Size after resizing to a short side of `short` (default: the recipe's), in px.

    Sides are rounded down as torchvision's GeneralizedRCNNTransform does, or to the nearest as
    Detectron2 and MMDetection do.
    """
    scale = min(
        (short or recipe.min_size) / min(height, width), recipe.max_size / max(height, width)
    )
    half = 0.5 if recipe.rounding == "nearest" else 0.0
    return max(1, math.floor(height * scale + half)), max(1, math.floor(width * scale + half))


@cache
def buckets(recipe: Input) -> list[tuple[int, int]]:
    """The static padded shapes (H, W) of a recipe, landscape then portrait, small to large.

    Three long sides per orientation are within 2 % of the padding of each image's own multiple of
    32 on COCO: 800 x 1088, 1216, 1344 for 800/1333 px. With several short sides in training, the
    same proportions again for the middle of their range.
    """
    short, long = (_up(side) for side in (recipe.min_size, recipe.max_size))
    gap = max(STRIDE, (long - short) // (_WIDTHS + 1) // STRIDE * STRIDE)
    longs = sorted({max(short, long - k * gap) for k in range(_WIDTHS)})
    landscape = [(short, side) for side in longs]
    if recipe.train_min_sizes:
        middle = _up((min(recipe.train_min_sizes) + recipe.min_size) // 2)
        landscape += [(middle, min(long, _up(side * middle / short))) for side in longs[:-1]]
        landscape += [(middle, long)]
    landscape.sort(key=lambda shape: shape[0] * shape[1])
    return landscape + [(w, h) for h, w in landscape if w != h]


def smallest_bucket(height: int, width: int, recipe: Input) -> tuple[int, int]:
    """The smallest shape of `buckets` that holds an image of this size (resized, px)."""
    fits = [shape for shape in buckets(recipe) if height <= shape[0] and width <= shape[1]]
    return min(fits, key=lambda shape: shape[0] * shape[1])


def bucket_of(height: int, width: int, recipe: Input) -> int:
    """Index in `buckets` of the shape for an image of this size (as decoded) at the full scale."""
    return buckets(recipe).index(smallest_bucket(*resized(height, width, recipe), recipe))


def _up(side: float) -> int:
    return math.ceil(side / STRIDE) * STRIDE


def order(seed: int, epoch: int, ids: Sequence[str]) -> list[int]:
    """Positions of all images, shuffled: sorted by a hash of (seed, epoch, id)."""
    keys = [seeds.key(seed, "order", epoch, id) for id in ids]
    return sorted(range(len(ids)), key=lambda i: (keys[i], ids[i]))


class Plan:
    """Micro-batches of every epoch of a run.

    A micro-batch holds images of one bucket. What is short at the end of an epoch is filled from
    the start of that epoch's order: a micro-batch from its own bucket, the last step with whole
    micro-batches. So every image is seen in every epoch, and the steps per epoch are constant.
    """

    def __init__(
        self,
        ids: Sequence[str],
        bucket: Sequence[int],
        *,
        seed: int,
        images_per_gpu: int,
        micro_batches_per_step: int,
    ) -> None:
        self.ids = ids
        self.bucket = np.asarray(bucket)
        self.seed = seed
        self.images_per_gpu = images_per_gpu
        self.micro_batches_per_step = micro_batches_per_step
        counts = np.unique(self.bucket, return_counts=True)[1]
        micro_batches = sum(math.ceil(count / images_per_gpu) for count in counts)
        self.steps_per_epoch = math.ceil(micro_batches / micro_batches_per_step)

    def epoch(self, epoch: int) -> list[tuple[int, ...]]:
        """The epoch's micro-batches: ``steps_per_epoch * micro_batches_per_step`` tuples of N."""
        members: dict[int, list[int]] = {}
        batches = []
        for i in order(self.seed, epoch, self.ids):
            group = members.setdefault(int(self.bucket[i]), [])
            group.append(i)
            if len(group) % self.images_per_gpu == 0:
                batches.append(tuple(group[-self.images_per_gpu :]))
        for _, group in sorted(members.items()):
            if left := len(group) % self.images_per_gpu:
                fill = [group[k % len(group)] for k in range(self.images_per_gpu - left)]
                batches.append((*group[-left:], *fill))
        total = self.steps_per_epoch * self.micro_batches_per_step
        return [batches[k % len(batches)] for k in range(total)]

    def micro_batches(
        self, first_step: int, last_step: int, rank: int, ranks: int
    ) -> Iterator[MicroBatch]:
        """The micro-batches that `rank` of `ranks` runs in steps first_step .. last_step - 1.

        Raises UsageError when `ranks` does not divide the micro-batches of a step.
        """
        check_ranks(ranks, self.micro_batches_per_step, self.images_per_gpu)
        batches, known = [], None
        for step in range(first_step, last_step):
            epoch, within = divmod(step, self.steps_per_epoch)
            if epoch != known:
                batches, known = self.epoch(epoch), epoch
            for index in range(rank, self.micro_batches_per_step, ranks):
                images = batches[within * self.micro_batches_per_step + index]
                yield MicroBatch(step, index, epoch, images)


def check_ranks(ranks: int, micro_batches_per_step: int, images_per_gpu: int) -> None:
    """Raise UsageError, naming what works, when `ranks` cannot share a step evenly."""
    if micro_batches_per_step % ranks:
        total = micro_batches_per_step * images_per_gpu
        works = [n for n in range(1, micro_batches_per_step + 1) if micro_batches_per_step % n == 0]
        sizes = [n for n in range(1, total + 1) if total % n == 0 and total // n % ranks == 0]
        advice = f", or --images-per-gpu {_or(sizes)}" if sizes else ""
        raise UsageError(
            f"NGPU: {ranks}: a step of {total} images is {micro_batches_per_step} micro-batches of "
            f"{images_per_gpu}, which {ranks} processes cannot share; use NGPU={_or(works)}{advice}"
        )


def _or(values: list[int]) -> str:
    return " or ".join(map(str, values))
