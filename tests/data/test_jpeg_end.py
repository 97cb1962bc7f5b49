"""JPEG files cut at every byte near their end, at scans and at restarts, and half downloaded."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn.data import images, jpeg_end
from tests.faults import hostile_images
from tests.faults.places import Place

ENCODINGS = [
    {"quality": 30},
    {"quality": 95, "subsampling": 0},
    {"quality": 75, "optimize": True},
    {"quality": 75, "progressive": True},
    {"quality": 90, "restart_marker_blocks": 4},
]


def encoded(**options) -> bytes:
    """Smooth colors with some noise, 61 x 97 px, which is no multiple of a block."""
    y, x = np.mgrid[:61, :97]
    noise = np.random.RandomState(3).randint(0, 60, (61, 97, 3))
    pixels = np.stack([2 * x, 3 * y, x + y], axis=2) % 190 + noise
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", **options)
    return file.getvalue()


def decoded(folder: Path, data: bytes) -> torch.Tensor | str:
    """Pixels, or the phrase that says what is wrong."""
    path = folder / "x.jpg"
    path.write_bytes(data)
    try:
        return images.decode(path, apply_orientation=False)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("options", ENCODINGS, ids=str)
def test_a_file_is_used_without_its_end_marker_but_not_without_a_pixel(
    tmp_path: Path, options: dict
):
    data = encoded(**options)
    whole = decoded(tmp_path, data)
    for cut in (1, 2):
        assert decoded(tmp_path, data[:-cut]).equal(whole)
    for cut in [*range(3, 40), len(data) // 4]:
        found = decoded(tmp_path, data[:-cut])
        assert isinstance(found, str), cut
        assert "truncated" in found


def test_a_file_that_ends_at_a_restart_is_damaged(tmp_path: Path):
    """There, a decoder ignores what follows until the next restart marker."""
    data = encoded(quality=90, restart_marker_blocks=4)
    restarts = [k for k in range(len(data) - 1) if re.match(rb"\xff[\xd0-\xd7]", data[k:])]
    assert len(restarts) == 6  # 4 x 7 blocks of 16 px, a restart after every 4
    for k in restarts:
        assert "truncated" in decoded(tmp_path, data[:k])
        assert "truncated" in decoded(tmp_path, data[: k + 2])


def test_a_progressive_file_without_its_last_scans_is_damaged(tmp_path: Path):
    """It decodes to the whole image, blurred."""
    data = encoded(progressive=True)
    scans = [k for k in range(len(data)) if data[k : k + 2] == b"\xff\xda"]
    assert len(scans) > 4
    for k in scans[1:]:
        assert "truncated" in decoded(tmp_path, data[:k])
        assert "truncated" in decoded(tmp_path, data[: k + 5])


def test_bytes_that_a_download_left_zero_are_no_pixels(tmp_path: Path):
    data = encoded(quality=95)
    assert "truncated" in decoded(tmp_path, data[: len(data) // 3] + bytes(2 * len(data)))
    assert decoded(tmp_path, data[:-2] + bytes(512)).equal(decoded(tmp_path, data))
    assert decoded(tmp_path, data + bytes(512)).equal(decoded(tmp_path, data))


def test_an_end_that_looks_like_data(tmp_path: Path):
    """A stuffed byte FF 00 at the end is data; FF alone is half of the marker."""
    stuffed, half = (jpeg_end.endings(b"\xff\xd8 ... \xff" + more) for more in (b"\0", b""))
    assert len(set(stuffed)) == len(set(half)) == 3  # of which the images are compared
    for ending in stuffed:
        assert ending.startswith(b"\xff\xd8 ... \xff\x00")
    for ending in half:
        assert ending.startswith(b"\xff\xd8 ... ")
        assert ending[8:10] != b"\xff\xff"
        assert ending.endswith(jpeg_end.MARKER)


@pytest.mark.parametrize(
    "write", [hostile_images.jpeg_of_many_scans, hostile_images.jpeg_of_many_sequential_scans]
)
def test_a_file_of_thousands_of_scans(tmp_path: Path, write: Callable[[Place], Path]):
    """Each of them costs a pass over the image: with 2,000 of them 3000 x 3000 px took a minute."""
    (tmp_path / "given").mkdir()
    path = write(Place(tmp_path, tmp_path))
    with pytest.raises(ValueError, match="scans"):
        images.decode(path, apply_orientation=True)
