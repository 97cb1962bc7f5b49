"""Loads micro-batches of image positions as pinned batches, in worker processes.

Life of a batch, step 3. A worker decodes the images of a micro-batch, augments them and flips
each by random numbers that depend only on (seed, epoch, image id, copy); everything else happens on
the device.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fasterrcnn import seeds
from fasterrcnn.data import image_check, images, windows
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.augment import Augmentation
from fasterrcnn.data.bands import Window
from fasterrcnn.data.proposals import ImageProposals, StoredProposals
from fasterrcnn.data.sampler import MicroBatch
from fasterrcnn.data.stand_ins import StandIns
from fasterrcnn.errors import DataError, Failure, ProcessDied
from fasterrcnn.processes import die_with_parent

_SHARED_MEMORY = "/dev/shm"  # where torch's workers put it on Linux


@dataclass
class Batch:
    """N images of any sizes with their boxes, in few buffers so that a transfer is few copies."""

    micro_batch: MicroBatch
    names: list[str]  # file of each image
    sizes: list[tuple[int, int]]  # H, W (px)
    counts: list[int]  # boxes per image
    pixels: torch.Tensor  # (sum of H * W * C,), each image H W C: uint8, of more bits float32
    boxes: torch.Tensor  # float32 (sum of counts, 4): x1 y1 x2 y2 (px)
    labels: torch.Tensor  # int64 (sum of counts,) in 1..K; -k: a box of label k that is ignored
    proposals: torch.Tensor | None = None  # stored ones: float32 (sum of proposal_counts, 4)
    proposal_counts: tuple[int, ...] = ()
    proposal_sizes: tuple[tuple[int, int], ...] = ()  # H, W of the image they refer to (px)
    damaged: tuple[tuple[int, str], ...] = ()  # positions of images that others stand in for; why
    channels: int = 3  # C
    planned: tuple[int, int] | None = None  # padded shape that augmented images have to fit (px)
    may_ignore: bool = False  # whether labels can be negative

    def pin_memory(self) -> Batch:
        """Called by a DataLoader with `pin_memory`."""
        return self._map(torch.Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; from pinned memory the copy is asynchronous."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def share_memory(self) -> Batch:
        """The batch in shared memory. Raises RuntimeError if there is none left."""
        return self._map(torch.Tensor.share_memory_)

    def _map(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """A batch whose buffers are those of this one after `move`."""
        buffers: dict[str, Any] = {
            name: move(getattr(self, name)) for name in ("pixels", "boxes", "labels")
        }
        if self.proposals is not None:
            buffers["proposals"] = move(self.proposals)
        return replace(self, **buffers)

    def images(self) -> list[torch.Tensor]:
        """Views ``(C, H, W)``, one per image."""
        parts = self.pixels.split([self.channels * h * w for h, w in self.sizes])
        return [
            part.view(h, w, self.channels).permute(2, 0, 1)
            for part, (h, w) in zip(parts, self.sizes, strict=True)
        ]

    def targets(self) -> list[dict[str, torch.Tensor]]:
        """``{"boxes": (G, 4), "labels": (G,)}`` views, one per image; of tiles also ``"ignored"``,
        bool ``(G,)``; with stored proposals also ``"proposals": (P, 4)`` and
        ``"proposal_size": (H, W)``."""
        boxes, labels = self.boxes.split(self.counts), self.labels.split(self.counts)
        targets = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
        if self.may_ignore:
            for target in targets:
                signed = target["labels"]
                target |= {"labels": signed.abs(), "ignored": signed < 0}
        if self.proposals is not None:
            parts = self.proposals.split(self.proposal_counts)
            for target, part, size in zip(targets, parts, self.proposal_sizes, strict=True):
                target |= {"proposals": part, "proposal_size": size}
        return targets


class Loaded(NamedTuple):
    """One image, decoded, perhaps augmented and flipped."""

    name: str  # its file
    pixels: torch.Tensor  # (H, W, C): uint8, of more bits float32
    boxes: np.ndarray  # float32 (G, 4): x1 y1 x2 y2 (px)
    labels: np.ndarray  # int64 (G,)
    proposals: ImageProposals | None


class Images(Dataset):
    """Maps a `MicroBatch` to its `Batch`. `flip` is a probability; 0 in evaluation.

    A DataError is returned, not raised: torch would bury its message in a worker's traceback. With
    `stand_ins`, others take the place of images that cannot be used.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        flip: float = 0.0,
        seed: int = 0,
        proposals: StoredProposals | None = None,
        stand_ins: StandIns | None = None,
        augment: Augmentation | None = None,
    ) -> None:
        self.annotations = annotations
        self.flip = flip
        self.seed = seed
        self.proposals = None if proposals is None else proposals.aligned(annotations)
        self.stand_ins = stand_ins
        self.augment = augment

    def __getitem__(self, micro_batch: MicroBatch) -> Batch | DataError:
        damaged: dict[int, str] = {}
        try:
            copies = micro_batch.copies or (0,) * len(micro_batch.images)
            loaded = [
                self._load_or_replace(i, micro_batch.epoch, copy, damaged)
                for i, copy in zip(micro_batch.images, copies, strict=True)
            ]
        except DataError as error:
            return error
        names, pixels, boxes, labels, proposals = zip(*loaded, strict=True)
        batch = Batch(
            micro_batch,
            names=list(names),
            sizes=[tuple(p.shape[:2]) for p in pixels],
            counts=[len(b) for b in boxes],
            pixels=torch.cat([p.reshape(-1) for p in pixels]),
            boxes=torch.from_numpy(np.concatenate(boxes)),
            labels=torch.from_numpy(np.concatenate(labels)),
            damaged=tuple(damaged.items()),
            channels=pixels[0].shape[2],
            planned=self.augment.planned(*self.annotations.sizes[micro_batch.images[0]])
            if self.augment
            else None,
            may_ignore=self.annotations.tiles is not None,
        )
        if self.proposals is None:
            return batch
        return replace(
            batch,
            proposals=torch.from_numpy(np.concatenate([p.boxes for p in proposals])),
            proposal_counts=tuple(len(p.boxes) for p in proposals),
            proposal_sizes=tuple(p.size for p in proposals),
        )

    def _place(self, i: int) -> str:
        return f"{self.annotations.path(i)}: image {self.annotations.ids[i]}"

    def _load_or_replace(self, i: int, epoch: int, copy: int, damaged: dict[int, str]) -> Loaded:
        """Image i or its stand-in; images found to be damaged are added to `damaged`. Raises
        DataError."""
        for k in self.stand_ins.order(i) if self.stand_ins else (i,):
            try:
                return self._load(k, epoch, copy)
            except ValueError as error:
                if self.stand_ins is None or not self.stand_ins.skip:
                    advice = "replace the file, or drop such images with --bad-data skip"
                    raise DataError(f"{self._place(k)}: {error}; {advice}") from None
                damaged[k] = str(error)
        raise DataError(
            f"{self._place(i)}: cannot be used, and neither can the images to replace it with"
        )

    def _load(self, i: int, epoch: int, copy: int = 0) -> Loaded:
        """Decode image i, augment it, and flip it if its random number is below `flip`. Raises
        ValueError with a phrase."""
        data = self.annotations
        path = data.path(i)
        try:
            image = self._decode(path, i)
        except ValueError:
            image_check.look_again(path)
            raise
        image = image.permute(1, 2, 0)
        boxes, labels = data.training_boxes(i)
        if self.augment is not None:
            key = seeds.key(self.seed, seeds.for_copy("augment", copy), epoch, data.ids[i])
            image, boxes, labels = self.augment(image, boxes, labels, key)
        proposals = None if self.proposals is None else self.proposals.of(i)
        purpose = seeds.for_copy("flip", copy)
        if self.flip and seeds.fraction(self.seed, purpose, epoch, data.ids[i]) < self.flip:
            image = image.flip(1)
            _mirror(boxes, image.shape[1])
            if proposals is not None:
                _mirror(proposals.boxes, proposals.size[1])
        return Loaded(path, image, boxes, labels, proposals)

    def _decode(self, path: str, i: int) -> torch.Tensor:
        """Pixels ``(C, H, W)`` of image i, in the file at `path`. Raises ValueError."""
        data = self.annotations
        if data.tiles is not None:
            (y, x), (height, width) = data.tiles.corners[i].tolist(), data.sizes[i].tolist()
            window = Window(y, x, y + height, x + width)
            return windows.read(windows.image_of(data, i), window, data.tiles.sizes[i])
        image = images.decode(
            path, apply_orientation=bool(data.rotate[i]), pixel_format=data.pixel_format
        )
        images.check_size((image.shape[1], image.shape[2]), data.sizes[i])
        return image


