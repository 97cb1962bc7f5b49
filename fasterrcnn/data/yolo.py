"""YOLO txt folders: one text file per image, with a line ``class x y width height`` per box.

Coordinates are fractions of the displayed image (x, y: the box's center), whose size is read from
its header. `yolo_images` finds the images of a split, `yolo_labels` their label files;
`yolo_config` knows the classes, `yolo_rows` reads a line. The image id is the path relative to the
root; category ids are those of the files, from 0.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np

from fasterrcnn.data import text, yolo_config, yolo_images
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.builder import Boxes, Builder
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.split_names import split_in
from fasterrcnn.data.yolo_labels import Labels, is_beside_image
from fasterrcnn.data.yolo_paths import Finder, short
from fasterrcnn.data.yolo_rows import Row, Rows, look_like_corners
from fasterrcnn.errors import DataError


def recognizes(root: Path) -> bool:
    """Whether `root` looks like a data set in this format."""
    try:
        if yolo_config.find(root) is not None:
            return True
    except DataError:  # several of them
        return True
    finder = Finder(root)
    inside = [finder.root / name for name in finder.names(finder.root)]
    pairs = [finder.root, *(path for path in inside if split_in(path.name))]
    return any(
        finder.alike(folder, "images")
        and any(not _holds_xml(finder, labels) for labels in finder.alike(folder, "labels"))
        for folder in pairs
    ) or any(is_beside_image(finder, folder) for folder in (finder.root, *inside))


def _holds_xml(finder: Finder, folder: Path) -> bool:
    """Whether these are labels of another format, as FiftyOne writes PASCAL VOC's."""
    return any(name.endswith(".xml") for name in finder.names(folder))


def read(root: Path, split: str, problems: Problems) -> Annotations:
    """The split's images and boxes, of all classes (see `formats.read`)."""
    config, finder = yolo_config.load(root), Finder(root)
    images = yolo_images.images(finder, config, split, problems)
    names = [image.name for image in images]
    labels = Labels(finder, names)
    if names and not any(map(labels.exists, names)):
        raise DataError(
            f"{root}: split {split}: no image has a label file; for {names[0]} "
            f"{labels.path(names[0])} was looked for"
        )
    classes = yolo_config.classes(root, config, finder, labels.folders())
    columns = _Columns()

    def describe(k: int) -> tuple[Path, str]:
        return labels.path(names[columns.image[k]]), f"line {columns.line[k]}"

    builder = Builder(root, problems, describe)
    for image in images:
        builder.add_image(_id(root, image.name), image.name, None, image.file, image.field)
    label_of = classes.label_of_id
    rows = Rows(classes.category_ids, config.keypoints)
    for position, image in enumerate(images):
        for number, row in _rows(builder, labels, image, rows):
            columns.add(position, label_of[row.category], row, number)
    for path in labels.without_image():
        problems.note(path, "file", path.name, "label file without an image", "left out")
    columns.check(f"{root}: split {split}")
    if rows.look_like_keypoints():
        raise DataError(
            f"{root}: split {split}: the polygons have one number of points and read as boxes with "
            "keypoints too; if they are keypoints, write kpt_shape: [number, 2] into data.yaml"
        )
    builder.add_boxes(columns.boxes(builder), range(len(columns.line)))
    return replace(builder.build(classes), channels=config.channels)


def _id(root: Path, name: str) -> str:
    return os.path.relpath(name, root) if name.startswith("/") else name


def _rows(
    builder: Builder, labels: Labels, image: yolo_images.Image, rows: Rows
) -> list[tuple[int, Row]]:
    """The numbered rows of an image's label file; what is wrong with others becomes faults."""
    problems, id, path = builder.problems, _id(builder.folder, image.name), labels.path(image.name)
    if not labels.exists(image.name):
        problems.note(image.file, "labels", image.name, "image without a label file", "no boxes")
        return []
    if labels.is_shared(image.name):
        what = f"another image has the label file {path.name} too"
        builder.reject_image(id, image.file, image.field, image.name, what)
        return []
    try:
        lines = text.lines(path)
    except FileNotFoundError:
        builder.reject_image(id, path, "file", path.name, "a link to nothing")
        return []
    except DataError as error:
        what = str(error).removeprefix(f"{path}: ")
        builder.reject_image(id, path, "text", path.name, what)
        return []
    numbered = []
    for number, line in lines:
        row = rows.parse(line)
        if isinstance(row, str):
            problems.fault(path, f"line {number}", _shown(line), row)
            continue
        if row.note is not None:
            problems.note(path, f"line {number}", _shown(line), *row.note)
        numbered.append((number, row))
    return numbered


def _shown(line: str) -> str:
    return short(" ".join(line[:100].split()))


class _Columns:
    """The boxes of a split as they are read."""

    def __init__(self) -> None:
        self.image = array("q")  # position of the image
        self._label = array("q")
        self._box = array("d")  # center x, center y, width, height (fractions)
        self.line = array("q")
        self._plain = array("b")  # the row is a box, not an outline

    def add(self, position: int, label: int, row: Row, number: int) -> None:
        """Add the box of line `number`."""
        self.image.append(position)
        self._label.append(label)
        self._box.extend(row.box)
        self.line.append(number)
        self._plain.append(row.note is None)

    def check(self, where: str) -> None:
        """Raise DataError if the boxes are not what they are read as."""
        plain = np.array(self._plain, bool)
        boxes = np.array(self._box, np.float64).reshape(-1, 4)[plain]
        if leave := look_like_corners(boxes):
            raise DataError(
                f"{where}: {leave} of {len(boxes)} boxes leave their image when read as center x, "
                "center y, width, height, but they fit as corners x1, y1, x2, y2; convert them"
            )

    def boxes(self, builder: Builder) -> Boxes:
        """All boxes, in pixels."""
        sizes = np.zeros((len(builder.position), 2))
        for id, (height, width, *_) in builder.usable.items():
            sizes[builder.position[id]] = height, width
        image = np.array(self.image, np.int64)
        x, y, w, h = np.array(self._box, np.float64).reshape(-1, 4).T
        height, width = sizes[image].T
        columns = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        return Boxes(
            image=image,
            label=np.array(self._label, np.int64),
            xywh=np.stack(columns, axis=1),
            area=np.full(len(image), np.nan),
            crowd=np.zeros(len(image), bool),
        )
