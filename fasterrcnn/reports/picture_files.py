"""What pictures are called, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

_KEPT = (".png", ".jpg", ".jpeg")


def picture_names(images: Sequence[str]) -> list[str]:
    """A name for the picture of each image, all different, even where case does not count.

    `images` are relative paths. The picture has the image's own name if that ends in .png, .jpg or
    .jpeg, else its name with .jpg for a suffix; if that name is taken, the whole name with .jpg
    added, or a number.
    """
    used: set[str] = set()
    names = [""] * len(images)
    for keeps in (True, False):  # an image's own name is not for another's picture
        for i, image in enumerate(images):
            if (PurePosixPath(image).suffix.lower() in _KEPT) == keeps:
                names[i] = next(name for name in _candidates(image) if name.lower() not in used)
                used.add(names[i].lower())
    return names


def save(picture: Image.Image, file: Path) -> None:
    """Write a picture as its suffix says, in a folder that is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # no subsampling of colors: it would smear thin lines
    options: dict[str, Any] = (
        {} if file.suffix.lower() == ".png" else {"quality": 92, "subsampling": 0}
    )
    picture.save(file, **options)


def _candidates(image: str) -> Iterable[str]:
    """Names for its picture, the best one first, without end."""
    path = PurePosixPath(image)
    suffix = path.suffix if path.suffix.lower() in _KEPT else ".jpg"
    yield path.with_suffix(suffix).as_posix()
    if suffix != path.suffix:
        yield f"{path.as_posix()}{suffix}"
    number = 2
    while True:
        yield path.with_name(f"{path.stem}-{number}{suffix}").as_posix()
        number += 1
