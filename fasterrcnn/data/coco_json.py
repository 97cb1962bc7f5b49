"""A COCO json file as columns: images, classes and boxes, checked value by value.

msgspec cuts the file into rows without building objects for what nobody asks for. A file that it
does not take, such as json with NaN, is read by Python's own json. Values that can mean one thing
only are read whatever their type: 60.0 and "60" are a width of 60.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
import numpy as np

from fasterrcnn.data import coco_boxes, text
from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.builder import Boxes
from fasterrcnn.data.json_values import (
    LIMIT,
    Wrong,
    as_object,
    as_struct,
    identifier,
    is_unicode,
    load,
    short,
    whole,
)
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError

_KEYS = ("images", "annotations", "categories")
_FREQUENCIES = ("r", "c", "f")  # rare, common, frequent, as LVIS has them
_NO_PARENT = {"", "none"}  # what stands for a supercategory where there is none
_LONGEST = 4096  # characters of a path, Linux's limit
_REJECTED = -1  # the position of an image that cannot be used


class _File(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


class _ImageRow(msgspec.Struct):
    """An entry of ``images``, not yet checked."""

    id: Any = None
    file_name: Any = None
    height: Any = None
    width: Any = None
    # LVIS has no file names, and these two lists of category ids.
    coco_url: Any = None
    neg_category_ids: Any = None
    not_exhaustive_category_ids: Any = None


@dataclass
class Image:
    """An entry of ``images`` that can be used."""

    id: int | str
    file_name: str
    size: tuple[int, int] | None  # H, W (px); None: not given
    row: int  # its position in ``images``
    neg_category_ids: list[int] | None = None  # LVIS: classes that it does not show
    not_exhaustive_category_ids: list[int] | None = None  # LVIS: classes with objects without a box


@dataclass
class Content:
    """What a file says about the images that can be used."""

    images: list[Image]
    classes: Classes
    boxes: Boxes
    row: np.ndarray  # int64 (B,): position of each box in ``annotations``
    id: np.ndarray  # int64 (B,): id of the annotation; -1: none, or not a number
    frequency: tuple[str, ...]  # of each class in LVIS: r, c, f; else ""


def parse(path: Path, problems: Problems) -> Content:
    """Read `path`. Raises DataError where there is nothing to go on with."""
    try:
        data = text.read_bytes(path)
    except FileNotFoundError:
        raise DataError(f"{path}: missing") from None
    if not data[:4].isascii() or b"\0" in data[:4]:  # a byte order mark
        data = text.decode(data, path).encode()
    attempt = problems.fresh()
    try:
        file = msgspec.json.decode(data, type=_File)
        return _content(path, attempt, file.images, file.annotations, file.categories)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        plain, attempt = _load(data, path), problems.fresh()
        return _content(path, attempt, *(plain[key] for key in _KEYS))
    finally:
        problems.found += attempt.found


def _load(data: bytes, path: Path) -> dict[str, Any]:
    """The file as plain objects, with lists `images`, `annotations`, `categories`."""
    content = load(data, path)
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: /: {type(content).__name__}: must be an object with images, annotations and "
            "categories"
        )
    for key in _KEYS:
        if not isinstance(content.get(key), list):
            raise DataError(f"{path}: /{key}: {short(content.get(key))}: must be a list")
    return content


def _content(
    path: Path,
    problems: Problems,
    images: Sequence[Any],
    annotations: Sequence[Any],
    categories: Sequence[Any],
) -> Content:
    """The content of a file whose rows are `msgspec.Raw` or plain objects."""
    usable, position = _images(path, problems, images)
    table = _categories(path, categories)
    category = {c.id: k for k, c in enumerate(table)}
    boxes, row, id = coco_boxes.read(path, problems, annotations, position, category)
    used = np.bincount(boxes.label, minlength=len(table)) > 0
    classes, labels = _classes(path, problems, table, used)
    boxes.label = labels[boxes.label]
    frequency = tuple(table[category[id]].frequency for id in classes.category_ids)
    return Content(usable, classes, boxes, row, id, frequency)


# Images.


def _images(
    path: Path, problems: Problems, rows: Sequence[Any]
) -> tuple[list[Image], dict[int | str, int]]:
    """The usable images, and where each id is among them (`_REJECTED`: an image not to be used)."""
    usable: list[Image] = []
    position: dict[int | str, int] = {}
    for k, row in enumerate(rows):
        try:
            image = _image(as_struct(row, _ImageRow), k)
        except Wrong as wrong:
            place, value, what, id = wrong.args
            problems.fault(path, f"/images/{k}{place}", value, what)
            if id is not None:
                position[id] = _REJECTED
            continue
        if image.id in position:
            what = "another image has this id too"
            problems.fault(path, f"/images/{k}/id", image.id, what)
            position[image.id] = _REJECTED
        else:
            position[image.id] = len(usable)
            usable.append(image)
    if _REJECTED in position.values():
        usable = [image for image in usable if position[image.id] != _REJECTED]
        position |= {image.id: i for i, image in enumerate(usable)}
    return usable, position


def _image(row: _ImageRow | None, k: int) -> Image:
    """The image of a row. Raises Wrong with the image's id, if it has one, as fourth argument."""
    if row is None:
        raise Wrong("", "", "must be an object", None)
    id = identifier(row.id)
    if id is None:
        raise Wrong("/id", row.id, "must be an integer or a string", None)
    name = _path_of_url(row.coco_url) if row.file_name is None else row.file_name
    if (
        not isinstance(name, str)
        or "\0" in name
        or not 0 < len(name) <= _LONGEST
        or not is_unicode(name)
    ):
        raise Wrong("/file_name", row.file_name, "must be a file name", id)
    sides = []
    for key in ("height", "width"):
        side = whole(getattr(row, key) or 0)
        if side is None or side < 0 or side >= LIMIT:
            raise Wrong(f"/{key}", getattr(row, key), "must be a positive integer", id)
        sides.append(side)
    size = (sides[0], sides[1]) if all(sides) else None
    lists = (_ids(row, key, id) for key in ("neg_category_ids", "not_exhaustive_category_ids"))
    return Image(id, name, size, k, *lists)


