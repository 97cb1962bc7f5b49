"""One split of a data set as flat arrays.

Life of a batch, step 1. Forked loader workers share flat numpy arrays without copies; of Python
objects they would copy every page on which a reference count changes. Masks are not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from fasterrcnn.errors import UsageError
from fasterrcnn.pixel_format import FULL, PixelFormat

_ROUNDING = 0.0101  # px: COCO rounds to two decimals, so that a box may exceed its image by 0.01


class Strings(Sequence[str]):
    """Immutable strings in one buffer, which forked workers share like the arrays."""

    def __init__(self, items: Iterable[str]) -> None:
        encoded = [item.encode("utf-8", "surrogatepass") for item in items]
        self._buffer = np.frombuffer(b"".join(encoded), np.uint8)
        self._first = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._first) - 1

    def __getitem__(self, i: int) -> str:  # type: ignore[override] # slices are not needed
        i = range(len(self))[i]  # raises IndexError
        part = self._buffer[self._first[i] : self._first[i + 1]]
        return part.tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:  # several times as fast as item by item
        buffer, first = self._buffer.tobytes(), self._first.tolist()
        for start, end in pairwise(first):
            yield buffer[start:end].decode("utf-8", "surrogatepass")

    def take(self, index: np.ndarray) -> Strings:
        """The strings at positions `index`."""
        taken = Strings(())
        taken._first, rows = _rows(self._first, index)
        taken._buffer = self._buffer[rows]
        return taken


@dataclass(frozen=True)
class Classes:
    """The K classes; item i has label i + 1, because label 0 is background."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]  # as in the files of the data set

    @classmethod
    def of(cls, names: Sequence[str]) -> Classes:
        """Classes of a format without ids: these are the labels."""
        return cls(tuple(names), tuple(range(1, len(names) + 1)))

    @property
    def label_of(self) -> dict[str, int]:
        """The label of each name."""
        return {name: label for label, name in enumerate(self.names, start=1)}

    @property
    def label_of_id(self) -> dict[int, int]:
        """The label of each category id."""
        return {id: label for label, id in enumerate(self.category_ids, start=1)}

    @property
    def num_classes(self) -> int:
        """K + 1: background counts, as in torchvision."""
        return len(self.names) + 1

    def subset(self, names: Sequence[str]) -> Classes:
        """The classes in `names`, in this table's order. Raises UsageError for unknown names."""
        known, wanted = {*self.names}, {*names}
        for name in names:
            if name not in known:
                raise UsageError(
                    f"--classes: {name}: not in the data; choose from {', '.join(self.names)}"
                )
        kept = [i for i, name in enumerate(self.names) if name in wanted]
        return Classes(
            tuple(self.names[i] for i in kept), tuple(self.category_ids[i] for i in kept)
        )


@dataclass(frozen=True)
class Lists:
    """A list of labels for each of n images, in one buffer."""

    first: np.ndarray  # int64 (n + 1,): list i is labels[first[i] : first[i + 1]]
    labels: np.ndarray  # int64

    @classmethod
    def of(cls, lists: Iterable[Sequence[int]]) -> Lists:
        """The same lists, flat."""
        lists = list(lists)
        labels = np.array([label for own in lists for label in own], np.int64)
        return cls(np.cumsum([0, *map(len, lists)], dtype=np.int64), labels)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.labels[self.first[i] : self.first[i + 1]]

    def relabeled(self, table: np.ndarray) -> Lists:
        """Label k becomes table[k]; those that become 0 are left out."""
        labels = table[self.labels]
        kept = np.flatnonzero(labels)
        return Lists(np.searchsorted(kept, self.first), labels[kept])

    def take(self, index: np.ndarray) -> Lists:
        """The lists of the images at positions `index`."""
        first, rows = _rows(self.first, index)
        return Lists(first, self.labels[rows])


