"""What a COCO json file knows of images by name: their ids and ground truth.

For images that are not read as a split of a data set, because nothing is asked but to detect in
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fasterrcnn.data import coco_json
from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import UsageError


class Known(NamedTuple):
    """An image of the file."""

    id: int | str
    size: tuple[int, int] | None  # H, W (px) that its boxes refer to
    boxes: Tensor  # float32 (G, 4): x1 y1 x2 y2 (px)
    names: tuple[str, ...]  # class of each box


class KnownImages:
    """The images of a file by ``file_name``, or by its last part where that is enough."""

    def __init__(self, path: Path) -> None:
        """Raises DataError for a file that is not COCO json."""
        self.path = path
        self._content = coco_json.parse(path, Problems(skip=True))
        self._order = np.argsort(self._content.boxes.image, kind="stable")
        self._owner = self._content.boxes.image[self._order]
        self._position = {image.file_name: k for k, image in enumerate(self._content.images)}
        self._by_last: dict[str, int | None] = {}
        for name, k in self._position.items():
            last = PurePosixPath(name).name
            self._by_last[last] = None if last in self._by_last else k

    def category_ids(self, classes: Classes) -> tuple[int, ...]:
        """The file's id of each of `classes`, by name. Raises UsageError for one without."""
        table = self._content.classes
        ids = dict(zip(table.names, table.category_ids, strict=True))
        for name in classes.names:
            if name not in ids:
                raise UsageError(
                    f"--annotations: {self.path}: has no category {name}; leave that class out "
                    "with --classes"
                )
        return tuple(ids[name] for name in classes.names)

    def check(self, names: Iterable[str]) -> None:
        """Raise UsageError if one of the images is not in the file."""
        missing = [name for name in names if self._find(name) is None]
        if missing:
            others = f" (nor have {len(missing) - 1} others)" if len(missing) > 1 else ""
            raise UsageError(
                f"--annotations: {self.path}: /images: {missing[0]} has no file_name here{others}; "
                "leave such images out, or the flag"
            )

    def size(self, name: str) -> tuple[int, int] | None:
        """The annotated size (H, W; px) of an image."""
        k = self._find(name)
        return None if k is None else self._content.images[k].size

    def get(self, name: str) -> Known:
        """The image of this name, which `check` found."""
        k = self._find(name)
        assert k is not None, name
        image, boxes, table = self._content.images[k], self._content.boxes, self._content.classes
        own = self._order[slice(*np.searchsorted(self._owner, [k, k + 1]))]
        x1y1, size = np.split(boxes.xywh[own], 2, axis=1)
        corners = torch.from_numpy(np.hstack([x1y1, x1y1 + size])).float()
        labels = boxes.label[own].tolist()
        return Known(image.id, image.size, corners, tuple(table.names[n - 1] for n in labels))

    def _find(self, name: str) -> int | None:
        k = self._position.get(name)
        return self._by_last.get(name.rpartition("/")[2]) if k is None else k
