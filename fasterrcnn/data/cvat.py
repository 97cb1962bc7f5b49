"""CVAT for images 1.1: one XML file with an ``<image>`` element for every image.

``annotations.xml`` with ``images/`` as CVAT exports it, ``labels.xml`` with ``data/`` as FiftyOne
does, or such a pair in a folder per split. Within a file, an image's subset is its split, or its
task where tasks are called like splits. Polygons, masks, ellipses and rotated boxes become the box
around them; what has no box (points, lines, tags) is left out; both are noted. The image id is the
path of the file; category ids are the rank of the labels in the XML, from 1.
"""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fasterrcnn.data import box_units, enclosing, paths, split_names, xml_files
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.image_index import ImageIndex, file_name
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError

_IMAGES = ("images", "data", "jpegimages")
_FEW = 20  # XML files that are looked at to recognize a folder; VOC has one for every image


class _Shape(NamedTuple):
    label: str
    group: str  # shapes of one object have the same; "": none
    xywh: list[float]  # of the box around it
    field: str
    what: str  # "" for an upright box


class _Header(NamedTuple):
    """What an XML file says, apart from boxes."""

    labels: list[str]  # as listed; none where there is no such list
    split_of: dict[tuple[str, str], str]  # (task id, subset) as on images -> split; "": one set
    names: set[str]  # of the images, without folders

    def split(self, image: ElementTree.Element) -> str:
        """The split of an ``<image>``."""
        return self.split_of[_key(image)]

    @property
    def splits(self) -> list[str]:
        """Names of the splits; none where everything is one set."""
        return sorted({*self.split_of.values()} - {""})


def recognizes(root: Path) -> bool:
    """Whether `root` looks like a data set in this format."""
    return bool(_files(root))


def read(root: Path, split: str, problems: Problems) -> Annotations:
    """The split's images and boxes, of all classes (see `formats.read`)."""
    files = _files(root)
    if not files:
        raise UsageError(f"{root}: no CVAT annotations found (annotations.xml or labels.xml)")
    name = "" if "" in files else split_names.choose(root, split, files)
    header = _header(files[name])
    chosen = split_names.choose(root, split, header.splits) if not name else ""
    reader = _Reader(root, files[name], header, problems)
    for image in xml_files.children(files[name]):
        if image.tag == "image" and (not chosen or header.split(image) == chosen):
            reader.add(image)
    return reader.build()


def _files(root: Path) -> dict[str, Path]:
    """Split -> XML file; "" -> the only one, which may hold several."""
    inner = paths.folders_in(root)
    for folder in (root, *(p for p in inner if p.name.casefold() == "annotations")):
        found = _xml_in(folder)
        if len(found) == 1 and not split_names.is_known(found[0].stem):
            return {"": found[0]}
        if found:
            return {path.stem: path for path in found}
    of_folder = {p.name: found[0] for p in inner if len(found := _xml_in(p)) == 1}
    return of_folder if split_names.are_splits(of_folder) else {}


def _xml_in(folder: Path) -> list[Path]:
    """CVAT's files in a folder, sorted; of one that is damaged the name decides."""
    few = (p for p in itertools.islice(folder.glob("*.xml"), _FEW) if p.name[0] != ".")
    tags = {path: xml_files.root_tag(path) for path in sorted(filter(paths.is_file, few))}
    return [
        path
        for path, tag in tags.items()
        if tag == "annotations" or (tag is None and path.name in xml_files.OF_ALL_IMAGES)
    ]


