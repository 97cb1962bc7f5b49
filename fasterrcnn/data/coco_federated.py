"""What LVIS says beyond COCO: per image, of which classes the absence of a box says nothing.

A file whose images have neither of the two lists is plain COCO.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fasterrcnn.data.annotations import Federated, Lists
from fasterrcnn.data.coco_json import Content, Image
from fasterrcnn.data.problems import Problems


def read(
    path: Path, content: Content, ids: Sequence[int | str], problems: Problems
) -> Federated | None:
    """The lists of the images `ids`, in this order, and the frequency of each class.

    None for plain COCO. What a list or a frequency lacks is noted.
    """
    image_of = {image.id: image for image in content.images}
    images = [image_of[id] for id in ids]
    keys = ("neg_category_ids", "not_exhaustive_category_ids")
    if all(getattr(image, key) is None for image in images for key in keys):
        return None
    for name, frequency in zip(content.classes.names, content.frequency, strict=True):
        if not frequency:
            what = "class without a frequency (r, c or f)"
            problems.note(path, "/categories", name, what, "not in AP of rare, common or frequent")
    label_of = content.classes.label_of_id
    absent, not_exhaustive = (
        Lists.of(_labels(path, image, key, label_of, problems) for image in images) for key in keys
    )
    return Federated(absent, not_exhaustive, content.frequency)


def _labels(
    path: Path, image: Image, key: str, label_of: dict[int, int], problems: Problems
) -> list[int]:
    """The labels in a list of an image."""
    where, ids = f"/images/{image.row}/{key} (image {image.id})", getattr(image, key)
    if ids is None:
        problems.note(path, where, None, f"image without {key}", "taken as empty")
        return []
    if unknown := [id for id in ids if id not in label_of]:
        problems.note(path, where, unknown, f"{key} that no category has", "left out")
    return [label_of[id] for id in ids if id in label_of]