@dataclass(frozen=True)
class Federated:
    """What a federated data set, such as LVIS, says about objects that have no box.

    Each image was searched for some classes only: those that it has boxes of, and those `absent`.
    Whether it shows any of the other classes is not known.
    """

    absent: Lists  # labels of classes that the image does not show
    not_exhaustive: Lists  # labels of classes of which the image may show more than its boxes
    frequency: tuple[str, ...]  # of each class: r(are), c(ommon), f(requent), or "": not known

    def undecided(self, i: int, labels: np.ndarray, with_boxes: np.ndarray) -> np.ndarray:
        """Bool ``(D,)``: whether a detection that matches no box may be right nevertheless.

        `labels` ``(D,)``: of the detections in image i. `with_boxes`: the labels of its boxes.
        """
        searched = np.isin(labels, self.absent[i]) | np.isin(labels, with_boxes)
        return ~searched | np.isin(labels, self.not_exhaustive[i])

    def relabeled(self, table: np.ndarray, count: int) -> Federated:
        """With `count` classes, where label k becomes table[k], 0: left out."""
        frequency = [""] * count
        for old, new in zip(self.frequency, table[1:].tolist(), strict=True):
            if new:
                frequency[new - 1] = old
        lists = (self.absent.relabeled(table), self.not_exhaustive.relabeled(table))
        return Federated(*lists, tuple(frequency))

    def take(self, index: np.ndarray) -> Federated:
        """Of the images at positions `index`."""
        return Federated(self.absent.take(index), self.not_exhaustive.take(index), self.frequency)


@dataclass(frozen=True)
class Tiles:
    """What the images of a split were cut from, where they are tiles of larger ones."""

    position: np.ndarray  # int64 (n,): of the image that each is a tile of, in the split before
    ids: Strings  # of these images
    sizes: np.ndarray  # int32 (n, 2): H, W of these images (px)
    corners: np.ndarray  # int32 (n, 2): y, x of each tile in its image (px)

    def take(self, index: np.ndarray) -> Tiles:
        """Of the tiles at positions `index`."""
        return Tiles(
            self.position[index], self.ids.take(index), self.sizes[index], self.corners[index]
        )