def _header(path: Path) -> _Header:
    """Reads the whole file once, without its boxes. Raises DataError."""
    labels: list[str] = []
    tasks: dict[str, tuple[str, str]] = {}  # id -> name, subset
    keys: set[tuple[str, str]] = set()
    names: set[str] = set()
    for child in xml_files.children(path):
        if child.tag == "meta":
            own = [one for one in child.iter("label") if not one.findtext("parent", "").strip()]
            labels = [name for one in own if (name := one.findtext("name", "").strip())]
            for task in child.iter("task"):
                id, name, subset = (task.findtext(f, "").strip() for f in ("id", "name", "subset"))
                tasks[id] = tasks[""] = (name, subset)  # images of a single task have no task_id
        elif child.tag == "image":
            keys.add(_key(child))
            names.add(paths.fold(Path(file_name(child.get("name", ""))).name))
        elif child.tag == "track":
            raise DataError(f"{path}: track: of a video; export it as 'CVAT for images 1.1'")
    if not keys:
        raise DataError(f"{path}: image: no such element; export it as 'CVAT for images 1.1'")
    subset_of = {key: key[1] or tasks.get(key[0], ("", ""))[1] or "default" for key in keys}
    task_of = {key: tasks.get(key[0], ("", ""))[0] for key in keys}
    if {*subset_of.values()} != {"default"}:
        return _Header([*dict.fromkeys(labels)], subset_of, names)
    by_task = len({*task_of.values()}) > 1 and split_names.are_splits({*task_of.values()})
    split_of = task_of if by_task else dict.fromkeys(keys, "")
    return _Header([*dict.fromkeys(labels)], split_of, names)


def _key(image: ElementTree.Element) -> tuple[str, str]:
    return image.get("task_id", ""), image.get("subset", "")


class _Reader:
    """Collects the images of one split."""

    def __init__(self, root: Path, path: Path, header: _Header, problems: Problems) -> None:
        self.root, self.path, self.header, self.problems = root, path, header, problems
        parent = path.parent
        base = parent.parent if parent.name.casefold() == "annotations" else parent
        inner = [p for p in paths.folders_in(base) if p.name.casefold() in _IMAGES]
        self.folders = inner or [base]
        self.index = ImageIndex(root, self.folders, problems)
        self.builder = Builder(root, problems, lambda where: (path, where))
        self.boxes: list[tuple[str, str, list[float], str]] = []  # image, label, x y w h, field
        self.missing: list[tuple[str, str]] = []  # field, name

    def add(self, image: ElementTree.Element) -> None:
        """Add an ``<image>`` with its boxes, or report why it cannot be used."""
        name = file_name(image.get("name", ""))
        field = f"image {image.get('id', '?')}"
        size = xml_files.size(image.get("height", ""), image.get("width", ""))
        subset = self.header.split(image)
        found = [*dict.fromkeys(self.index.at(f"{subset}/{name}") + self.index.at(name))]
        found = found or self.index.called(name)
        if not name:
            self.problems.fault(self.path, f"{field}/name", name, "must be the name of a file")
        elif not found:
            self.missing.append((field, name))
        elif len(found) > 1:
            what = f"can be {' or '.join(found)}; leave one of them there"
            self.problems.fault(self.path, f"{field}/name", name, what)
        elif isinstance(size, str):
            what = "height and width must be positive whole numbers"
            self.builder.reject_image(found[0], self.path, field, size, what)
        else:
            self.builder.add_image(found[0], found[0], size, self.path, field)
            fields = (f"{field} ({name})/{shape.tag} {k}" for k, shape in enumerate(image, 1))
            read = [self._shape(field, shape) for field, shape in zip(fields, image, strict=True)]
            self._add_boxes(found[0], [shape for shape in read if shape is not None])

    def build(self) -> Annotations:
        """The annotations of the images added. Raises DataError."""
        places = " or ".join(map(str, self.folders))
        if self.missing and not self.builder.position:
            raise DataError(
                f"{self.path}: image: none of its images ({len(self.missing)}, the first is "
                f"{self.missing[0][1]}) is in {places}; export with images, or put them there"
            )
        for field, name in self.missing:
            self.problems.fault(self.path, f"{field}/name", name, f"no such image in {places}")
        notes = Problems()
        for image in self.index.names if len(_xml_in(self.path.parent)) == 1 else []:
            if paths.fold(Path(image).name) not in self.header.names:
                what = f"image that {self.path.name} does not name"
                notes.note(self.root / image, "file", image, what, "left out")
        self.problems.add_new(notes)
        names = self.header.labels or sorted({label for _, label, *_ in self.boxes})
        if not names:
            raise DataError(f"{self.path}: label: no label in it")
        classes = Classes.of(names)
        label_of = classes.label_of
        for id, label, xywh, field in self.boxes:
            self.builder.add_box(id, label_of[label], xywh, False, field)
        annotations = self.builder.build(classes)
        box_units.stop_if_fractions(annotations, self.path)
        return annotations

    def _shape(self, field: str, shape: ElementTree.Element) -> _Shape | None:
        """A child of an ``<image>``; None, with a fault or note reported, if it is no box."""
        label, group = (shape.get(key, "").strip() for key in ("label", "group_id"))
        try:
            box = _box(shape)
        except ValueError:
            box = "must be finite numbers below 1e9"
        if box is None:
            what = f"{shape.tag}, which is not a box"
            self.problems.note(self.path, field, label, what, "left out")
            return None
        if isinstance(box, str):
            self.problems.fault(self.path, field, _written(shape), box)
            return None
        if not label or (self.header.labels and label not in self.header.labels):
            what = "no label of this name in <meta>" if label else "must have a label"
            self.problems.fault(self.path, f"{field}/label", label, what)
            return None
        turned = xml_files.coordinate(shape.get("rotation", "0")) != 0
        what = "" if shape.tag == "box" and not turned else "rotated " * turned + shape.tag
        return _Shape(label, "" if group == "0" else group, box, field, what)

    def _add_boxes(self, id: str, shapes: list[_Shape]) -> None:
        """Note which shapes are not upright boxes; the box of an object counts once."""
        double = _doubles(shapes)
        for shape in shapes:
            action = "its enclosing box is used"
            if shape.field in double:
                action = "left out, its box is there too"
            else:
                self.boxes.append((id, shape.label, shape.xywh, shape.field))
            if shape.what:
                self.problems.note(self.path, shape.field, shape.xywh, shape.what, action)


