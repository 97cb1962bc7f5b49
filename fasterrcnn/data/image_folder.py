"""Hugging Face's image folders: ``metadata.jsonl`` beside the images, one json object per line.

    {"file_name": "a.jpg", "objects": {"bbox": [[x, y, w, h]], "categories": [0]}}

A file per split (``train/metadata.jsonl``, also in ``data/``), or one file whose names begin with
the split's folder. Boxes are x y w h in pixels. Categories are class names, or numbers that the
data set's card (README.md) or dataset_info.json can name; without it the numbers are the names. The
image id is the relative path; category ids are the numbers, or the alphabetical rank from 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from fasterrcnn.data import box_units, dataset_card, split_names, text
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.image_files import images_in, unsafe
from fasterrcnn.data.image_index import file_name
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError

_FILE = "metadata.jsonl"
_KEYS = ("categories", "category", "category_id", "labels", "label")
_BOX = "must be four finite numbers below 1e9, x y width height, the last two not negative"


class _Line(NamedTuple):
    number: int
    name: str  # of the file, with slashes
    content: dict[str, Any]


class _Box(NamedTuple):
    image: str
    category: int | str
    xywh: list[float]
    field: str


def recognizes(root: Path) -> bool:
    """Whether `root` looks like a data set in this format."""
    return any(_has_objects(path) for path in _files(root).values())


def splits(root: Path) -> list[str]:
    """Names of the splits; none where everything is one set. Raises DataError."""
    files = _files(root)
    return _first_folders(_lines(files[""], Problems())) if "" in files else sorted(files)


def read(root: Path, split: str, problems: Problems) -> Annotations:
    """The split's images and boxes, of all classes (see `formats.read`)."""
    files = _files(root)
    if not files:
        raise UsageError(f"{root}: no {_FILE} found")
    path = files["" if "" in files else split_names.choose(root, split, files)]
    lines = chosen = _lines(path, problems)
    if "" in files and (name := split_names.choose(root, split, _first_folders(lines))):
        chosen = [line for line in lines if line.name.startswith(f"{name}/")]
    builder = Builder(root, problems, lambda field: (path, field))
    boxes = [box for line in chosen for box in _add_image(builder, path, line)]
    _note_other_images(root, path, lines, problems)
    classes, label_of = _classes(root, path, boxes, problems)
    for box in boxes:
        builder.add_box(box.image, label_of[box.category], box.xywh, None, False, box.field)
    annotations = builder.build(classes)
    box_units.stop_if_fractions(annotations, f"{path}: objects/bbox")
    box_units.stop_if_corners(annotations, f"{path}: objects/bbox")
    return annotations


def _files(root: Path) -> dict[str, Path]:
    """Split -> metadata file; "" -> the only one, which may hold several."""
    for folder in (root, root / "data", root / "images"):
        if (folder / _FILE).is_file():
            return {"": folder / _FILE}
    found = {p.parent.name: p for data in ("data/", "") for p in root.glob(f"{data}*/{_FILE}")}
    found = {name: path for name, path in found.items() if name[0] != "." and path.is_file()}
    return found if split_names.are_splits(found) else {}


def _has_objects(path: Path) -> bool:
    """Whether the first lines mention objects: other image folders have captions or classes."""
    try:
        with path.open("rb") as file:
            return b'"objects"' in file.read(2**20).replace(b"\0", b"")
    except OSError:
        return False


def _lines(path: Path, problems: Problems) -> list[_Line]:
    """The usable lines of a metadata file; the others become faults."""
    found = []
    for number, line in text.lines(path):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.fault(path, f"line {number}", line, f"not json ({error})")
            continue
        name = content.get("file_name") if isinstance(content, dict) else None
        if isinstance(name, str) and name:
            found.append(_Line(number, file_name(name), content))
        else:
            what = "must be a json object with a file_name"
            problems.fault(path, f"line {number}", line, what)
    return found


def _first_folders(lines: Iterable[_Line]) -> list[str]:
    """The folders that file names begin with, if they are called like splits."""
    names = {line.name.partition("/")[0] if "/" in line.name else "" for line in lines}
    return sorted(names - {""}) if split_names.are_splits(names) else []


