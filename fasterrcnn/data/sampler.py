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
from fasterrcnn.data.repeats import draw_copies, number_of_copies
from fasterrcnn.errors import UsageError
from fasterrcnn.schedule import START, Origin


class MicroBatch(NamedTuple):
    """What a worker needs to load micro-batch `index` of optimizer step `step`."""

    step: int
    index: int  # type: ignore[assignment] # hides tuple.index, which nobody calls
    epoch: int
    images: tuple[int, ...]  # positions in Annotations
    copies: tuple[int, ...] = ()  # number of each in the epoch (`Entry`); empty: all 0


class Entry(NamedTuple):
    """One occurrence of an image in an epoch."""

    image: int  # position in Annotations
    copy: int  # from 0


def order(seed: int, epoch: int, ids: Sequence[str]) -> list[int]:
    """Positions of all images, shuffled: sorted by a hash of (seed, epoch, id)."""
    keys = [seeds.key(seed, "order", epoch, id) for id in ids]
    return sorted(range(len(ids)), key=lambda i: (keys[i], ids[i]))


class Plan:
    """The micro-batches of every epoch of a run.

    All images of a micro-batch are in one bucket. Whatever is incomplete at the end of an epoch is
    filled up from the start of that epoch: a micro-batch with images of its bucket, the last step
    with micro-batches. So every epoch sees every image, and all epochs have equally many steps.

    `repeats`, float64 ``(n,)`` of at least 1: how often each image occurs in an epoch on average.
    Each epoch draws the same number of copies of a bucket's images. `origin`: an epoch begins
    there, whose number is that of the epochs begun before.
    """

    def __init__(
        self,
        ids: Sequence[str],
        bucket: Sequence[int],
        *,
        seed: int,
        images_per_gpu: int,
        micro_batches_per_step: int,
        repeats: np.ndarray | None = None,
        origin: Origin = START,
    ) -> None:
        self.ids = ids
        self.origin = origin
        self.bucket = np.asarray(bucket)
        self.seed = seed
        self.images_per_gpu = images_per_gpu
        self.micro_batches_per_step = micro_batches_per_step
        self._extra = np.zeros(len(ids)) if repeats is None else repeats - 1
        self._copies: dict[int, int] = {}  # by bucket, besides every image itself
        micro_batches = 0
        for b, count in zip(*np.unique(self.bucket, return_counts=True), strict=True):
            self._copies[int(b)] = number_of_copies(self._extra[self.bucket == b])
            micro_batches += math.ceil((count + self._copies[int(b)]) / images_per_gpu)
        self.steps_per_epoch = math.ceil(micro_batches / micro_batches_per_step)

    def epoch(self, epoch: int) -> list[tuple[Entry, ...]]:
        """The epoch's micro-batches: ``steps_per_epoch * micro_batches_per_step`` tuples of N."""
        members: dict[int, list[Entry]] = {}
        batches = []
        for entry in self._entries(epoch):
            group = members.setdefault(int(self.bucket[entry.image]), [])
            group.append(entry)
            if len(group) % self.images_per_gpu == 0:
                batches.append(tuple(group[-self.images_per_gpu :]))
        for _, group in sorted(members.items()):
            if left := len(group) % self.images_per_gpu:
                fill = [group[k % len(group)] for k in range(self.images_per_gpu - left)]
                batches.append((*group[-left:], *fill))
        total = self.steps_per_epoch * self.micro_batches_per_step
        return [batches[k % len(batches)] for k in range(total)]

    def _entries(self, epoch: int) -> list[Entry]:
        """Every image and, where images repeat, the epoch's copies among them, shuffled."""
        first = order(self.seed, epoch, self.ids)
        entries = [Entry(i, 0) for i in first]
        shuffled = np.array(first)
        for bucket, number in self._copies.items():
            if number:
                members = shuffled[self.bucket[shuffled] == bucket]
                start = seeds.fraction(self.seed, "repeat", epoch, bucket)
                drawn = draw_copies(self._extra[members], number, start)
                for i, copies in zip(members.tolist(), drawn.tolist(), strict=True):
                    entries += [Entry(i, copy) for copy in range(1, copies + 1)]
        if len(entries) == len(first):
            return entries

        def place(entry: Entry) -> tuple[int, str, int]:
            id, purpose = self.ids[entry.image], seeds.for_copy("order", entry.copy)
            return seeds.key(self.seed, purpose, epoch, id), id, entry.copy

        return sorted(entries, key=place)

    def epoch_at(self, step: int) -> float:
        """The epochs done before `step`."""
        return self.origin.epoch_at(step, self.steps_per_epoch)

    def share(self, rank: int, ranks: int) -> range:
        """Which micro-batches of every step `rank` of `ranks` runs: rank, rank + ranks, ..."""
        return range(rank, self.micro_batches_per_step, ranks)

    def micro_batches(
        self, first_step: int, last_step: int, rank: int, ranks: int
    ) -> Iterator[MicroBatch]:
        """The micro-batches that `rank` of `ranks` runs in steps first_step .. last_step - 1.

        Raises UsageError if there are more ranks than micro-batches per step.
        """
        check_ranks(ranks, self.micro_batches_per_step, self.images_per_gpu)
        batches, known = [], None
        for step in range(first_step, last_step):
            epoch, within = divmod(step - self.origin.step, self.steps_per_epoch)
            epoch += math.ceil(self.origin.epoch)
            if epoch != known:
                batches, known = self.epoch(epoch), epoch
            for index in self.share(rank, ranks):
                entries = batches[within * self.micro_batches_per_step + index]
                yield MicroBatch(step, index, epoch, *zip(*entries, strict=True))


def check_ranks(ranks: int, micro_batches_per_step: int, images_per_gpu: int) -> None:
    """Raise UsageError, naming what works, if a step has no micro-batch for some of the `ranks`."""
    if ranks > micro_batches_per_step:
        total = micro_batches_per_step * images_per_gpu
        sizes = [n for n in range(1, total + 1) if total % n == 0 and total // n >= ranks]
        advice = f", or --images-per-gpu {' or '.join(map(str, sizes))}" if sizes else ""
        works = "1" if micro_batches_per_step == 1 else f"1 to {micro_batches_per_step}"
        raise UsageError(
            f"NGPU: {ranks}: more processes than micro-batches in a step ({total} images in "
            f"micro-batches of {images_per_gpu} are {micro_batches_per_step}); "
            f"use NGPU={works}{advice}"
        )
