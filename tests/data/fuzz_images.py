"""Damages image files at random: a YOLO data set of images in every format that is read."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

_TURNED = Image.Exif()
_TURNED[0x0112] = 6  # orientation
_FORMATS = {  # suffix: what Pillow saves it with
    "jpg": {"format": "JPEG", "quality": 90},
    "jpeg": {"format": "JPEG", "progressive": True, "exif": _TURNED},
    "png": {"format": "PNG"},
    "bmp": {"format": "BMP"},
    "webp": {"format": "WEBP"},
    "tif": {"format": "TIFF", "compression": "tiff_lzw"},
    "gif": {"format": "GIF"},
    "ppm": {"format": "PPM"},
}  # fmt: skip


def write(root: Path, count: int, seed: int) -> dict[str, int]:
    """A data set of `count` damaged images, and of one whole image of each format; how many of
    each format are damaged."""
    random = Random(seed)
    whole = {suffix: _encoded(options, seed) for suffix, options in _FORMATS.items()}
    images, labels = root / "images" / "train", root / "labels" / "train"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    (root / "data.yaml").write_text("train: images/train\nnames: [cell]\n")
    counts = dict.fromkeys(whole, 0)
    for k in range(-len(whole), count):
        suffix = [*whole][k % len(whole)]
        data = whole[suffix]
        if k >= 0:
            counts[suffix] += 1
            data = _damaged(data, random)
        (images / f"{k:04d}.{suffix}").write_bytes(data)
        (labels / f"{k:04d}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    return counts


def _encoded(options: dict, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **options)
    return file.getvalue()


def _damaged(data: bytes, random: Random) -> bytes:
    """`data` with one to three kinds of damage; half of them in the header, where sizes are."""
    damaged = bytearray(data)
    for _ in range(random.randint(1, 3)):
        end = min(len(damaged), random.choice((64, len(damaged))))
        if not end:
            break
        place, kind = random.randrange(end), random.randrange(5)
        if kind == 0:
            damaged[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            damaged[place : place + 2] = random.choice((b"\xff\xff", b"\0\0", b"\x7f\xff"))
        elif kind == 2:
            del damaged[place:]
        elif kind == 3:
            del damaged[place : place + random.randint(1, 20)]
        else:
            damaged[place:place] = random.randbytes(random.randint(1, 20))
    return bytes(damaged)
