"""One annotation file of PASCAL VOC's kind: the image it names, and its objects as boxes.

Tools write more into such files than PASCAL did: polygons, rotated boxes, ``True``. What can mean
only one box is read as that box.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from fasterrcnn.data import enclosing, xml_files
from fasterrcnn.data.image_index import file_name
from fasterrcnn.data.json_values import LIMIT
from fasterrcnn.data.problems import Problems

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SHAPES = ("bndbox", "polygon", "robndbox", "rotated_bndbox")
_ROTATED = ("cx", "cy", "w", "h", "angle")
_FOUR = "must be four numbers: xmin, ymin, xmax, ymax"
_FINITE = "must be finite numbers below 1e9"
_YES = {"1", "true", "yes", "1.0"}
_NO = {"", "0", "false", "no", "0.0", "unspecified", "none", "null"}


class Object(NamedTuple):
    """An object of a file, counted from 1."""

    number: int
    name: str
    xywh: list[float]  # px; edges
    difficult: bool


class File(NamedTuple):
    """The content of an annotation file."""

    image: str  # the file name it gives, with slashes; ""
    size: tuple[int, int] | None  # H, W (px); None if it gives none
    objects: list[Object]


def read(path: Path, problems: Problems, *, first_pixel: int) -> File | None:
    """Read an annotation file; None, with a fault reported, if it cannot be used.

    `first_pixel`: 1 if corners are indices of the pixels inside, 0 if they are edges as far as
    the file does not say otherwise. Faults of single objects leave out just these.
    """
    try:
        root = xml_files.parse(path)
    except FileNotFoundError:
        problems.fault(path, "file", path.name, "missing")
        return None
    except xml_files.NotXml as error:
        problems.fault(path, error.field, path.name, error.what)
        return None
    if root.tag != "annotation":
        problems.fault(path, "root element", root.tag, "must be annotation")
        return None
    size = xml_files.size(root.findtext("size/height", ""), root.findtext("size/width", ""))
    if isinstance(size, str):
        problems.fault(path, "size", size, "height and width must be positive whole numbers")
        return None
    if _starts_at_1(root):
        first_pixel = 1
    elements = root.findall("object")
    if not elements and root.find(".//object") is not None:
        problems.fault(path, "object", path.name, "must be directly inside annotation")
        return None
    objects = [
        _object(path, k, element, problems, first_pixel)
        for k, element in enumerate(elements, start=1)
    ]
    image = file_name(root.findtext("filename", "")) or file_name(root.findtext("path", ""))
    return File(image, size, [one for one in objects if one is not None])


def _starts_at_1(root: ElementTree.Element) -> bool:
    """Whether the package supervision wrote the file, which counts pixels as PASCAL does: its
    code (dataset/formats/pascal_voc.py) adds 1 to xmin and ymin, and writes these two names."""
    database = root.findtext("source/database", "").strip()
    return root.findtext("folder", "").strip() == "VOC" and database == "roboflow.ai"


def _object(
    path: Path, number: int, element: ElementTree.Element, problems: Problems, first_pixel: int
) -> Object | None:
    """One object; None, with a fault or note reported, if it cannot be used."""
    at = f"object {number}"
    shapes = [part for part in element if part.tag in _SHAPES]
    texts = {part.tag: (part.text or "").strip() for part in reversed(element)}  # the first counts
    if texts.get("deleted") == "1":  # MIT's LabelMe
        problems.note(path, f"{at}/deleted", "1", "object that is marked as deleted", "left out")
        return None
    name = " ".join(texts.get("name", "").split())
    if not name:
        problems.fault(path, f"{at}/name", name, "must be a class name")
        return None
    difficult = texts.get("difficult", "").casefold()
    if difficult not in _YES and difficult not in _NO:
        problems.fault(path, f"{at}/difficult", texts["difficult"], "must be 0 or 1")
        return None
    shapes.sort(key=lambda shape: _SHAPES.index(shape.tag))
    shape = shapes[0] if shapes else ElementTree.Element("bndbox")
    upright = _is_upright(shape)
    xywh = _box(shape, first_pixel) if upright else _enclosing(shape)
    if len(shapes) > 1 and (shape.tag != "bndbox" or shapes[1].tag == "bndbox"):
        xywh = f"one box expected, has {', '.join(shape.tag for shape in shapes)}"
    if isinstance(xywh, str):
        problems.fault(path, f"{at}/{shape.tag}", _values(shape), xywh)
        return None
    if not upright:
        what = "box with other corners" if shape.tag == "bndbox" else shape.tag
        action = "its enclosing box is used"
        problems.note(path, f"{at}/{shape.tag}", _values(shape), what, action)
    return Object(number, name, xywh, difficult in _YES)


def _is_upright(shape: ElementTree.Element) -> bool:
    """Whether a shape is an upright box; an empty one was meant to be."""
    return shape.tag == "bndbox" and (
        len(shape) == 0 or any(corner.tag in _CORNERS for corner in shape)
    )


def _box(box: ElementTree.Element, first_pixel: int) -> list[float] | str:
    """x y w h, or what is wrong with the element."""
    written = {corner.tag: corner.text for corner in reversed(box)}
    try:
        corners = [xml_files.number(written.get(corner)) for corner in _CORNERS]
    except ValueError:
        return _FOUR
    if not all(abs(value) < LIMIT for value in corners):
        return _FINITE
    x1, y1, x2, y2 = corners
    if x2 < x1 or y2 < y1:
        return "xmax and ymax must not be less than xmin and ymin"
    x1, y1 = x1 - first_pixel, y1 - first_pixel
    return [x1, y1, x2 - x1, y2 - y1]


def _enclosing(shape: ElementTree.Element) -> list[float] | str:
    """x y w h of the box around a shape, or what is wrong with it."""
    try:
        if all(shape.find(tag) is not None for tag in _ROTATED):
            x, y, w, h, angle = (xml_files.coordinate(shape.findtext(tag)) for tag in _ROTATED)
            if min(w, h) < 0 or abs(angle) > 2 * math.pi:
                return "w and h must not be negative, angle must be in radians"
            return enclosing.of_rotated(x, y, w, h, angle)
        numbers = _coordinates(shape)
    except ValueError:
        return _FOUR if shape.tag == "bndbox" else _FINITE
    if len(numbers) < 6 or len(numbers) % 2:
        return _FOUR if shape.tag == "bndbox" else "must be x and y of three points or more"
    return enclosing.of_points(zip(numbers[::2], numbers[1::2], strict=True))


def _coordinates(shape: ElementTree.Element) -> list[float]:
    """x1 y1 x2 y2 ... of a shape given by points. Raises ValueError.

    Elements ``<pt><x/><y/></pt>``, or ``<x1/><y1/><x2/>...`` in any order of the pairs, or text.
    """
    points = shape.findall("pt") or [shape]
    xs = [e for point in points for e in point if e.tag.startswith("x")]
    ys = [e for point in points for e in point if e.tag.startswith("y")]
    if len(xs) != len(ys):
        raise ValueError("x without y")
    if xs:
        pairs = zip(xs, ys, strict=True)
        return [xml_files.coordinate(element.text) for pair in pairs for element in pair]
    return [xml_files.coordinate(part) for part in (shape.text or "").replace(",", " ").split()]


def _values(shape: ElementTree.Element) -> str:
    """The content of a shape as written, for messages."""
    if _is_upright(shape):
        return ", ".join(f"{corner} {shape.findtext(corner)}" for corner in _CORNERS)
    parts = [f"{e.tag} {e.text.strip()}" for e in shape.iter() if e.text and e.text.strip()]
    return ", ".join(parts)