def _add_image(builder: Builder, path: Path, line: _Line) -> list[_Box]:
    """Add the image of a line; its boxes. Reports what cannot be used."""
    field, content = f"line {line.number}", line.content
    place = path.parent.relative_to(builder.folder).as_posix()
    id = line.name if place == "." else f"{place}/{line.name}"
    height, width = content.get("height"), content.get("width")
    size = None if not (height and width) else (height, width)
    objects = _objects(content.get("objects"))
    if problem := unsafe(line.name):
        builder.reject_image(id, path, f"{field}/file_name", line.name, problem)
    elif size is not None and not all(_is_whole(side) and side > 0 for side in size):
        what = "height and width must be positive whole numbers"
        builder.reject_image(id, path, field, f"{height} x {width}", what)
    elif isinstance(objects, str):
        builder.reject_image(id, path, f"{field}/objects", content.get("objects"), objects)
    else:
        builder.add_image(id, id, size and (int(size[0]), int(size[1])), path, field)
        if content.get("objects") is None:
            what = "line without objects"
            builder.problems.note(path, field, line.name, what, "an image without boxes")
        return _boxes(builder.problems, path, id, f"{field}/objects", objects)
    return []


def _objects(objects: Any) -> list[tuple[Any, Any]] | str:
    """Each object's (bbox, category), or what is wrong with all of them."""
    if objects is None:
        return []
    if isinstance(objects, list):  # one dict per object, in place of one list per property
        keys = {key for one in objects if isinstance(one, dict) for key in one}
        if not all(isinstance(one, dict) and one.keys() == keys for one in objects):
            return "must be objects of the same properties"
        objects = {key: [one[key] for one in objects] for key in keys or ("bbox", _KEYS[0])}
    if not isinstance(objects, dict):
        return "must be an object with bbox and categories"
    given = [key for key in _KEYS if key in objects]
    if "bbox" not in objects or len(given) != 1:
        return f"must have bbox and one of {', '.join(_KEYS)}"
    boxes, categories = objects["bbox"], objects[given[0]]
    if not (isinstance(boxes, list) and isinstance(categories, list)):
        return f"bbox and {given[0]} must be lists"
    if len(boxes) != len(categories):
        return f"{len(boxes)} bbox, but {len(categories)} {given[0]}"
    return list(zip(boxes, categories, strict=True))


def _boxes(
    problems: Problems, path: Path, id: str, field: str, objects: list[tuple[Any, Any]]
) -> list[_Box]:
    """The usable objects of an image; the others become faults."""
    found = []
    for k, (box, category) in enumerate(objects):
        numbers = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
        if not numbers or min(box[2:]) < 0:
            problems.fault(path, f"{field}/bbox/{k}", box, _BOX)
        elif _is_whole(category):
            found.append(_Box(id, int(category), box, f"{field}/bbox/{k}"))
        elif isinstance(category, str) and category.strip():
            found.append(_Box(id, category.strip(), box, f"{field}/bbox/{k}"))
        else:
            what = "category must be a name or a whole number"
            problems.fault(path, f"{field}/categories/{k}", category, what)
    return found


def _classes(
    root: Path, path: Path, boxes: list[_Box], problems: Problems
) -> tuple[Classes, dict[int | str, int]]:
    """The classes, and the label of each category. Raises DataError."""
    names = sorted({box.category for box in boxes if isinstance(box.category, str)})
    numbers = sorted({box.category for box in boxes if isinstance(box.category, int)})
    if names and numbers:
        raise DataError(
            f"{path}: categories: {names[0]}, {numbers[0]}: some are names and some are numbers"
        )
    if not boxes:
        first = f"; the first finding: {problems.found[0]}" if problems.found else ""
        raise DataError(f"{path}: no usable box in this split{first}")
    if names:
        classes = Classes(tuple(names), tuple(range(1, len(names) + 1)))
        return classes, {name: label for label, name in enumerate(names, start=1)}
    table = dataset_card.class_names(root, _KEYS, problems) or {n: str(n) for n in numbers}
    if unknown := [number for number in numbers if number not in table]:
        raise DataError(
            f"{path}: categories: {unknown[0]}: the {len(table)} class names of the data set's "
            "card have no such number"
        )
    ids = sorted(table)
    label_of: dict[int | str, int] = {id: label for label, id in enumerate(ids, start=1)}
    return Classes(tuple(table[id] for id in ids), tuple(ids)), label_of


def _note_other_images(root: Path, path: Path, lines: list[_Line], problems: Problems) -> None:
    """Note the images that no line is about."""
    notes = Problems()
    named = {line.name for line in lines}
    for image in images_in(path.parent, notes):
        if image not in named:
            what = f"image without a line in {_FILE}"
            notes.note(path.parent / image, "file", image, what, "left out")
    problems.add_new(notes)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e9 < value < 1e9


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value % 1 == 0
