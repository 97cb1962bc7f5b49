"""COCO json: a file per split, anywhere beside its images.

Only boxes are read; masks are never decoded, except for the box of a segmentation that has none.
Ids may start at 0, have gaps or be huge; labels are the rank of the category id, from 1.
`coco_files` finds the files, `coco_json` reads what they say.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fasterrcnn.data import box_units, coco_cache, coco_federated, coco_files, coco_json
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.builder import Boxes, Builder
from fasterrcnn.data.coco_json import Content
from fasterrcnn.data.image_files import unsafe
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError


def recognizes(root: Path) -> bool:
    """Whether `root` looks like a data set in this format."""
    return bool(coco_files.find_all(root))


def read(root: Path, split: str, problems: Problems) -> Annotations:
    """The split's images and boxes, of all classes (see `formats.read`)."""
    json_file = coco_files.find(root, split)
    content = _content(json_file, problems)
    folder, files = _find_images(root, json_file, split, content.images)

    def describe(k: int) -> tuple[Path, str]:
        id, image = content.id[k], content.images[content.boxes.image[k]].id
        which = f"(annotation {id}, image {image})" if id >= 0 else f"(image {image})"
        return json_file, f"/annotations/{content.row[k]}/bbox {which}"

    builder = Builder(folder, problems, describe)
    shared = {file for file, count in Counter(files).items() if file and count > 1}
    for image, file in zip(content.images, files, strict=True):
        field = f"/images/{image.row}"
        if file is None and (problem := unsafe(image.file_name)):
            builder.reject_image(
                image.id, json_file, f"{field}/file_name", image.file_name, problem
            )
        elif file in shared:
            what = "two images have this file, so that each lacks the boxes of the other"
            builder.reject_image(image.id, json_file, f"{field}/file_name", file, what)
        else:
            builder.add_image(image.id, file or image.file_name, image.size, json_file, field)
    _add_boxes(builder, content)
    annotations = builder.build(content.classes)
    box_units.stop_if_fractions(annotations, f"{json_file}: bbox")
    box_units.stop_if_corners(annotations, f"{json_file}: bbox")
    federated = coco_federated.read(json_file, content, builder.order, problems)
    return replace(annotations, federated=federated)


def _content(json_file: Path, problems: Problems) -> Content:
    """What the file says: from the cache, or parsed and, without findings, kept there."""
    content = coco_cache.load(json_file)
    if content is None:
        before = len(problems.found)
        content = coco_json.parse(json_file, problems)
        if len(problems.found) == before:
            coco_cache.save(json_file, content)
    return content


def _find_images(
    root: Path, json_file: Path, split: str, images: Sequence[coco_json.Image]
) -> tuple[Path, list[str | None]]:
    """A folder, and the path of each image's file in it, None if it is missing.

    Raises DataError if all are.
    """
    finder = coco_files.ImageFinder(root, json_file, split)
    found = [finder.find(image.file_name) for image in images]
    used = {place[0] for place in found if place is not None}
    if images and not used:
        looked = ", ".join(os.path.relpath(folder, root) for folder in finder.folders)
        raise DataError(
            f"{json_file}: none of its {len(images)} images is there, for example "
            f"{images[0].file_name}; looked in {root}: {looked}"
        )
    folder = used.pop() if len(used) == 1 else str(root)
    files: list[str | None] = []
    for place in found:
        if place is not None and place[0] != folder:
            files.append(f"{place[0]}/{place[1]}".removeprefix(f"{root}/"))
        else:
            files.append(place and place[1])
    return Path(folder), files


def _add_boxes(builder: Builder, content: Content) -> None:
    """Add the boxes whose image was not rejected."""
    added = np.array([builder.position.get(image.id, -1) for image in content.images], np.int64)
    boxes = content.boxes
    image = added[boxes.image]
    kept = np.flatnonzero(image >= 0)
    builder.add_boxes(
        Boxes(
            image[kept],
            *(getattr(boxes, name)[kept] for name in ("label", "xywh", "area", "crowd")),
        ),
        kept,
    )
