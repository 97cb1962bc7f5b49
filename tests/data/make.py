"""Data sets that tests write and then break."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fasterrcnn.data import formats
from fasterrcnn.data.annotations import Annotations, Classes, Strings
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import UsageError

CONTENT = {
    "images": [
        {"id": 1, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 2, "file_name": "b.png", "height": 60, "width": 40},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 3,
            "bbox": [1, 2, 10, 20],
            "area": 150,
            "iscrowd": 0,
        },
        {
            "id": 2,
            "image_id": 2,
            "category_id": 7,
            "bbox": [5.5, 6, 7, 8],
            "area": 56,
            "iscrowd": 0,
        },
        {"id": 3, "image_id": 2, "category_id": 3, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
}


def image(path: Path, height: int, width: int, **options: Any) -> None:
    """A gray image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path, **options)


def coco(root: Path, content: Any = None) -> Path:
    """``annotations/instances_train2017.json``, ``train2017/`` with two images; the json file."""
    image(root / "train2017" / "a.png", 40, 60)
    image(root / "train2017" / "b.png", 60, 40)
    path = root / "annotations" / "instances_train2017.json"
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(CONTENT if content is None else content))
    return path


def changed(place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """CONTENT with the item at `place` replaced by `value`, or removed if `value` is ..."""
    content = copy.deepcopy(CONTENT)
    *path, last = place
    item: Any = content
    for key in path:
        item = item[key]
    if value is ...:
        del item[last]
    elif last == "append":
        item.append(value)
    else:
        item[last] = value
    return content


def splits(root: Path) -> list[str]:
    """The splits that a data set says it has when asked for another; none: it is one set."""
    with pytest.raises(UsageError) as error:
        formats.read(root, "nowhere", "auto", (), Problems())
    if found := re.search(r"found: (.*) \(--train-split, --val-split\)", str(error.value)):
        return [name for name in found[1].split(", ") if name != "none"]
    assert "has no split nowhere: everything in it is one set" in str(error.value)
    return []


def annotations_of(
    boxes: list[list[tuple[float, float, float, float]]], *, crowd: list[int] | None = None
) -> Annotations:
    """Annotations without files: the boxes (x y w h) of each image, one class; crowd by number."""
    xywh = np.array([box for own in boxes for box in own], dtype=np.float64).reshape(-1, 4)
    is_crowd = np.isin(np.arange(len(xywh)), crowd or [])
    names = Strings(str(i) for i in range(len(boxes)))
    return Annotations(
        folder=Path(),
        ids=names,
        files=names,
        sizes=np.full((len(boxes), 2), 400, np.int32),
        rotate=np.zeros(len(boxes), bool),
        seen=np.zeros(len(boxes), np.uint8),
        first=np.cumsum([0, *map(len, boxes)]),
        xywh=xywh,
        labels=np.ones(len(xywh), np.int64),
        area=xywh[:, 2] * xywh[:, 3],
        crowd=is_crowd,
        trainable=~is_crowd,
        classes=Classes(("thing",), (1,)),
    )
