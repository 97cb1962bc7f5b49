"""PASCAL VOC: ``Annotations/*.xml``, ``JPEGImages/`` and ``ImageSets/Main/<set>.txt``.

They are in one folder, or in the folders ``VOC2007/``, ``VOC2012/`` ... of a devkit. A split of a
devkit is one or several sets of a year: ``2007_trainval+2012_trainval``. `voc_files` knows the
layouts of other tools. Objects marked difficult are treated like crowd boxes: not trained on,
ignored in evaluation. Category ids are the alphabetical rank of the class names, from 1.

PASCAL's own files hold pixel indices that start at 1, and xmax and ymax are the last pixels inside
a box: its edges are xmin - 1, ymin - 1, xmax, ymax. Other tools that write this layout do not agree
on that; the numbers in their files are taken as edges.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from fasterrcnn.data import box_units, text, voc_files, voc_xml
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.voc_files import is_devkit, recognizes, sets
from fasterrcnn.errors import DataError, UsageError

__all__ = ["has_boxes", "is_devkit", "read", "read_images", "recognizes", "sets"]

_OBJECT = re.compile(rb"<\0?o\0?b\0?j\0?e\0?c\0?t")  # in UTF-16 too


def has_boxes(root: Path, split: str) -> bool:
    """Whether any annotation file of the split has an object; those of VOC 2012 test do not."""
    return _any_object(voc_files.find(root, split, Problems()))


def read(root: Path, split: str, problems: Problems, *, declared: bool) -> Annotations:
    """The split's images and boxes, of all classes (see `formats.read`).

    `declared`: the files are PASCAL's own, not another tool's. Raises UsageError if such files have
    no boxes.
    """
    found = voc_files.find(root, split, problems)
    if declared and not _any_object(found):
        raise UsageError(
            f"{root}: {split}: no image has a box; detections can be written for PASCAL's server "
            "by fasterrcnn evaluate --voc-submission"
        )
    builder = _builder(root, found, problems)
    objects = []
    for images in found:
        users = _Users(builder, images)
        for id in images.ids:
            file = _file(images.folder, id, problems, declared=declared)
            if file is not None:
                users.add(id, file)
                objects += [(id, one) for one in file.objects]
        if not declared:
            problems.add_new(_left_out(root, images, users))
    classes = _classes(root, split, [one.name for _, one in objects], problems)
    label_of = classes.label_of
    for id, one in objects:
        builder.add_box(id, label_of[one.name], one.xywh, one.difficult, (id, one.number))
    annotations = builder.build(classes)
    box_units.stop_if_fractions(annotations, f"{root}: split {split}")
    return replace(annotations, voc=declared)


def read_images(root: Path, split: str, classes: Classes, problems: Problems) -> Annotations:
    """The images of a split of PASCAL's own data, without boxes; opens no annotation file."""
    found = voc_files.find(root, split, problems)
    builder = _builder(root, found, problems)
    for images in found:
        users = _Users(builder, images)
        for id in images.ids:
            users.add(id, voc_xml.File("", None, []))
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


def _any_object(found: list[voc_files.Images]) -> bool:
    """Whether an annotation file of these images may have an object; does not parse them."""
    known = (images.folder.xml.get(id) for images in found for id in images.ids)
    return any(_mentions_object(file) for file in known if file is not None)


def _mentions_object(file: Path) -> bool:
    """Whether an annotation file may have an object; what cannot be read becomes a fault later."""
    try:
        return _OBJECT.search(text.read_bytes(file)) is not None
    except (FileNotFoundError, DataError):
        return False


def _file(
    folder: voc_files.Folder, id: str, problems: Problems, *, declared: bool
) -> voc_xml.File | None:
    """The annotation file of an image; None, with a fault reported, if it cannot be used.

    Other tools than PASCAL's (Datumaro) write none for an image without objects.
    """
    xml = folder.xml_of(id)
    if id in folder.xml:
        return voc_xml.read(xml, problems, first_pixel=1 if declared else 0)
    if not declared and folder.images_of(id, ""):
        problems.note(xml, "file", id, "listed image without an annotation file", "no boxes")
        return voc_xml.File("", None, [])
    problems.fault(xml, "file", xml.name, "missing")  # not opened: a list can name any place
    return None


def _builder(root: Path, found: list[voc_files.Images], problems: Problems) -> Builder:
    """A builder whose boxes are found by (image id, number of the object in its file)."""
    folder_of = {id: images.folder for images in found for id in images.ids}

    def describe(where: tuple[str, int]) -> tuple[Path, str]:
        id, number = where
        return folder_of[id].xml_of(id), f"object {number}/bndbox"

    return Builder(root, problems, describe)


class _Users:
    """Adds the images of annotation files to a builder, and knows which file uses which image."""

    def __init__(self, builder: Builder, images: voc_files.Images) -> None:
        self.builder = builder
        self.images = images
        self.user: dict[str, str] = {}  # image -> id
        self.without: list[tuple[Path, str]] = []  # annotation files without an image

    def add(self, id: str, file: voc_xml.File) -> None:
        """Add the image that the annotation file of `id` is about, or report why it cannot be."""
        folder, builder = self.images.folder, self.builder
        xml, found = folder.xml_of(id), folder.images_of(id, file.image)
        if len(found) == 1 and found[0] not in self.user:
            self.user[found[0]] = id
            builder.add_image(id, found[0], file.size, xml, "annotation")
        elif len(found) == 1:
            other = self.user[found[0]]
            for one, two in ((id, other), (other, id)):  # nothing says which has all of the boxes
                what = f"{folder.xml_of(two).name} is about this image too; leave one of them there"
                builder.reject_image(one, folder.xml_of(one), "filename", found[0], what)
        elif found:
            what = "can be any of these images; leave one of them there"
            builder.reject_image(id, xml, "filename", ", ".join(found), what)
        elif self.images.listed_in is not None:
            missing = folder.image_folders[0] / (Path(file.image).name or f"{id}.jpg")
            builder.reject_image(id, missing, f"image {id}", missing.name, "missing")
        else:
            self.without.append((xml, file.image or id))


def _left_out(root: Path, images: voc_files.Images, users: _Users) -> Problems:
    """Notes about images without an annotation file and the other way round. Raises DataError if
    no image was found at all."""
    notes = Problems()
    folder = images.folder
    if users.without and not users.user:
        xml, name = users.without[0]
        places = " or ".join(map(str, folder.image_folders))
        raise DataError(
            f"{folder.annotations}: none of the annotation files ({len(images.ids)}, the first is "
            f"{xml.name} about {name}) has an image in {places}; put the images there"
        )
    for xml, name in users.without:
        notes.note(xml, "filename", name, "annotation file without an image", "left out")
    for xml in voc_files.in_no_split(root, images):
        notes.note(xml, "file", xml.name, "annotation file in no split", "left out")
    for name in folder.images_without_xml(users.user):
        notes.note(root / name, "file", name, "image without an annotation file", "left out")
    return notes


def _classes(root: Path, split: str, names: list[str], problems: Problems) -> Classes:
    """The classes of all objects of the split."""
    if not names:
        first = f"; the first finding: {problems.found[0]}" if problems.found else ""
        raise DataError(f"{root}: split {split} has no usable object with a class name{first}")
    return Classes.of(sorted(set(names)))
