"""COCO json: ``annotations/instances_<split>*.json`` with ``<split>*/``, or one folder per split.

Only boxes are read: segmentations are parsed by json and dropped, masks are never decoded. Ids may
start at 0, have gaps or be huge; labels are the rank of the category id, from 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.image_files import unsafe
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError

_ALIASES = {"val": ("valid", "validation"), "train": ("training",)}


def recognizes(root: Path) -> bool:
    """Whether `root` looks like a data set in this format."""
    return any((root / "annotations").glob("*.json")) or any(root.glob("*/_annotations.coco.json"))


def read(root: Path, split: str, problems: Problems) -> Annotations:
    """The split's images and boxes, of all classes (see `formats.read`)."""
    json_file, folder = find(root, split)
    content = load(json_file)
    classes = _classes(json_file, content["categories"])
    label_of = {id: label for label, id in enumerate(classes.category_ids, start=1)}

    annotations = content["annotations"]

    def describe(k: int) -> tuple[Path, str]:
        ids = {key: annotations[k].get(key) for key in ("id", "image_id")}
        return json_file, f"/annotations/{k}/bbox (annotation {ids['id']}, image {ids['image_id']})"

    builder = Builder(folder, problems, describe)
    for k, image in enumerate(content["images"]):
        _add_image(builder, json_file, f"/images/{k}", image)
    seen: set[int | str] = set()
    for k, annotation in enumerate(annotations):
        fault = _fault(annotation, k, builder, label_of, seen)
        if fault:
            problems.fault(json_file, *fault)
            continue
        builder.add_box(
            annotation["image_id"],
            label_of[annotation["category_id"]],
            annotation["bbox"],
            annotation.get("area"),
            bool(annotation.get("iscrowd", 0)),
            k,
        )
    return builder.build(classes)


def find(root: Path, split: str) -> tuple[Path, Path]:
    """The json file and image folder of `split`. Raises UsageError, naming what is missing."""
    names = (split, *_ALIASES.get(split, ()))
    for name in names:
        if (root / name / "_annotations.coco.json").is_file():
            return root / name / "_annotations.coco.json", root / name
    found = {
        path.stem.removeprefix("instances_"): path
        for path in sorted((root / "annotations").glob("*.json"))
    }
    exact = [name for name in names if name in found]
    dated = [name for name in found if name.rstrip("0123456789") in names]
    if not (exact or dated):
        raise UsageError(
            f"{root}: no annotations of split {split}: annotations/instances_{split}2017.json, "
            f"annotations/{split}.json or {split}/_annotations.coco.json expected; "
            f"found: {', '.join(found) or 'none'} (--train-split, --val-split)"
        )
    if not exact and len(dated) > 1:
        raise UsageError(f"{root}: split {split} can be {' or '.join(dated)}; say which one")
    name = (exact or dated)[0]
    folders = [root / name, root / "images" / name, root / split, root / "images" / split]
    for folder in folders:
        if folder.is_dir():
            return found[name], folder
    if (root / "images").is_dir():
        return found[name], root / "images"
    raise UsageError(f"{folders[0]}: no such folder; put the images of {found[name].name} there")


def load(path: Path) -> dict[str, Any]:
    """The file as a dict with lists `images`, `annotations`, `categories`. Raises DataError."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start}: not UTF-8; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise DataError(f"{path}: {place}: not json: {error.msg}; repair the file") from None
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{path}: not json: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply for an annotation file") from None
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: /: {type(content).__name__}: must be an object with images, annotations and "
            "categories"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(f"{path}: /{key}: {_short(content.get(key))}: must be a list")
    return content


def _classes(path: Path, categories: list[Any]) -> Classes:
    """The classes, sorted by category id. Raises DataError."""
    table: dict[int, str] = {}
    for k, category in enumerate(categories):
        id, name = (
            (category.get("id"), category.get("name"))
            if isinstance(category, dict)
            else (None, None)
        )
        if not _is_int(id):
            raise DataError(f"{path}: /categories/{k}/id: {_short(id)}: must be an integer")
        if not isinstance(name, str) or not name:
            raise DataError(f"{path}: /categories/{k}/name: {_short(name)}: must be a name")
        if id in table:
            raise DataError(f"{path}: /categories/{k}/id: {id}: also the id of {table[id]}")
        if name in table.values():
            raise DataError(f"{path}: /categories/{k}/name: {name}: the name of two categories")
        table[id] = name
    if not table:
        raise DataError(f"{path}: /categories: []: no category listed; list at least one")
    return Classes(tuple(table[id] for id in sorted(table)), tuple(sorted(table)))


def _add_image(builder: Builder, path: Path, field: str, image: Any) -> None:
    """Add an entry of ``images`` to `builder`, or report what is wrong with it."""
    if not isinstance(image, dict):
        builder.problems.fault(path, field, image, "must be an object")
        return
    id, name = image.get("id"), image.get("file_name")
    size: Any = (image.get("height"), image.get("width"))
    if not (_is_int(id) or isinstance(id, str)):
        builder.problems.fault(path, f"{field}/id", id, "must be an integer or a string")
    elif not isinstance(name, str):
        builder.reject_image(id, path, f"{field}/file_name", name, "must be a string")
    elif problem := unsafe(name):
        builder.reject_image(id, path, f"{field}/file_name", name, problem)
    elif size == (None, None):
        builder.add_image(id, name, None, path, field)
    elif not all(_is_int(side) and side > 0 for side in size):
        key = "width" if _is_int(size[0]) and size[0] > 0 else "height"
        what = "must be a positive integer"
        builder.reject_image(id, path, f"{field}/{key}", image.get(key), what)
    else:
        builder.add_image(id, name, size, path, field)


def _fault(
    annotation: Any, k: int, builder: Builder, label_of: dict[int, int], seen: set[int | str]
) -> tuple[str, Any, str] | None:
    """(field, value, what is wrong) of an annotation that cannot be used; None if it can be.

    Adds the annotation's id to `seen`.
    """
    at = f"/annotations/{k}"
    if not isinstance(annotation, dict):
        return at, annotation, "must be an object"
    id, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
    which = f" (annotation {_short(id)}, image {_short(image)})"
    if id is not None:  # files without annotation ids exist; nothing here needs them
        if not (_is_int(id) or isinstance(id, str)):
            return f"{at}/id", id, "must be an integer"
        if id in seen:
            return f"{at}/id{which}", id, "another annotation has this id too"
        seen.add(id)
    if not (_is_int(image) or isinstance(image, str)) or not builder.has_image(image):
        return f"{at}/image_id{which}", image, "no usable image has this id"
    if not _is_int(category) or category not in label_of:
        return f"{at}/category_id{which}", category, "no category has this id"
    box, area = annotation.get("bbox"), annotation.get("area")
    if not isinstance(box, list) or len(box) != 4:
        return f"{at}/bbox{which}", box, "must be four numbers: x, y, width, height"
    for i, value in enumerate(box):
        if not _is_number(value):
            return f"{at}/bbox/{i}{which}", value, "must be a finite number below 1e9"
        if i >= 2 and value < 0:
            return f"{at}/bbox/{i}{which}", value, "width and height must not be negative"
    if area is not None and not (_is_number(area) and area >= 0):
        return f"{at}/area{which}", area, "must be a finite number, not negative, below 1e9"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"{at}/iscrowd{which}", annotation["iscrowd"], "must be 0 or 1"
    return None


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Whether `value` is a finite number below 1e9, so that areas stay finite too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e9 < value < 1e9


def _short(value: Any) -> str:
    """`value` as json of at most 60 characters, for messages."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
