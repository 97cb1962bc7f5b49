"""Proposals for the images of a data set, stored in one file: what Fast R-CNN trains on.

A .safetensors file with M boxes, float32 ``(M, 4)`` x1 y1 x2 y2, and scores, float32 ``(M,)``,
sorted by descending score within an image; and for each image its first row, its id, and the size
(H, W) of the image that its boxes refer to (for an RPN's proposals, its resized input). The header
holds a SHA-256 of all of that, and where the proposals come from. Boxes are read image by image.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fasterrcnn.data.annotations import Annotations
from fasterrcnn.errors import CheckpointError, DataError, StorageError, UsageError
from fasterrcnn.safe_load.reading import arrays

_FORMAT = "fasterrcnn proposals 1"
_TENSORS = ("boxes", "scores", "first", "sizes", "ids")
_ROWS = 1 << 20  # read at a time when the file is checked


class ImageProposals(NamedTuple):
    """The P proposals of one image, by descending score."""

    boxes: np.ndarray  # float32 (P, 4): x1 y1 x2 y2 (px) in an image of `size`
    scores: np.ndarray  # float32 (P,)
    size: tuple[int, int]  # H, W


@dataclass
class StoredProposals:
    """A file of proposals for n images. It is pickled as path and SHA-256; every process opens the
    file itself."""

    path: Path
    sha256: str  # of all tensors
    about: dict[str, Any]  # where the proposals come from
    ids: list[str]
    spans: np.ndarray  # int64 (n, 2): first row of each image, last row + 1
    sizes: np.ndarray | None  # int32 (n, 2): H, W that boxes refer to; None: the image
    boxes: Any  # float32 (M, 4), read when sliced
    scores: Any  # float32 (M,)

    def __reduce__(self) -> tuple:
        return _reopened, (self.path, self.sha256)

    def aligned(self, annotations: Annotations) -> StoredProposals:
        """The proposals of these images, in their order. Raises DataError for an image without."""
        known = {id: i for i, id in enumerate(self.ids)}
        for id in annotations.ids:
            if id not in known:
                raise DataError(
                    f"{self.path}: image {id}: has no proposals; store some for this split with "
                    "propose --proposals"
                )
        order = np.array([known[id] for id in annotations.ids], np.int64)
        sizes = annotations.sizes if self.sizes is None else self.sizes[order]
        return replace(self, ids=[*annotations.ids], spans=self.spans[order], sizes=sizes)

    def of(self, i: int) -> ImageProposals:
        """The proposals of image `i` of the annotations that these are aligned with."""
        assert self.sizes is not None  # set by `aligned`
        height, width = map(int, self.sizes[i])
        begin, end = map(int, self.spans[i])
        if begin == end:  # safetensors refuses the empty rows at a tensor's end
            empty = np.zeros((0, 5), np.float32)
            return ImageProposals(empty[:, :4], empty[:, 4], (height, width))
        boxes = np.array(self.boxes[begin:end])  # a copy, which the loader may flip
        return ImageProposals(boxes, self.scores[begin:end], (height, width))

    def rows(self, annotations: Annotations) -> np.ndarray:
        """The proposals of these images as `metrics.proposals` takes them: float64 ``(P, 7)`` of
        image, x, y, w, h (px of the annotated image), score, label 1."""
        aligned, found = self.aligned(annotations), []
        for i, annotated in enumerate(annotations.sizes):
            boxes, scores, size = aligned.of(i)
            scale = np.tile((annotated / size)[::-1], 2)
            x1y1, x2y2 = np.split(boxes.astype(np.float64) * scale, 2, axis=1)
            ones = np.ones((len(scores), 1))
            found.append(np.hstack([i * ones, x1y1, x2y2 - x1y1, scores[:, None], ones]))
        return np.concatenate(found)


def check_given(flag: str, path: Path | None, detector: str) -> None:
    """Raise UsageError unless `path` is given for Fast R-CNN, and for no other detector."""
    if detector == "fast_rcnn" and path is None:
        raise UsageError(
            f"{flag}: Fast R-CNN needs proposals of these images; "
            "fasterrcnn propose --proposals FILE stores them"
        )
    if detector != "fast_rcnn" and path is not None:
        raise UsageError(f"{flag}: {path}: only --detector fast_rcnn takes stored proposals")


def write(
    path: Path, ids: Iterable[str], images: Sequence[ImageProposals], about: dict[str, Any]
) -> None:
    """Write the proposals of `images`, whose ids are `ids`, under a temporary name until complete.

    `about` may be any json. Raises StorageError.
    """
    counts = [len(image.scores) for image in images]
    tensors: dict[str, np.ndarray] = {
        "boxes": np.concatenate([image.boxes for image in images]).astype(np.float32),
        "scores": np.concatenate([image.scores for image in images]).astype(np.float32),
        "first": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "sizes": np.array([image.size for image in images], np.int32),
        "ids": np.frombuffer(json.dumps([*ids]).encode(), np.uint8),
    }
    header = {_FORMAT: json.dumps({"sha256": _digest(tensors), "about": about})}
    temporary = path.with_name(
        f".{path.name}.tmp"
    )  # always the same, so that killed processes leave one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=header)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        if temporary.is_file():
            temporary.unlink()
        raise StorageError(
            f"{path}: not written: {error}; check disk space and permissions"
        ) from None


def is_there(path: Path, source: dict[str, Any]) -> bool:
    """Whether `path` holds proposals from this `source`. Raises UsageError if it holds others."""
    if not path.exists():
        return False
    try:
        if read(path).about.get("source") == source:
            return True
        what = "holds proposals of another checkpoint or for other images"
    except DataError as error:
        what = f"cannot be used ({error})"
    raise UsageError(f"--proposals: {path}: {what}; delete it, or give another file")


def _reopened(path: Path, sha256: str) -> StoredProposals:
    """Open a file in another process, which may run on another machine. Raises DataError."""
    found = read(path)
    if found.sha256 != sha256:
        raise DataError(f"{path}: not the same file for every process; copy it to all machines")
    return found


def read(path: Path) -> StoredProposals:
    """Open and check a file written by `write`, or a .pkl of Detectron2. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; fasterrcnn propose --proposals writes it")
    try:
        return _read_detectron2(path) if path.suffix == ".pkl" else _read_stored(path)
    except CheckpointError as error:
        raise DataError(str(error)) from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply; give another file of proposals") from None
    except (OSError, SafetensorError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: {error}; give a file written by propose --proposals") from None


def _read_stored(path: Path) -> StoredProposals:
    """A file written by `write`. Raises errors of several kinds if it is damaged."""
    with safe_open(path, framework="np") as file:
        header = json.loads((file.metadata() or {}).get(_FORMAT, "{}"))
        if not isinstance(header, dict) or {*header} != {"sha256", "about"}:
            raise ValueError("not a file of proposals")
        parts = {name: file.get_slice(name) for name in _TENSORS}
        if _digest(parts) != header["sha256"]:
            raise ValueError("damaged (SHA-256 differs)")
        first, sizes, ids = (file.get_tensor(name) for name in ("first", "sizes", "ids"))
    names = json.loads(ids.tobytes())
    _check_stored(parts, first, sizes, names, header["about"])
    return StoredProposals(
        path,
        **header,
        ids=names,
        spans=np.stack([first[:-1], first[1:]], axis=1),
        sizes=sizes,
        boxes=parts["boxes"],
        scores=parts["scores"],
    )


def _check_stored(
    parts: dict[str, Any], first: np.ndarray, sizes: np.ndarray, names: Any, about: Any
) -> None:
    """Raise ValueError for a file whose SHA-256 is right, but which `write` does not write."""
    count = len(first) - 1
    rows = parts["scores"].get_shape()[0]
    shapes = [parts[name].get_shape() for name in ("boxes", "scores", "sizes")]
    if shapes != [[rows, 4], [rows], [count, 2]] or first.ndim != 1 or count < 1:
        raise ValueError("its tensors are not of the same images and boxes")
    kinds = [parts[name].get_dtype() for name in ("boxes", "scores", "first", "sizes")]
    if kinds != ["F32", "F32", "I64", "I32"]:
        raise ValueError("its tensors are of other types")
    if first[0] != 0 or first[-1] != rows or (np.diff(first) < 0).any() or (sizes < 1).any():
        raise ValueError("its rows or sizes are not those of images")
    if not isinstance(names, list) or len(names) != count or {*map(type, names)} - {str}:
        raise ValueError("its ids are not those of its images")
    seconds = about.get("seconds_per_image") if isinstance(about, dict) else "not known"
    if not isinstance(seconds, (int, float, type(None))):
        raise ValueError("what it says of itself is not what propose writes")


def _read_detectron2(path: Path) -> StoredProposals:
    """A file saved by Detectron or by Detectron2's evaluation: lists of one array per image, in px
    of that image (`detectron2/data/build.py`, load_proposals_into_dataset)."""
    content = arrays(path)
    ids, logits = (  # as named by Detectron2, by Detectron
        content.get(new, content.get(old))
        for new, old in (("ids", "indexes"), ("objectness_logits", "scores"))
    )
    boxes, mode = content.get("boxes"), content.get("bbox_mode", 0)
    if not (isinstance(ids, list) and _are_arrays(logits) and _are_arrays(boxes)):
        raise ValueError("not proposals of Detectron2: ids, boxes and objectness_logits expected")
    if not {*map(type, ids)} <= {int, str}:
        raise ValueError("ids: not numbers or texts")
    if type(mode) is not int or mode not in (0, 1):
        shown = mode if isinstance(mode, int) else type(mode).__name__
        raise ValueError(f"bbox_mode: {shown}: not x1 y1 x2 y2 (0) or x y w h (1)")
    counts = [len(part) for part in logits]
    if len(ids) != len(logits) or [part.shape for part in boxes] != [(n, 4) for n in counts]:
        raise ValueError("ids, boxes and objectness_logits do not belong to the same images")
    order = [np.argsort(-part, kind="stable") for part in logits]
    box = np.concatenate([part[o] for part, o in zip(boxes, order, strict=True)])
    if mode == 1:  # x y w h
        box[:, 2:] += box[:, :2]
    logit = np.concatenate([part[o] for part, o in zip(logits, order, strict=True)])
    if not (np.isfinite(box).all() and np.isfinite(logit).all()):
        raise ValueError("holds NaN or infinite numbers")
    first = np.concatenate([[0], np.cumsum(counts)])
    tensors = {"boxes": box.astype(np.float32), "scores": logit.astype(np.float32), "first": first}
    return StoredProposals(
        path,
        _digest(tensors),
        {"made_by": path.name},
        ids=[str(id) for id in ids],
        spans=np.stack([first[:-1], first[1:]], axis=1),
        sizes=None,
        boxes=tensors["boxes"],
        scores=tensors["scores"],
    )


def _are_arrays(parts: Any) -> TypeGuard[list[np.ndarray]]:
    """Whether `parts` is a list of floating-point arrays."""
    return isinstance(parts, list) and all(
        isinstance(part, np.ndarray) and part.ndim > 0 and part.dtype.kind == "f" for part in parts
    )


def _digest(tensors: dict[str, Any]) -> str:
    """SHA-256 of arrays or safetensors slices, sorted by name and read in parts."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        part = tensors[name]
        rows = (part.shape if isinstance(part, np.ndarray) else part.get_shape())[0]
        digest.update(f"{name} {rows}".encode())
        for start in range(0, rows, _ROWS):
            digest.update(np.ascontiguousarray(part[start : min(start + _ROWS, rows)]).tobytes())
    return digest.hexdigest()
