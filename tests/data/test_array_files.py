"""Images in numpy's format: what is read, and what is refused in a phrase."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data import images
from fasterrcnn.data.pixel_values import BYTE, FLOAT, INTEGER
from fasterrcnn.pixel_format import AS_STORED, PixelFormat
from tests.faults import hostile_images
from tests.faults.places import Place

RANDOM = np.random.default_rng(0)


def decode(path: Path, wanted: PixelFormat = AS_STORED) -> np.ndarray:
    return images.decode(path, apply_orientation=False, pixel_format=wanted).numpy()


@pytest.mark.parametrize(("dtype", "depth"), [("u1", BYTE), ("u2", INTEGER), (">u2", INTEGER),
                                              ("f4", FLOAT)])  # fmt: skip
def test_values_of_all_bands(tmp_path: Path, dtype: str, depth: int):
    path = tmp_path / "x.npy"
    for shape in ((20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 7)):
        array = (RANDOM.random(shape) * 250).astype(dtype)
        for stored in (array, np.asfortranarray(array)):
            np.save(path, stored)
            bands = 1 if len(shape) == 2 else shape[2]
            assert images.inspect(path).header[:5] == (20, 30, 1, depth, bands)
            assert np.array_equal(decode(path).transpose(1, 2, 0), array.reshape(20, 30, bands))
    np.save(path, array[:, :, 0])
    assert np.array_equal(decode(path, PixelFormat()), np.stack([array[:, :, 0]] * 3))


@pytest.mark.parametrize(("array", "phrase"), [
    (np.zeros((4, 40, 50), np.uint8), "looks like (bands, height, width)"),
    (np.zeros((4, 5)), "an array of float64; give uint8, uint16 or float32"),
    (np.zeros((4, 5), object), "an array of object"),
    (np.zeros(5, np.uint8), "an array of shape (5,); give (height, width) or"),
    (np.zeros((0, 5), np.uint8), "an array of shape (0, 5)"),
])  # fmt: skip
def test_others_are_refused(tmp_path: Path, array: np.ndarray, phrase: str):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    assert phrase in images.inspect(tmp_path / "x.npy").header


def test_a_truncated_file_and_nan(tmp_path: Path):
    path = tmp_path / "x.npy"
    array = np.zeros((20, 30), np.float32)
    array[0, 0] = np.inf
    np.save(path, array)
    with pytest.raises(ValueError, match="1 of its pixels are NaN or infinite"):
        decode(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(path)


def test_a_header_too_long_is_one_line(tmp_path: Path):
    (tmp_path / "given").mkdir()
    path = hostile_images.npy_in_brackets(Place(tmp_path, tmp_path))
    found = images.inspect(path).header
    assert isinstance(found, str)
    assert found.startswith("an array whose header is damaged")
    assert "\n" not in found
