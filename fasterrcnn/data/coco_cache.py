"""What a large COCO json file says, kept as arrays in the user's cache folder.

A copy is used only while its source has the same size, time of change and SHA-256. It is written
under another name and renamed, so processes that make it at once do not disturb each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from fasterrcnn.data import user_cache
from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.builder import Boxes
from fasterrcnn.data.coco_json import Content, Image

_VERSION = 3  # of the rules by which files are read: a change of them makes older copies worthless
_WORTH_IT = 4 << 20  # bytes from which reading a copy is faster


def load(source: Path) -> Content | None:
    """The content of `source` if there is a valid copy."""
    try:
        with np.load(_place(source), allow_pickle=False) as file:
            if bytes(file["stamp"]).decode() == _stamp(source):
                return _content(dict(file))
    except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        pass  # there is none, or it is damaged
    return None


def save(source: Path, content: Content) -> None:
    """Keep a copy of the content of `source` if it is large and the folder can be written."""
    try:
        if source.stat().st_size < _WORTH_IT:
            return
        place = _place(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as file:
            arrays = _arrays(content) | {"stamp": _bytes(_stamp(source))}
            np.savez(file, **arrays)  # type: ignore[arg-type] # none is called allow_pickle
        Path(file.name).replace(place)
    except (OSError, RuntimeError):
        pass  # the next run reads the source again


def _place(source: Path) -> Path:
    name = hashlib.sha256(os.fsencode(source.absolute())).hexdigest()[:32]
    return user_cache.folder() / "annotations" / f"{name}.npz"


def _stamp(source: Path) -> str:
    """What a copy is valid for."""
    status = source.stat()
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return json.dumps([_VERSION, status.st_size, status.st_mtime_ns, digest.hexdigest()])


def _arrays(content: Content) -> dict[str, np.ndarray]:
    images = content.images
    return {
        "image_ids": _bytes(json.dumps([image.id for image in images])),
        "file_names": _bytes(json.dumps([image.file_name for image in images])),
        "sizes": np.array([image.size or (0, 0) for image in images], np.int64).reshape(-1, 2),
        "image_rows": np.array([image.row for image in images], np.int64),
        "lists": _bytes(
            json.dumps([(i.neg_category_ids, i.not_exhaustive_category_ids) for i in images])
        ),
        "classes": _bytes(json.dumps([*vars(content.classes).values(), content.frequency])),
        "rows": content.row,
        "ids": content.id,
        **vars(content.boxes),
    }


def _content(arrays: dict[str, np.ndarray]) -> Content:
    names, ids, frequency = json.loads(bytes(arrays["classes"]))
    images = [
        Image(id, name, (h, w) if h else None, row, *lists)
        for id, name, (h, w), row, lists in zip(
            json.loads(bytes(arrays["image_ids"])),
            json.loads(bytes(arrays["file_names"])),
            arrays["sizes"].tolist(),
            arrays["image_rows"].tolist(),
            json.loads(bytes(arrays["lists"])),
            strict=True,
        )
    ]
    boxes = Boxes(*(arrays[name] for name in Boxes.__annotations__))
    classes = Classes(tuple(names), tuple(ids))
    return Content(images, classes, boxes, arrays["rows"], arrays["ids"], tuple(frequency))


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)
