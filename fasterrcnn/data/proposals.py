"""Proposals of the images of a data set, stored in one file: what Fast R-CNN trains on.

A .safetensors file of boxes float32 ``(M, 4)`` x1 y1 x2 y2 in pixels of the network's input (what
the detector computes with, unrounded), scores float32 ``(M,)``, best first within an image; of each
image the number of its first row, the size (H, W) of that input, and its id. Its header holds a
SHA-256 of all of that, and what made it. Boxes are read image by image from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fasterrcnn.data.annotations import Annotations
from fasterrcnn.errors import DataError, StorageError, UsageError

_FORMAT = "fasterrcnn proposals 1"
_TENSORS = ("boxes", "scores", "first", "sizes", "ids")
_ROWS = 1 << 20  # read at once when the file is checked


class OfImage(NamedTuple):
    """The P proposals of one image, best first."""

    boxes: np.ndarray  # float32 (P, 4): x1 y1 x2 y2, px of an image of `size`
    scores: np.ndarray  # float32 (P,)
    size: tuple[int, int]  # H, W


@dataclass
class StoredProposals:
    """A file of proposals. Every process that uses it opens it by itself."""

    path: Path
    sha256: str  # of everything below
    about: dict[str, Any]  # what made it
    first: np.ndarray  # int64 (n + 1,): image i owns rows first[i] to first[i + 1] - 1
    sizes: np.ndarray  # int32 (n, 2): H, W of the network's input
    ids: list[str]

    def __getstate__(self) -> dict[str, Any]:
        """Without what `_rows` keeps open."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """Of each of these images its number here. Raises DataError for one that is missing."""
        known = {id: i for i, id in enumerate(self.ids)}
        for id in ids:
            if id not in known:
                raise DataError(
                    f"{self.path}: image {id}: has no proposals; store those of this split with "
                    "propose --proposals"
                )
        return np.array([known[id] for id in ids], np.int64)

    def of(self, i: int) -> OfImage:
        """The proposals of image number `i`."""
        rows = slice(int(self.first[i]), int(self.first[i + 1]))
        boxes, scores = (part[rows] for part in self._rows)
        return OfImage(boxes, scores, (int(self.sizes[i][0]), int(self.sizes[i][1])))

    def rows(self, annotations: Annotations) -> np.ndarray:
        """Those of these images as `metrics.proposals` takes them: float64 ``(P, 7)`` of image, x,
        y, w, h in px of the annotated image, score, label 1."""
        found = []
        for i, k in enumerate(self.positions(annotations.ids)):
            boxes, scores, size = self.of(k)
            scale = np.tile((annotations.sizes[i] / size)[::-1], 2)
            x1y1, x2y2 = np.split(boxes.astype(np.float64) * scale, 2, axis=1)
            ones = np.ones((len(scores), 1))
            found.append(np.hstack([i * ones, x1y1, x2y2 - x1y1, scores[:, None], ones]))
        return np.concatenate(found)

    @cached_property
    def _rows(self) -> tuple[Any, Any]:
        file = safe_open(self.path, framework="np")
        return file.get_slice("boxes"), file.get_slice("scores")


def check_given(flag: str, path: Path | None, detector: str) -> None:
    """Raise UsageError unless `path` was given for Fast R-CNN, and only for it."""
    if detector == "fast_rcnn" and path is None:
        raise UsageError(
            f"{flag}: Fast R-CNN needs proposals of these images; "
            "start_scripts/propose_torch.sh --proposals FILE stores them"
        )
    if detector != "fast_rcnn" and path is not None:
        raise UsageError(f"{flag}: {path}: only --detector fast_rcnn takes stored proposals")


def write(path: Path, ids: Iterable[str], images: Sequence[OfImage], about: dict[str, Any]) -> None:
    """All at once, under a temporary name until it is complete. Raises StorageError."""
    counts = [len(image.scores) for image in images]
    tensors = {
        "boxes": np.concatenate([image.boxes for image in images]).astype(np.float32),
        "scores": np.concatenate([image.scores for image in images]).astype(np.float32),
        "first": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "sizes": np.array([image.size for image in images], np.int32),
        "ids": np.frombuffer(json.dumps([*ids]).encode(), np.uint8),
    }
    header = {_FORMAT: json.dumps({"sha256": _digest(tensors), "about": about})}
    temporary = path.with_name(f".{path.name}.tmp")  # one name: a killed one leaves nothing behind
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=header)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        if temporary.is_file():
            temporary.unlink()
        raise StorageError(f"{path}: not written: {error}; check space and rights") from None


def is_there(path: Path, source: dict[str, Any]) -> bool:
    """Does `path` hold proposals of this source? Raises UsageError for a file of another."""
    if not path.exists():
        return False
    if read(path).about.get("source") == source:
        return True
    raise UsageError(
        f"--proposals: {path}: holds proposals of another checkpoint or of other images; delete it "
        "or give another file"
    )


def read(path: Path) -> StoredProposals:
    """A file of `write`, checked. Raises DataError."""
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {}).get(_FORMAT, "{}"))
            if not header:
                raise ValueError("not a file of proposals")
            if _digest({name: file.get_slice(name) for name in _TENSORS}) != header["sha256"]:
                raise ValueError("damaged (SHA-256 differs)")
            first, sizes, ids = (file.get_tensor(name) for name in ("first", "sizes", "ids"))
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path}: {error}; make it with propose --proposals") from None
    return StoredProposals(path, **header, first=first, sizes=sizes, ids=json.loads(ids.tobytes()))


def _digest(tensors: dict[str, Any]) -> str:
    """SHA-256 of tensors that can be sliced, by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        part = tensors[name]
        rows = (part.shape if isinstance(part, np.ndarray) else part.get_shape())[0]
        digest.update(f"{name} {rows}".encode())
        for start in range(0, rows, _ROWS):
            digest.update(np.ascontiguousarray(part[start : min(start + _ROWS, rows)]).tobytes())
    return digest.hexdigest()
