"""PASCAL VOC folders: ``Annotations/*.xml``, ``JPEGImages/`` and ``ImageSets/Main/<split>.txt``.

Boxes are read as written (xmin ymin xmax ymax in pixels). Objects marked difficult are treated like
crowd boxes: out of training, ignored in evaluation. Category ids are the alphabetical rank of the
class names, from 1.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from fasterrcnn.data.annotations import Annotations, Builder, Classes
from fasterrcnn.data.images import SUFFIXES
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def recognises(root: Path) -> bool:
    """Does `root` look like a data set in this format?"""
    return (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir()


def read(
    root: Path, split: str, wanted: Sequence[str] | Classes, problems: Problems
) -> Annotations:
    """The split's images and boxes, of all classes or those `wanted`."""
    ids = _ids(root, split)
    trees = {id: _tree(root / "Annotations" / f"{id}.xml", problems) for id in ids}
    objects = [
        (id, k, element)
        for id, tree in trees.items()
        if tree is not None
        for k, element in enumerate(tree.findall("object"), start=1)
    ]
    classes = wanted if isinstance(wanted, Classes) else _classes(root, split, objects, wanted)
    label_of = {name: i for i, name in enumerate(classes.names, start=1)}

    def describe(where: tuple[str, int]) -> tuple[Path, str]:
        id, k = where
        return root / "Annotations" / f"{id}.xml", f"object {k}/bndbox"

    builder = Builder(root, problems, describe)
    for id, tree in trees.items():
        if tree is not None:
            _add_image(builder, root, id, tree)
    for id, k, element in objects:
        file, field = describe((id, k))
        name, xywh = element.findtext("name", "").strip(), _box(element)
        if not name:
            problems.fault(file, f"object {k}/name", name, "must be a class name")
        elif isinstance(xywh, str):
            problems.fault(file, field, _values(element), xywh)
        elif name in label_of:
            difficult = element.findtext("difficult", "0").strip() == "1"
            builder.add_box(id, label_of[name], xywh, None, difficult, (id, k))
    return builder.build(classes)


def _ids(root: Path, split: str) -> list[str]:
    """The image ids of the split file, each once, in its order."""
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError:
        there = sorted(p.stem for p in path.parent.glob("*.txt"))
        raise UsageError(
            f"{path}: no such split; there is {', '.join(there) or 'none'} "
            "(--train-split, --val-split)"
        ) from None
    ids = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
    if not ids:
        raise DataError(f"{path}: lists no image")
    return ids


def _tree(path: Path, problems: Problems) -> ElementTree.Element | None:
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except FileNotFoundError:
        problems.fault(path, "file", path.name, "missing")
    except ElementTree.ParseError as error:
        line, column = error.position
        problems.fault(
            path, f"line {line} column {column + 1}", path.name, f"not XML ({error.msg})"
        )
    else:
        if root.tag == "annotation":
            return root
        problems.fault(path, "root element", root.tag, "must be annotation")
    return None


def _classes(
    root: Path,
    split: str,
    objects: list[tuple[str, int, ElementTree.Element]],
    wanted: Sequence[str],
) -> Classes:
    names = sorted({element.findtext("name", "").strip() for *_, element in objects} - {""})
    if not names:
        raise DataError(f"{root}: split {split} has no object with a class name")
    table = Classes(tuple(names), tuple(range(1, len(names) + 1)))
    return table.subset(wanted) if wanted else table


def _add_image(builder: Builder, root: Path, id: str, tree: ElementTree.Element) -> None:
    """The image called like the annotation file, else the one its <filename> names."""
    file = root / "Annotations" / f"{id}.xml"
    named = tree.findtext("filename", "").strip()
    candidates = [f"{id}{suffix}" for suffix in (*SUFFIXES, *map(str.upper, SUFFIXES))]
    there = [
        name for name in (*candidates, named) if name and (root / "JPEGImages" / name).exists()
    ]
    sides = [tree.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    if sides in (["", ""], ["0", "0"]):
        size = None
    elif all(side.isdecimal() and int(side) > 0 for side in sides):
        size = int(sides[0]), int(sides[1])
    else:
        builder.reject_image(
            id, file, "size", " x ".join(sides), "height and width must be positive"
        )
        return
    name = there[0] if there else named or f"{id}.jpg"
    builder.add_image(id, f"JPEGImages/{name}", size, file, "annotation")


def _box(element: ElementTree.Element) -> list[float] | str:
    """x y w h, or what is wrong with the element's bndbox."""
    try:
        x1, y1, x2, y2 = (float(element.findtext(f"bndbox/{corner}", "")) for corner in _CORNERS)
    except ValueError:
        return "must be four numbers: xmin, ymin, xmax, ymax"
    if not all(-1e9 < value < 1e9 for value in (x1, y1, x2, y2)):
        return "must be finite numbers below 1e9"
    if x2 < x1 or y2 < y1:
        return "xmax and ymax must not be less than xmin and ymin"
    return [x1, y1, x2 - x1, y2 - y1]


def _values(element: ElementTree.Element) -> str:
    return ", ".join(f"{corner} {element.findtext(f'bndbox/{corner}')}" for corner in _CORNERS)