def _doubles(shapes: list[_Shape]) -> set[str]:
    """The fields of outlines of objects whose box is there too, within a pixel: Datumaro writes
    both. An outline may consist of several shapes of the box's group."""
    boxes, outlines = defaultdict(list), defaultdict(list)
    for shape in shapes:
        if shape.what:
            alone = "" if shape.group else shape.field
            outlines[shape.label, shape.group, alone].append(shape)
        else:
            boxes[shape.label, shape.group].append(_edges(shape.xywh))
    edges_of = {key: np.array(edges) for key, edges in boxes.items()}
    double = set()
    for (label, group, _), parts in outlines.items():
        edges = np.array([_edges(shape.xywh) for shape in parts])
        around = np.concatenate([edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)])
        near = np.abs(edges_of.get((label, group), np.empty((0, 4))) - around) <= 1
        if near.all(axis=1).any():
            double |= {shape.field for shape in parts}
    return double


def _edges(xywh: list[float]) -> list[float]:
    x, y, w, h = xywh
    return [x, y, x + w, y + h]


def _box(shape: ElementTree.Element) -> list[float] | str | None:
    """x y w h of the box around a shape, what is wrong with it, or None if it has none.

    Raises ValueError for what is no finite number below 1e9.
    """

    def numbers(*names: str) -> list[float]:
        return [xml_files.coordinate(shape.get(name)) for name in names]

    turned = math.radians(xml_files.coordinate(shape.get("rotation", "0")))
    if shape.tag == "box":
        x1, y1, x2, y2 = numbers("xtl", "ytl", "xbr", "ybr")
        if x2 < x1 or y2 < y1:
            return "xbr and ybr must not be less than xtl and ytl"
        w, h = x2 - x1, y2 - y1
        if turned == 0:
            return [x1, y1, w, h]
        return enclosing.of_rotated(x1 + w / 2, y1 + h / 2, w, h, turned)
    if shape.tag == "ellipse":
        x, y, rx, ry = numbers("cx", "cy", "rx", "ry")
        return enclosing.of_ellipse(x, y, rx, ry, turned)
    if shape.tag == "mask":
        x, y, w, h = numbers("left", "top", "width", "height")
        return [x, y, w, h] if min(w, h) >= 0 else "width and height must not be negative"
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
        if len(pairs) < 3 or any(len(pair) != 2 for pair in pairs):
            return "must be x,y of three points or more"
        points = [(xml_files.coordinate(x), xml_files.coordinate(y)) for x, y in pairs]
        return enclosing.of_points(points)
    return None


def _written(shape: ElementTree.Element) -> str:
    """The attributes of a shape that decide its box, for messages."""
    left_out = ("label", "source", "occluded", "z_order", "rle", "group_id")
    return ", ".join(f"{key} {value}" for key, value in shape.items() if key not in left_out)