def _path_of_url(url: Any) -> str | None:
    """The path in a URL; None if it is none."""
    try:
        return unquote(urlsplit(url).path) if isinstance(url, str) else None
    except ValueError:  # http://[x
        return None


def _ids(row: _ImageRow, key: str, image: int | str) -> list[int] | None:
    """A list of category ids, None if there is none. Raises Wrong."""
    value = getattr(row, key)
    if value is None:
        return None
    ids = [whole(item) for item in value] if isinstance(value, list) else [None]
    known = [id for id in ids if id is not None]
    if len(known) < len(ids):
        raise Wrong(f"/{key}", value, "must be a list of category ids", image)
    return known


# Classes.


class _Category(NamedTuple):
    row: int  # its position in ``categories``
    id: int
    name: str
    parent: str  # its supercategory
    frequency: str


def _categories(path: Path, rows: Sequence[Any]) -> list[_Category]:
    """The categories in the order of their ids. Raises DataError."""
    table: dict[int, _Category] = {}
    for k, row in enumerate(map(as_object, rows)):
        place = f"{path}: /categories/{k}"
        get = row.get if isinstance(row, dict) else {}.get
        id, name, parent = whole(get("id")), get("name"), get("supercategory")
        if id is None:
            raise DataError(f"{place}/id: {short(get('id'))}: must be an integer")
        name = str(name) if whole(name) is not None else name
        if not isinstance(name, str) or not name.strip() or not is_unicode(name):
            raise DataError(f"{place}/name: {short(name)}: must be a name")
        if id in table:
            raise DataError(f"{place}/id: {id}: also the id of {table[id].name}")
        parent, frequency = parent if isinstance(parent, str) else "", str(get("frequency"))
        table[id] = _Category(k, id, name, parent, frequency if frequency in _FREQUENCIES else "")
    if not table:
        raise DataError(f"{path}: /categories: []: no category listed; list at least one")
    return [table[id] for id in sorted(table)]


def _classes(
    path: Path, problems: Problems, table: list[_Category], used: np.ndarray
) -> tuple[Classes, np.ndarray]:
    """The classes, and the label of each category (int64).

    A row without annotations that is only the group of others, as Roboflow writes one, is no class.
    """
    parents = {category.parent for category in table} - _NO_PARENT
    groups = [
        category
        for category, has_boxes in zip(table, used, strict=True)
        if not has_boxes and category.parent in _NO_PARENT and category.name in parents
    ]
    kept = sorted({*table} - {*groups}, key=lambda category: category.id)
    owner: dict[str, _Category] = {}
    for category in sorted(kept):
        other = owner.setdefault(category.name, category)
        if other is not category:
            raise DataError(
                f"{path}: /categories/{category.row}/name: {category.name}: the name of two "
                f"categories, ids {other.id} and {category.id}; rename one of them"
            )
    for group in groups:
        what = "category that only groups others"
        problems.note(path, f"/categories (id {group.id})", group.name, what, "left out")
    classes = Classes(tuple(c.name for c in kept), tuple(c.id for c in kept))
    label_of = classes.label_of_id
    return classes, np.array([label_of.get(category.id, 0) for category in table], np.int64)
