"""The order of the data as a pure function: which images are in micro-batch v of epoch e.

Life of a batch, step 2. Nothing here has state, so resuming, the number of workers or ranks and
evaluations in between do not change the micro-batches. ``tests/data/golden_order.json`` holds
values that no refactoring may change.

N images per micro-batch (`images_per_gpu`), G micro-batches per optimizer step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fasterrcnn import seeds
from fasterrcnn.errors import UsageError


class MicroBatch(NamedTuple):
    """What a worker needs to load micro-batch `index` of optimizer step `step`."""

    step: int
    index: int  # type: ignore[assignment] # hides tuple.index, which nobody calls
    epoch: int
    images: tuple[int, ...]  # positions in Annotations


def order(seed: int, epoch: int, ids: Sequence[str]) -> list[int]:
    """Positions of all images, shuffled: sorted by a hash of (seed, epoch, id)."""
    keys = [seeds.key(seed, "order", epoch, id) for id in ids]
    return sorted(range(len(ids)), key=lambda i: (keys[i], ids[i]))


class Plan:
    """The micro-batches of every epoch of a run.

    All images of a micro-batch are in one bucket. Whatever is incomplete at the end of an epoch is
    filled up from the start of that epoch: a micro-batch with images of its bucket, the last step
    with micro-batches. So every epoch sees every image, and all epochs have equally many steps.
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

        Raises UsageError if `ranks` does not divide the number of micro-batches per step.
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
    """Raise UsageError, naming what works, if `ranks` cannot share a step evenly."""
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
    """``[1, 2]`` to "1 or 2"."""
    return " or ".join(map(str, values))
