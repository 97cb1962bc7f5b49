"""What pictures are called, and how they are written."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from fasterrcnn.data.sources import MARK

_LONGEST = 65_500  # px: JPEG's limit, about


def picture_names(images: Sequence[str], suffix: str = ".jpg") -> list[str]:
    """A name for the picture of each image, all different, even where case does not count.

    `images` are relative paths. The picture of ``sub/a.png`` is ``sub/a.jpg``; if that is the name
    of another's picture, ``sub/a.png.jpg``, or one with a number. An image that has that suffix
    itself keeps its name.
    """
    used: set[str] = set()
    names = [""] * len(images)
    for keeps in (True, False):  # an image's own name is not for another's picture
        for i, image in enumerate(images):
            if image.endswith(suffix) == keeps:
                names[i] = next(n for n in _candidates(image, suffix) if n.lower() not in used)
                used.add(names[i].lower())
    return names


def save(picture: Image.Image, file: Path) -> None:
    """Write a picture as JPEG, in a folder that is made if need be. It carries a comment by which
    `sources.find` knows it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if max(picture.size) > _LONGEST:
        picture.thumbnail((_LONGEST, _LONGEST))
    # no subsampling of colors: it would smear thin lines
    picture.save(file, "JPEG", quality=92, subsampling=0, comment=MARK)


def _candidates(image: str, suffix: str) -> Iterable[str]:
    """Names for its picture, the best one first, without end."""
    stem, _ = posixpath.splitext(image)
    yield f"{stem}{suffix}"
    yield f"{image}{suffix}"
    for number in itertools.count(2):
        yield f"{stem}-{number}{suffix}"
