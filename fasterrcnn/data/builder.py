"""From what a format's reader parsed to `Annotations`, checked against the image files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fasterrcnn.data.annotations import Annotations, Classes, Strings, clip, exceeds
from fasterrcnn.data.image_check import read_headers
from fasterrcnn.data.images import Header, Seen
from fasterrcnn.data.problems import Problems

Id: TypeAlias = int | str
_WEIGHTS = np.array([1e6, 1e3, 0.8414, 0.9093, 0.1411, 0.7568])  # of a row's columns, to sort by


class _Image(NamedTuple):
    file_name: str
    size: tuple[int, int] | None  # H, W as annotated (px)
    file: object
    field: str


class Usable(NamedTuple):
    """An image whose file exists and matches its annotation."""

    height: int
    width: int  # px, of the image that the boxes refer to
    rotate: bool  # apply the file's EXIF orientation
    seen: Seen  # how much of the file was found good
    header: Header


@dataclass
class Boxes:
    """B boxes as columns, of any images."""

    image: np.ndarray  # int64 (B,): position among the images in the order they were added
    label: np.ndarray  # int64 (B,) in 1..K
    xywh: np.ndarray  # float64 (B, 4): finite, w and h not negative (px)
    area: np.ndarray  # float64 (B,) (px^2); NaN: not annotated
    crowd: np.ndarray  # bool (B,)


class Builder:
    """Collects the images and boxes of a split, then checks them against the image files.

    A reader calls `add_image` for every image, `add_box` for every box (or `add_boxes`), then
    `build` once. For messages, `describe(where)` turns the `where` of a box into (file, field).
    """

    def __init__(
        self, folder: Path, problems: Problems, describe: Callable[[Any], tuple[object, str]]
    ) -> None:
        self.folder = folder
        self.problems = problems
        self.describe = describe
        self.position: dict[Id, int] = {}  # of each image, in the order they were added
        self._images: list[_Image] = []
        self._rejected: set[Id] = set()
        self._boxes: list[tuple[int, int, Sequence[float], bool]] = []
        self._where: list[Any] = []
        self._columns: list[tuple[Boxes, Sequence[Any] | np.ndarray]] = []

    def add_image(
        self,
        id: Id,
        file_name: str,
        size: tuple[int, int] | None,
        file: object,
        field: str,
    ) -> None:
        """Add an image; `size` (H, W; px) is as annotated, None where the format has none.

        `file_name` is relative to the folder, or an absolute path that the reader itself has found.
        Of two images with one id neither is used, because nothing says whose the boxes are.
        """
        if id in self.position:
            self.reject_image(id, file, f"{field}/id", id, "another image has this id too")
            return
        self.position[id] = len(self._images)
        self._images.append(_Image(file_name, size, file, field))

    def reject_image(self, id: Id, file: object, field: str, value: Any, what: str) -> None:
        """Report an image that cannot be used; its boxes are left out without being reported."""
        self.problems.fault(file, field, value, what)
        self._rejected.add(id)

    def add_box(
        self,
        image: Id,
        label: int,
        xywh: Sequence[float],
        crowd: bool,
        where: Any,
    ) -> None:
        """Add a box (px) of finite numbers and non-negative size to an image of this split."""
        if image in self.position:  # else it was rejected
            self._boxes.append((self.position[image], label, xywh, crowd))
            self._where.append(where)

    def add_boxes(self, boxes: Boxes, where: Sequence[Any] | np.ndarray) -> None:
        """Add many boxes at once; `where` has an entry for each."""
        self._columns.append((boxes, where))

    @cached_property
    def usable(self) -> dict[Id, Usable]:
        """By id, the images whose file exists and matches its annotation.

        Reads every header; use it only after the last `add_image`.
        """
        asked = {id: self._images[k] for id, k in self.position.items() if id not in self._rejected}
        paths = (os.path.join(self.folder, image.file_name) for image in asked.values())  # noqa: PTH118 # Paths are slow
        verdicts = read_headers(paths, self.problems)
        usable = {}
        for (id, image), verdict in zip(asked.items(), verdicts, strict=True):
            header, good = verdict.header, Seen.NOTHING if verdict.damage else verdict.seen
            if isinstance(header, str):
                path = self.folder / image.file_name
                self.problems.fault(path, f"image {id}", image.file_name, header)
            elif fitting := _fit(image.size, header, good):
                usable[id] = fitting
            else:
                self._size_fault(id, image, header)
        return usable

    def _size_fault(self, id: Id, image: _Image, header: Header) -> None:
        assert image.size is not None  # else it would fit
        seen = "" if header.orientation == 1 else f", EXIF orientation {header.orientation}"
        self.problems.fault(
            image.file,
            f"{image.field} (image {id})",
            f"height {image.size[0]}, width {image.size[1]}",
            f"{image.file_name} has height {header.height}, width {header.width}{seen}",
        )

    @cached_property
    def order(self) -> list[Id]:
        """The ids of the usable images, sorted as in pycocotools."""
        return sorted(self.usable, key=lambda id: (isinstance(id, str), id))

    def build(self, classes: Classes) -> Annotations:
        """Flat arrays of the usable images in their `order`, with the boxes of each in the order
        they were added."""
        ids = self.order
        usable = [self.usable[id] for id in ids]
        sizes = np.array([image[:2] for image in usable], np.int32).reshape(-1, 2)
        rank = np.full(len(self._images), -1, np.int64)  # of each added image among `ids`
        rank[[self.position[id] for id in ids]] = np.arange(len(ids))
        boxes, where_of = self._all_boxes()
        owner = rank[boxes.image]
        order = np.argsort(owner, kind="stable")
        order = order[np.searchsorted(owner[order], 0) :]
        owner = owner[order]
        xywh, crowd = boxes.xywh[order], boxes.crowd[order]
        area = boxes.area[order]
        labels = boxes.label[order]
        inside = self._check_boxes(xywh, sizes[owner], lambda k: where_of(int(order[k])))
        self._note_repeats(owner, labels, xywh, lambda k: where_of(int(order[k])))
        return Annotations(
            folder=self.folder,
            ids=Strings(map(str, ids)),
            files=Strings(self._images[self.position[id]].file_name for id in ids),
            sizes=sizes,
            rotate=np.array([image.rotate for image in usable], bool),
            seen=np.array([image.seen for image in usable], np.uint8),
            depths=np.array([image.header.depth for image in usable], np.uint8),
            bands=np.array([image.header[4:6] for image in usable], np.uint16).reshape(-1, 2),
            nodata=np.array([image.header.nodata for image in usable], object),
            first=np.searchsorted(owner, np.arange(len(sizes) + 1)).astype(np.int64),
            xywh=xywh,
            labels=labels,
            area=np.where(np.isnan(area), xywh[:, 2] * xywh[:, 3], area),
            crowd=crowd,
            trainable=inside & ~crowd,
            classes=classes,
        )

    def _all_boxes(self) -> tuple[Boxes, Callable[[int], Any]]:
        """All boxes as one set of columns, and the function that gives the `where` of each."""
        own = self._boxes
        single = Boxes(
            np.array([box[0] for box in own], np.int64),
            np.array([box[1] for box in own], np.int64),
            np.array([box[2] for box in own], np.float64).reshape(-1, 4),
            np.full(len(own), np.nan),
            np.array([box[3] for box in own], bool),
        )
        parts: list[tuple[Boxes, Any]] = [(single, self._where), *self._columns]
        ends = np.cumsum([len(boxes.label) for boxes, _ in parts])

        def where_of(k: int) -> Any:
            part = int(np.searchsorted(ends, k, side="right"))
            return parts[part][1][k - (int(ends[part - 1]) if part else 0)]

        columns = ([getattr(b, name) for b, _ in parts] for name in Boxes.__annotations__)
        return Boxes(*(np.concatenate(column) for column in columns)), where_of

    def _check_boxes(
        self, xywh: np.ndarray, sizes: np.ndarray, where_of: Callable[[int], Any]
    ) -> np.ndarray:
        """Bool ``(B,)``: boxes of positive size inside their image; the others become notes."""
        clipped = clip(xywh, sizes)
        empty = np.any(xywh[:, 2:] <= 0, axis=1)
        outside = ~empty & np.any(clipped[:, 2:] <= clipped[:, :2], axis=1)
        moved = ~empty & ~outside & exceeds(xywh, sizes)
        for mask, what, action in (
            (empty, "box of zero width or height", "dropped"),
            (outside, "box outside the image", "dropped"),
            (moved, "box partly outside the image", "clipped"),
        ):
            for k in np.flatnonzero(mask).tolist():
                self.problems.note(*self.describe(where_of(k)), xywh[k].tolist(), what, action)
        return ~empty & ~outside

    def _note_repeats(
        self,
        owner: np.ndarray,
        labels: np.ndarray,
        xywh: np.ndarray,
        where_of: Callable[[int], Any],
    ) -> None:
        """Note every box that its image has twice."""
        columns = np.column_stack([owner, labels, xywh])
        order = np.argsort(columns @ _WEIGHTS, kind="stable")  # puts equal rows side by side
        same = np.all(columns[order[1:]] == columns[order[:-1]], axis=1)
        for k in order[1:][same].tolist():
            value = xywh[k].tolist()
            self.problems.note(*self.describe(where_of(k)), value, "the same box twice", "kept")


def _fit(size: tuple[int, int] | None, header: Header, seen: Seen) -> Usable | None:
    """An image of annotated `size`; None if its file has another size.

    Boxes are drawn on the image as displayed, unless only the stored size fits.
    """
    if size in (None, header.displayed):
        return Usable(*header.displayed, header.orientation != 1, seen, header)
    return Usable(*header.stored, False, seen, header) if size == header.stored else None
