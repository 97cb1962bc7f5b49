"""Detections as COCO's result json: what its evaluation server and pycocotools' `loadRes` take.

A list with an object per detection: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height;
px of the annotated image) and ``score``, see https://cocodataset.org/#format-results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fasterrcnn.data import text
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.json_values import LIMIT, Wrong, known, load, number, short
from fasterrcnn.errors import DataError


def write(file: Path, annotations: Annotations, detections: np.ndarray) -> None:
    """Write detections, float64 ``(D, 7)`` as `metrics.coco.evaluate` takes them.

    Ids of images are those of the data set; where its format has none, their paths.
    """
    ids = image_ids(annotations)
    category_ids = annotations.classes.category_ids
    rows = [
        {
            "image_id": ids[int(image)],
            "category_id": category_ids[int(label) - 1],
            "bbox": box,
            "score": score,
        }
        for image, *box, score, label in detections.tolist()
    ]
    file.write_text(json.dumps(rows) + "\n")


def image_ids(annotations: Annotations) -> list[int | str]:
    """The ids of the images as annotation files have them: numbers, if all of them are."""
    ids = list(annotations.ids)
    if all(id.isdecimal() and str(int(id)) == id for id in ids):
        return [int(id) for id in ids]
    return [*ids]


def read(file: Path, annotations: Annotations) -> np.ndarray:
    """The detections of a result file of any framework, as `write` takes them.

    An entry with a ``file_name``, as `predict` writes it, belongs to the image of that name. Raises
    DataError for the first entry that cannot be used.
    """
    try:
        rows = load(text.read_bytes(file), file)
    except FileNotFoundError:
        raise DataError(f"{file}: missing") from None
    if not isinstance(rows, list):
        raise DataError(
            f"{file}: /: {type(rows).__name__}: must be a list of detections, each with image_id, "
            "category_id, bbox and score"
        )
    ids = {id: i for i, id in enumerate(image_ids(annotations))}
    names = {name: i for i, name in enumerate(annotations.files)}
    labels = {id: k for k, id in enumerate(annotations.classes.category_ids, start=1)}
    detections = np.empty((len(rows), 7))
    for k, row in enumerate(rows):
        try:
            detections[k] = _detection(row, ids, names, labels)
        except Wrong as wrong:
            field, value, what = wrong.args
            raise DataError(f"{file}: /{k}{field}: {short(value)}: {what}") from None
    return detections


def _detection(
    row: Any, ids: Mapping[Any, int], names: Mapping[str, int], labels: Mapping[Any, int]
) -> list[float]:
    """Image, x, y, w, h, score and label. Raises Wrong."""
    if not isinstance(row, dict):
        raise Wrong("", row, "must be an object")
    name = row.get("file_name")
    image = names.get(name) if isinstance(name, str) else _position(row.get("image_id"), ids)
    if image is None:
        field = "image_id" if name is None else "file_name"
        raise Wrong(f"/{field}", row.get(field), "not an image of this split")
    label = _position(row.get("category_id"), labels)
    if label is None:
        raise Wrong("/category_id", row.get("category_id"), "not a category of this data set")
    bbox = row.get("bbox")
    sides = [number(side) for side in bbox] if isinstance(bbox, list) else []
    box = [side for side in sides if side is not None]
    if (len(sides), len(box)) != (4, 4) or min(box[2:]) < 0:
        raise Wrong("/bbox", bbox, f"must be x, y, width, height: numbers below {LIMIT:g}")
    score = number(row.get("score"))
    if score is None:
        raise Wrong("/score", row.get("score"), "must be a number")
    return [image, *box, score, label]


def _position(id: Any, table: Mapping[Any, int]) -> int | None:
    found = known(id, table)
    return None if found is None else table[found]