def _mirror(boxes: np.ndarray, width: int) -> None:
    """Flip boxes x1 y1 x2 y2 horizontally, in place."""
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]


class _InSharedMemory(Dataset):
    """What a worker sends, moved to shared memory by the worker itself.

    Left to the queue, a batch that does not fit is lost in silence, and the run waits for ever.
    """

    def __init__(self, dataset: Images) -> None:
        self.dataset = dataset

    def __getitem__(self, micro_batch: MicroBatch) -> Batch | Failure:
        item = self.dataset[micro_batch]
        if isinstance(item, Failure):
            return item
        try:
            return item.share_memory()
        except RuntimeError:
            size = shutil.disk_usage(_SHARED_MEMORY).total / 2**20
            return ProcessDied(
                f"{_SHARED_MEMORY}: {size:,.1f} MiB, too little for the batches of all workers; "
                "make it larger (docker run --shm-size 8g), lower --workers, or --workers 0"
            )


def load(
    dataset: Images, micro_batches: Iterable[MicroBatch], *, workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Yields batches in the order of `micro_batches`; `workers` = 0 decodes in this process.

    Raises DataError for an image that cannot be decoded, ProcessDied if shared memory is full.
    """
    loader = DataLoader(
        _InSharedMemory(dataset) if workers else dataset,
        sampler=micro_batches,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else every iterator draws from the global generator
        multiprocessing_context="fork" if workers else None,  # shares the annotation arrays
    )
    for item in loader:
        if isinstance(item, Failure):
            raise item
        yield item


def take(stream: Iterator[Batch], count: int) -> tuple[list[Batch], DataError | None]:
    """The next `count` batches; or none, and the error that an image raised instead."""
    try:
        return list(islice(stream, count)), None
    except DataError as error:
        return [], error


def _start_worker(_: int) -> None:
    """Shield a worker from signals to the run's process group, as the run needs batches until the
    end of its step, and make the worker die with its parent."""
    os.setpgid(0, 0)
    die_with_parent()
    gc.freeze()  # a garbage collection would copy every shared page that it visits
