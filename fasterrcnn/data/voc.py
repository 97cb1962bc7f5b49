"""PASCAL VOC: ``Annotations/*.xml``, ``JPEGImages/`` and ``ImageSets/Main/<set>.txt``.

They are in one folder, or in the folders ``VOC2007/``, ``VOC2012/`` ... of a devkit. A split of a
devkit is one or several sets of a year: ``2007_trainval+2012_trainval``. Objects marked difficult
are treated like crowd boxes: not trained on, ignored in evaluation. Category ids are the
alphabetical rank of the class names, from 1.

PASCAL's own files hold pixel indices that start at 1, and xmax and ymax are the last pixels inside
a box: its edges are xmin - 1, ymin - 1, xmax, ymax. Other tools that write this layout do not agree
on that; the numbers in their files are taken as edges.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np

from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.image_files import SUFFIXES
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError

SHORT_NAMES = {
    "07": "2007_trainval",
    "12": "2012_trainval",
    "07++12": "2007_trainval+2007_test+2012_trainval",
}
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def recognizes(root: Path) -> bool:
    """Whether `root` looks like a data set in this format."""
    return (_is_one_folder(root) and (root / "Annotations").is_dir()) or is_devkit(root)


def is_devkit(root: Path) -> bool:
    """Whether `root` holds folders per year, ``VOC2007/`` for example."""
    return not _is_one_folder(root) and any(root.glob("VOC[0-9][0-9][0-9][0-9]/JPEGImages"))


def sets(root: Path, split: str) -> list[tuple[str, str]]:
    """The sets of `split`: (folder in `root`, "" or "VOC2007/"; name).

    Raises UsageError for a name that is not YEAR_SET, and for a year without a folder.
    """
    if _is_one_folder(root):
        return [("", split)]
    names = [SHORT_NAMES.get(name, name) for name in SHORT_NAMES.get(split, split).split("+")]
    return [_year_and_set(root, name) for name in names]


def has_boxes(root: Path, split: str) -> bool:
    """Whether any annotation file of the split has an object; those of VOC 2012 test do not."""
    files = (_xml(root, folder, id) for id, folder in _images(root, split).items())
    return any(file.is_file() and b"<object" in file.read_bytes() for file in files)


def read(root: Path, split: str, problems: Problems, *, declared: bool) -> Annotations:
    """The split's images and boxes, of all classes (see `formats.read`).

    `declared`: the files are PASCAL's own, not another tool's. Raises UsageError if such files have
    no boxes.
    """
    if declared and not has_boxes(root, split):
        raise UsageError(
            f"{root}: {split}: no image has a box; detections can be written for PASCAL's server "
            "by fasterrcnn evaluate --voc-submission"
        )
    images = _images(root, split)
    trees = {id: _tree(_xml(root, folder, id), problems) for id, folder in images.items()}
    objects = [
        (id, k, element)
        for id, tree in trees.items()
        if tree is not None
        for k, element in enumerate(tree.findall("object"), start=1)
    ]
    classes = _classes(root, split, objects)
    label_of = {name: i for i, name in enumerate(classes.names, start=1)}
    builder = _builder(root, images, problems)
    for id, tree in trees.items():
        if tree is not None:
            _add_image(builder, images[id], id, tree)
    for id, k, element in objects:
        file, field = builder.describe((id, k))
        name = element.findtext("name", "").strip()
        xywh = _box(element, first_pixel=1 if declared else 0)
        if not name:
            problems.fault(file, f"object {k}/name", name, "must be a class name")
        elif isinstance(xywh, str):
            problems.fault(file, field, _values(element), xywh)
        else:
            difficult = element.findtext("difficult", "0").strip() == "1"
            builder.add_box(id, label_of[name], xywh, None, difficult, (id, k))
    return replace(builder.build(classes), voc=declared)


def read_images(root: Path, split: str, classes: Classes, problems: Problems) -> Annotations:
    """The images of a split of PASCAL's own data, without boxes; opens no annotation file."""
    images = _images(root, split)
    builder = _builder(root, images, problems)
    for id, folder in images.items():
        _add_image(builder, folder, id, ElementTree.Element("annotation"))
    return replace(builder.build(classes), voc=True)


