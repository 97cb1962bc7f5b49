"""One split of a data set as flat arrays, and the builder that every format reader fills.

Life of a batch, step 1. Forked loader workers share flat numpy arrays without copies; of Python
objects they would copy every page on which a reference count changes. Masks are not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from fasterrcnn.data.images import read_headers
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import UsageError


class Strings(Sequence[str]):
    """Immutable strings in one buffer, which forked workers share like the arrays."""

    def __init__(self, items: Iterable[str]) -> None:
        encoded = [item.encode("utf-8", "surrogatepass") for item in items]
        self._buffer = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> str:  # type: ignore[override] # slices are not needed
        start = self._ends[i - 1] if i else 0
        return self._buffer[start : self._ends[i]].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Classes:
    """The K classes; item i has label i + 1, because label 0 is background."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]  # as in the files of the data set

    @property
    def num_classes(self) -> int:
        """K + 1: background counts, as in torchvision."""
        return len(self.names) + 1

    def subset(self, names: Sequence[str]) -> Classes:
        """The classes in `names`, in this table's order. Raises UsageError for unknown names."""
        for name in names:
            if name not in self.names:
                raise UsageError(
                    f"--classes: {name}: not in the data; choose from {', '.join(self.names)}"
                )
        kept = [i for i, name in enumerate(self.names) if name in names]
        return Classes(
            tuple(self.names[i] for i in kept), tuple(self.category_ids[i] for i in kept)
        )