@dataclass(frozen=True)
class Annotations:
    """n images with B boxes, grouped by image: image i owns rows first[i] to first[i + 1] - 1."""

    folder: Path
    ids: Strings  # image id as text; the relative path where the format has none
    files: Strings  # relative to folder; absolute for files that are not in it
    sizes: np.ndarray  # int32 (n, 2): height, width of the image the boxes refer to (px)
    rotate: np.ndarray  # bool (n,): apply the file's EXIF orientation
    seen: np.ndarray  # uint8 (n,): how much of the file was found good, an `images.Seen`
    first: np.ndarray  # int64 (n + 1,)
    xywh: np.ndarray  # float64 (B, 4): as annotated (px), not clipped; evaluation uses these
    labels: np.ndarray  # int64 (B,) in 1..K
    area: np.ndarray  # float64 (B,): as annotated (COCO: of the mask), else w * h (px^2)
    crowd: np.ndarray  # bool (B,): not trained on; evaluation ignores detections that match it
    trainable: np.ndarray  # bool (B,): not crowd, and of positive size inside the image
    classes: Classes
    voc: bool = False  # PASCAL VOC's own data: its metrics are computed too
    depths: np.ndarray | None = None  # uint8 (n,): `images.Header.depth` of each file
    bands: np.ndarray | None = None  # uint16 (n, 2): `images.Header.bands` and `layout` of each
    nodata: np.ndarray | None = None  # str (n,): `images.Header.nodata` of each file
    pixel_format: PixelFormat = FULL  # how pixels are read
    channels: int = 0  # input channels that the data set states; 0: it does not
    federated: Federated | None = None  # LVIS: its own metric is computed instead of COCO's
    copies: str | None = None  # folder of raw copies to read tiles from
    tiles: Tiles | None = None  # where images are tiles; their crowd boxes are ignored in training

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, i: int) -> str:
        """Path of image i, as a string: each new Path leaks 16 bytes (Python 3.11)."""
        file = self.files[i]
        return file if file.startswith("/") else f"{self.folder}/{file}"

    def owners(self) -> np.ndarray:
        """Int64 ``(B,)``: the position of the image that each box is of."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def training_boxes(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image i's boxes to train on, clipped to it: float32 ``(G, 4)`` x1 y1 x2 y2 (px), and
        their labels, int64 ``(G,)``; of a tile the boxes to ignore too, whose label k is -k."""
        rows = slice(self.first[i], self.first[i + 1])
        kept, labels = self.trainable[rows], self.labels[rows]
        if self.tiles is not None:
            labels = np.where(kept, labels, -labels)
            kept = kept | self.crowd[rows]
        boxes = clip(self.xywh[rows][kept], self.sizes[i])
        return boxes.astype(np.float32), labels[kept]

    def with_boxes(self) -> np.ndarray:
        """Bool ``(n,)``: images with at least one box to train on."""
        counts = np.concatenate([[0], np.cumsum(self.trainable)])
        return counts[self.first[1:]] > counts[self.first[:-1]]

    def with_classes(self, classes: Classes) -> Annotations:
        """The same images with the labels of `classes`, found by name; boxes of other classes are
        left out."""
        label_of = classes.label_of
        table = np.array([0, *(label_of.get(name, 0) for name in self.classes.names)], np.int64)
        labels = table[self.labels]
        kept = np.flatnonzero(labels)
        return replace(
            self,
            first=np.searchsorted(kept, self.first),
            xywh=self.xywh[kept],
            labels=labels[kept],
            area=self.area[kept],
            crowd=self.crowd[kept],
            trainable=self.trainable[kept],
            classes=classes,
            federated=self.federated and self.federated.relabeled(table, len(classes.names)),
        )

    def select(self, chosen: np.ndarray) -> Annotations:
        """The images where `chosen` (bool ``(n,)``) is true, with their boxes."""
        return self.take(np.flatnonzero(chosen))

    def take(self, index: np.ndarray) -> Annotations:
        """The images at positions `index` (int64 ``(m,)``, repeats allowed), with their boxes."""
        first, boxes = _rows(self.first, index)
        return replace(
            self,
            ids=self.ids.take(index),
            files=self.files.take(index),
            sizes=self.sizes[index],
            rotate=self.rotate[index],
            seen=self.seen[index],
            depths=None if self.depths is None else self.depths[index],
            bands=None if self.bands is None else self.bands[index],
            nodata=None if self.nodata is None else self.nodata[index],
            first=first,
            xywh=self.xywh[boxes],
            labels=self.labels[boxes],
            area=self.area[boxes],
            crowd=self.crowd[boxes],
            trainable=self.trainable[boxes],
            federated=self.federated and self.federated.take(index),
            tiles=self.tiles and self.tiles.take(index),
        )

    @property
    def file_ids(self) -> Strings:
        """Of each image the id of the one that its file holds: its own, or what it is a tile of."""
        return self.ids if self.tiles is None else self.tiles.ids

    @property
    def file_sizes(self) -> np.ndarray:
        """Int32 ``(n, 2)``: height and width of that image (px)."""
        return self.sizes if self.tiles is None else self.tiles.sizes

    def digest(self) -> str:
        """SHA-256 of everything that training depends on, except where the files are."""
        digest = hashlib.sha256()
        pairs = zip(self.files, self.ids, strict=True)
        files = [id if file.startswith("/") else file for file, id in pairs]
        for item in (self.ids, files, self.classes.names):
            digest.update("\0".join(item).encode("utf-8", "surrogatepass") + b"\1")
        for array in (self.sizes, self.rotate, self.first, self.xywh, self.labels, self.trainable):
            digest.update(np.ascontiguousarray(array).tobytes())
        if self.tiles is not None:
            digest.update(np.ascontiguousarray(self.tiles.corners).tobytes())
        return digest.hexdigest()


def _rows(first: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of images at positions `index`: their own `first`, and the rows that they had."""
    counts = np.diff(first)[index]
    new = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return new, np.arange(new[-1]) + np.repeat(first[index] - new[:-1], counts)


def exceeds(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Bool ``(B,)``: the boxes that `clip` moves by more than COCO rounds."""
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return np.any(np.abs(clip(xywh, sizes) - corners) > _ROUNDING, axis=1)


def clip(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """x y w h ``(B, 4)`` to x1 y1 x2 y2, clipped to `sizes` (H, W; ``(2,)`` or ``(B, 2)``)."""
    x1y1, x2y2 = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    limit = np.broadcast_to(sizes, (len(xywh), 2))[:, ::-1]
    return np.concatenate([np.clip(x1y1, 0, limit), np.clip(x2y2, 0, limit)], axis=1)