def write_results(
    folder: Path, name: str, annotations: Annotations, detections: np.ndarray
) -> list[Path]:
    """Write the devkit's result files of set `name`, ``comp4_det_<set>_<class>.txt``; their paths.

    comp4: detection, trained on other data too. A line is image id, score, xmin, ymin, xmax, ymax
    (pixel indices, see above). `detections`: rows as in `metrics.coco.evaluate`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for label, class_name in enumerate(annotations.classes.names, start=1):
        rows = detections[detections[:, 6] == label]
        files.append(folder / f"comp4_det_{name}_{class_name}.txt")
        files[-1].write_text(
            "".join(
                f"{annotations.ids[int(image)]} {score:.6f} "
                f"{x + 1:.1f} {y + 1:.1f} {x + w:.1f} {y + h:.1f}\n"
                for image, x, y, w, h, score, _ in rows.tolist()
            )
        )
    return files


def _is_one_folder(root: Path) -> bool:
    return (root / "JPEGImages").is_dir()


def _year_and_set(root: Path, name: str) -> tuple[str, str]:
    """``2007_trainval`` -> ``("VOC2007/", "trainval")``."""
    year, _, rest = name.partition("_")
    if not (len(year) == 4 and year.isdecimal() and rest):
        raise UsageError(f"{root}: {name}: no such split; {_available(root)}")
    if not (root / f"VOC{year}").is_dir():
        raise UsageError(
            f"{root / f'VOC{year}'}: no such folder; bash datasets/get_voc.sh gets VOC2007 and "
            "VOC2012"
        )
    return f"VOC{year}/", rest


def _available(root: Path) -> str:
    """The splits in `root` and their flags, for messages; lists of a single class are left out."""
    lists = {*root.glob("ImageSets/Main/*.txt"), *root.glob("VOC????/ImageSets/Main/*.txt")}
    whole = [p for p in lists if p.with_stem(p.stem.rpartition("_")[2]) not in lists - {p}]
    years = [p.relative_to(root).parts[0].removeprefix("VOC") for p in whole]
    names = [
        p.stem if year == "ImageSets" else f"{year}_{p.stem}"
        for p, year in zip(whole, years, strict=True)
    ]
    return f"found: {', '.join(sorted(names)) or 'none'} (--train-split, --val-split)"


def _images(root: Path, split: str) -> dict[str, str]:
    """Image id -> its folder in `root` ("" or "VOC2007/"), in the order of the image lists."""
    found: dict[str, str] = {}
    for folder, name in sets(root, split):
        ids = _ids(root, folder, name)
        if twice := found.keys() & ids:
            raise UsageError(
                f"{root}: {split}: image {min(twice)} is in two of the sets; join sets without "
                "common images"
            )
        found |= dict.fromkeys(ids, folder)
    return found


def _ids(root: Path, folder: str, name: str) -> list[str]:
    """The image ids in the list of a set, in order, without duplicates."""
    path = root / f"{folder}ImageSets/Main/{name}.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError:
        raise UsageError(f"{path}: no such split; {_available(root)}") from None
    ids = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
    if not ids:
        raise DataError(f"{path}: lists no image; give another split")
    return ids


def _builder(root: Path, images: dict[str, str], problems: Problems) -> Builder:
    """A builder whose boxes are found by (image id, number of the object in its file)."""

    def describe(where: tuple[str, int]) -> tuple[Path, str]:
        id, k = where
        return _xml(root, images[id], id), f"object {k}/bndbox"

    return Builder(root, problems, describe)


def _xml(root: Path, folder: str, id: str) -> Path:
    return root / f"{folder}Annotations/{id}.xml"


def _tree(path: Path, problems: Problems) -> ElementTree.Element | None:
    """The root of an annotation file; None, with a fault reported, if it cannot be used."""
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
    root: Path, split: str, objects: list[tuple[str, int, ElementTree.Element]]
) -> Classes:
    """The classes of all objects of the split."""
    names = sorted({element.findtext("name", "").strip() for *_, element in objects} - {""})
    if not names:
        raise DataError(f"{root}: split {split} has no object with a class name")
    return Classes(tuple(names), tuple(range(1, len(names) + 1)))


def _add_image(builder: Builder, folder: str, id: str, tree: ElementTree.Element) -> None:
    """Add the image that is named like the annotation file, else the one its <filename> names."""
    file, images = _xml(builder.folder, folder, id), f"{folder}JPEGImages"
    named = tree.findtext("filename", "").strip()
    names = [f"{id}{suffix}" for suffix in (*SUFFIXES, *map(str.upper, SUFFIXES))]
    names += [named] if named else []
    there = (name for name in names if (builder.folder / images / name).exists())
    sides = [tree.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    if sides in (["", ""], ["0", "0"]):
        size = None
    elif all(side.isdecimal() and int(side) > 0 for side in sides):
        size = (int(sides[0]), int(sides[1]))
    else:
        builder.reject_image(
            id, file, "size", " x ".join(sides), "height and width must be positive"
        )
        return
    name = next(there, named or f"{id}.jpg")
    builder.add_image(id, f"{images}/{name}", size, file, "annotation")


def _box(element: ElementTree.Element, first_pixel: int) -> list[float] | str:
    """x y w h, or what is wrong with the element's bndbox.

    `first_pixel`: 1 if corners are indices of the pixels inside, 0 if they are edges.
    """
    try:
        x1, y1, x2, y2 = (float(element.findtext(f"bndbox/{corner}", "")) for corner in _CORNERS)
    except ValueError:
        return "must be four numbers: xmin, ymin, xmax, ymax"
    if not all(-1e9 < value < 1e9 for value in (x1, y1, x2, y2)):
        return "must be finite numbers below 1e9"
    if x2 < x1 or y2 < y1:
        return "xmax and ymax must not be less than xmin and ymin"
    x1, y1 = x1 - first_pixel, y1 - first_pixel
    return [x1, y1, x2 - x1, y2 - y1]


def _values(element: ElementTree.Element) -> str:
    """The corners of an object as written, for messages."""
    return ", ".join(f"{corner} {element.findtext(f'bndbox/{corner}')}" for corner in _CORNERS)