@dataclass(frozen=True)
class Annotations:
    """n images with B boxes, grouped by image: image i owns rows first[i] to first[i + 1] - 1."""

    folder: Path
    ids: Strings  # image id as text; the relative path where the format has none
    files: Strings  # relative to folder
    sizes: np.ndarray  # int32 (n, 2): height, width of the image the boxes refer to (px)
    rotate: np.ndarray  # bool (n,): apply the file's EXIF orientation
    first: np.ndarray  # int64 (n + 1,)
    xywh: np.ndarray  # float64 (B, 4): as annotated (px), not clipped; evaluation uses these
    labels: np.ndarray  # int64 (B,) in 1..K
    area: np.ndarray  # float64 (B,): as annotated (COCO: of the mask), else w * h (px^2)
    crowd: np.ndarray  # bool (B,): not trained on; evaluation ignores detections that match it
    trainable: np.ndarray  # bool (B,): not crowd, and of positive size inside the image
    classes: Classes
    voc: bool = False  # PASCAL VOC's own data: its metrics are computed too

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, i: int) -> str:
        """Path of image i, as a string: each new Path leaks 16 bytes (Python 3.11)."""
        return f"{self.folder}/{self.files[i]}"

    def training_boxes(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image i's boxes to train on, clipped to it: float32 ``(G, 4)`` x1 y1 x2 y2 (px), and
        their labels, int64 ``(G,)``."""
        rows = slice(self.first[i], self.first[i + 1])
        kept = self.trainable[rows]
        boxes = clip(self.xywh[rows][kept], self.sizes[i])
        return boxes.astype(np.float32), self.labels[rows][kept]

    def with_boxes(self) -> np.ndarray:
        """Bool ``(n,)``: images with at least one box to train on."""
        counts = np.concatenate([[0], np.cumsum(self.trainable)])
        return counts[self.first[1:]] > counts[self.first[:-1]]

    def select(self, chosen: np.ndarray) -> Annotations:
        """The images where `chosen` (bool ``(n,)``) is true, with their boxes."""
        return self.take(np.flatnonzero(chosen))

    def take(self, index: np.ndarray) -> Annotations:
        """The images at positions `index` (int64 ``(m,)``, repeats allowed), with their boxes."""
        counts = np.diff(self.first)[index]
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        boxes = np.arange(first[-1]) + np.repeat(self.first[index] - first[:-1], counts)
        return replace(
            self,
            ids=Strings(self.ids[i] for i in index),
            files=Strings(self.files[i] for i in index),
            sizes=self.sizes[index],
            rotate=self.rotate[index],
            first=first,
            xywh=self.xywh[boxes],
            labels=self.labels[boxes],
            area=self.area[boxes],
            crowd=self.crowd[boxes],
            trainable=self.trainable[boxes],
        )

    def digest(self) -> str:
        """SHA-256 of everything that training depends on, except where the files are."""
        digest = hashlib.sha256()
        for item in (self.ids, self.files, self.classes.names):
            digest.update("\0".join(item).encode("utf-8", "surrogatepass") + b"\1")
        for array in (self.sizes, self.rotate, self.first, self.xywh, self.labels, self.trainable):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def clip(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """x y w h ``(B, 4)`` to x1 y1 x2 y2, clipped to `sizes` (H, W; ``(2,)`` or ``(B, 2)``)."""
    x1y1, x2y2 = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    limit = np.broadcast_to(sizes, (len(xywh), 2))[:, ::-1]
    return np.concatenate([np.clip(x1y1, 0, limit), np.clip(x2y2, 0, limit)], axis=1)


class Builder:
    """Collects the images and boxes of a split, then checks them against the image files.

    A reader calls `add_image` and `add_box` for everything it parsed, then `build` once. For
    messages, `describe(where)` turns the `where` of a box into (file, field).
    """

    def __init__(
        self, folder: Path, problems: Problems, describe: Callable[[Any], tuple[object, str]]
    ) -> None:
        self.folder = folder
        self.problems = problems
        self.describe = describe
        self._images: dict[int | str, tuple[str, tuple[int, int] | None, object, str]] = {}
        self._rejected: set[int | str] = set()
        self._boxes: list[tuple[int | str, int, list[float], float | None, bool]] = []
        self._where: list[Any] = []

    def add_image(
        self, id: int | str, file_name: str, size: tuple[int, int] | None, file: object, field: str
    ) -> None:
        """Add an image; `size` (H, W; px) is as annotated, None where the format has none."""
        if id in self._images:
            self.problems.fault(file, f"{field}/id", id, "another image has this id too")
        elif problem := _unsafe(file_name):
            self.reject_image(id, file, f"{field}/file_name", file_name, problem)
        else:
            self._images[id] = (file_name, size, file, field)

    def reject_image(self, id: int | str, file: object, field: str, value: Any, what: str) -> None:
        """Report an image that cannot be used; its boxes are left out without being reported."""
        self.problems.fault(file, field, value, what)
        self._rejected.add(id)

    def has_image(self, id: int | str) -> bool:
        """Whether there is an image `id`, usable or not."""
        return id in self._images or id in self._rejected

    def add_box(
        self,
        image: int | str,
        label: int,
        xywh: list[float],
        area: float | None,
        crowd: bool,
        where: Any,
    ) -> None:
        """Add a box (px) of finite numbers and non-negative size to an image of this split."""
        self._boxes.append((image, label, xywh, area, crowd))
        self._where.append(where)

    @cached_property
    def usable(self) -> dict[int | str, tuple[int, int, bool]]:
        """id -> (H, W, apply EXIF) of the images whose file exists and matches its annotation.

        Reads every header; use it only after the last `add_image`.
        """
        headers = read_headers([self.folder / name for name, *_ in self._images.values()])
        usable = {}
        for (id, (name, size, file, field)), header in zip(
            self._images.items(), headers, strict=True
        ):
            if isinstance(header, str):
                self.problems.fault(self.folder / name, f"image {id}", name, header)
            elif size in (None, header.displayed, header.stored):
                turned = size != header.stored
                height, width = header.displayed if turned else header.stored
                usable[id] = (height, width, turned and header.orientation != 1)
            else:
                assert size is not None  # the case above
                seen = "" if header.orientation == 1 else f", EXIF orientation {header.orientation}"
                self.problems.fault(
                    file,
                    f"{field} (image {id})",
                    f"height {size[0]}, width {size[1]}",
                    f"{name} has height {header.height}, width {header.width}{seen}",
                )
        return usable

    def build(self, classes: Classes) -> Annotations:
        """Flat arrays of the usable images, sorted by id as in pycocotools."""
        ids = sorted(self.usable, key=lambda id: (isinstance(id, str), id))
        seen = [self.usable[id] for id in ids]
        position = {id: i for i, id in enumerate(ids)}
        order = sorted(
            (k for k, box in enumerate(self._boxes) if box[0] in position),
            key=lambda k: position[self._boxes[k][0]],
        )
        boxes = [self._boxes[k] for k in order]
        owner = np.array([position[box[0]] for box in boxes], np.int64)
        xywh = np.array([box[2] for box in boxes], np.float64).reshape(-1, 4)
        area = [box[2][2] * box[2][3] if box[3] is None else box[3] for box in boxes]
        crowd = np.array([box[4] for box in boxes], bool)
        sizes = np.array([(height, width) for height, width, _ in seen], np.int32).reshape(-1, 2)
        inside = self._check_boxes(xywh, sizes[owner], [self._where[k] for k in order])
        return Annotations(
            folder=self.folder,
            ids=Strings(map(str, ids)),
            files=Strings(self._images[id][0] for id in ids),
            sizes=sizes,
            rotate=np.array([turned for _, _, turned in seen], bool),
            first=np.searchsorted(owner, np.arange(len(sizes) + 1)).astype(np.int64),
            xywh=xywh,
            labels=np.array([box[1] for box in boxes], np.int64),
            area=np.array(area, np.float64),
            crowd=crowd,
            trainable=inside & ~crowd,
            classes=classes,
        )

    def _check_boxes(self, xywh: np.ndarray, sizes: np.ndarray, where: list[Any]) -> np.ndarray:
        """Bool ``(B,)``: boxes of positive size inside their image; the others become notes."""
        clipped = clip(xywh, sizes)
        empty = np.any(xywh[:, 2:] <= 0, axis=1)
        outside = ~empty & np.any(clipped[:, 2:] <= clipped[:, :2], axis=1)
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        # COCO rounds to two decimals, so that a box may exceed its image by 0.01 px
        moved = ~empty & ~outside & np.any(np.abs(clipped - corners) > 0.0101, axis=1)
        for mask, what, action in (
            (empty, "box of zero width or height", "dropped"),
            (outside, "box outside the image", "dropped"),
            (moved, "box partly outside the image", "clipped"),
        ):
            for k in np.flatnonzero(mask):
                self.problems.note(*self.describe(where[k]), xywh[k].tolist(), what, action)
        return ~empty & ~outside


def _unsafe(file_name: str) -> str | None:
    """Why `file_name` must not be joined to the image folder; None if it may be."""
    path, windows = PurePosixPath(file_name), PureWindowsPath(file_name)
    if not file_name or "\0" in file_name:
        return "not a file name"
    if path.is_absolute() or windows.drive or windows.root or ".." in (*path.parts, *windows.parts):
        return "leaves the image folder"
    return None
