"""Hugging Face's image folders: ``metadata.jsonl`` beside the images, one json object per line.

    {"file_name": "a.jpg", "objects": {"bbox": [[x, y, w, h]], "categories": [0]}}

A file per split (``train/metadata.jsonl``, also in ``data/``), or one file whose names begin with
the split's folder. Boxes are x y w h in pixels. Categories are class names, or numbers that the
data set's card (README.md) or dataset_info.json can name; without it the numbers are the names. The
image id is the relative path; category ids are the numbers, or the alphabetical rank from 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from fasterrcnn.data import box_units, dataset_card, json_values, paths, split_names, text
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.image_files import images_in, unsafe
from fasterrcnn.data.image_index import file_name
from fasterrcnn.data.json_values import LIMIT, whole
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
    return any(_has_objects(path) for own in _files(root).values() for path in own)


def read(root: Path, split: str, problems: Problems) -> Annotations:
    """The split's images and boxes, of all classes (see `formats.read`)."""
    path, is_whole = _file(root, split)
    others = problems.fresh()
    images = images_in(path.parent, others)
    lines = chosen = _as_spelled(_lines(path, problems), images)
    if is_whole:
        folders = split_names.first_folders(line.name for line in lines)
        name = split_names.choose(root, split, folders)
        chosen = [line for line in lines if not name or line.name.startswith(f"{name}/")]
    builder = Builder(root, problems, lambda field: (path, field))
    boxes = [box for line in chosen for box in _add_image(builder, path, line)]
    for image in sorted({*images} - {line.name for line in lines}):
        what = f"image without a line in {_FILE}"
        others.note(path.parent / image, "file", image, what, "left out")
    problems.add_new(others)
    classes = _classes(root, path, boxes, problems)
    of_name, of_id = classes.label_of, classes.label_of_id
    for box in boxes:
        label = of_name[box.category] if isinstance(box.category, str) else of_id[box.category]
        builder.add_box(box.image, label, box.xywh, False, box.field)
    annotations = builder.build(classes)
    box_units.stop_if_fractions(annotations, f"{path}: objects/bbox")
    box_units.stop_if_corners(annotations, f"{path}: objects/bbox")
    return annotations


def _files(root: Path) -> dict[str, list[Path]]:
    """Split -> its metadata files; "" -> those that may hold several splits."""
    places = (root, root / "data", root / "images")
    whole = [folder / _FILE for folder in places if paths.is_file(folder / _FILE)]
    of_split: dict[str, list[Path]] = {}
    for folder in (*paths.folders_in(root / "data"), *paths.folders_in(root)):
        if folder not in places and paths.is_file(folder / _FILE):
            of_split.setdefault(folder.name, []).append(folder / _FILE)
    found = of_split if split_names.are_splits(of_split) else {}
    return {"": whole, **found} if whole else found


def _file(root: Path, split: str) -> tuple[Path, bool]:
    """The metadata file of a split, and whether it may hold others. Raises UsageError."""
    files = _files(root)
    if not files:
        raise UsageError(f"{root}: no {_FILE} found")
    if "" in files:
        fits = [path for own in files.values() for path in own]
    else:
        fits = files[split_names.choose(root, split, files)]
    if len(fits) > 1:
        shown = " and ".join(path.relative_to(root).as_posix() for path in fits)
        raise UsageError(
            f"{root}: {shown} can be about the same images; leave one file for all there, or one "
            "for each split"
        )
    return fits[0], "" in files


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


def _as_spelled(lines: list[_Line], images: list[str]) -> list[_Line]:
    """The lines with their names as those of the images are spelled, which macOS may have done."""
    spelled = {paths.composed(image): image for image in images} | {name: name for name in images}
    composed = [paths.composed(line.name) for line in lines]
    return [
        line._replace(name=spelled.get(line.name) or spelled.get(name, line.name))
        for line, name in zip(lines, composed, strict=True)
    ]


def _add_image(builder: Builder, path: Path, line: _Line) -> list[_Box]:
    """Add the image of a line; its boxes. Reports what cannot be used."""
    field, content = f"line {line.number}", line.content
    place = path.parent.relative_to(builder.folder).as_posix()
    id = line.name if place == "." else f"{place}/{line.name}"
    height, width = content.get("height"), content.get("width")
    sides = [side for side in map(whole, (height or 0, width or 0)) if side is not None]
    objects = _objects(content.get("objects"))
    if problem := unsafe(line.name):
        builder.reject_image(id, path, f"{field}/file_name", line.name, problem)
    elif len(sides) < 2 or not all(0 <= side < LIMIT for side in sides):
        what = "height and width must be positive whole numbers"
        builder.reject_image(id, path, field, f"{height} x {width}", what)
    elif isinstance(objects, str):
        builder.reject_image(id, path, f"{field}/objects", content.get("objects"), objects)
    else:
        builder.add_image(id, id, (sides[0], sides[1]) if all(sides) else None, path, field)
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
        numbers = [*map(json_values.number, box)] if isinstance(box, list) else []
        xywh = [value for value in numbers if value is not None]
        of = category.strip() if isinstance(category, str) else whole(category)
        if len(numbers) != 4 or len(xywh) != 4 or min(xywh[2:]) < 0:
            problems.fault(path, f"{field}/bbox/{k}", box, _BOX)
        elif of is not None and of != "":
            found.append(_Box(id, of, xywh, f"{field}/bbox/{k}"))
        else:
            what = "category must be a name or a whole number"
            problems.fault(path, f"{field}/categories/{k}", category, what)
    return found


def _classes(root: Path, path: Path, boxes: list[_Box], problems: Problems) -> Classes:
    """The classes, whose names or ids are the categories of the boxes. Raises DataError."""
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
        return Classes.of(names)
    table = dataset_card.class_names(root, _KEYS, problems) or {n: str(n) for n in numbers}
    if unknown := [number for number in numbers if number not in table]:
        raise DataError(
            f"{path}: categories: {unknown[0]}: the {len(table)} class names of the data set's "
            "card have no such number"
        )
    ids = sorted(table)
    return Classes(tuple(table[id] for id in ids), tuple(ids))
