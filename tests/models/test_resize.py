"""Resizing is Pillow's and OpenCV's to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn.models import resize


def example(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("old", "new"), [
    ((90, 120), (40, 53)), ((40, 53), (90, 120)), ((427, 640), (800, 1199)), ((31, 64), (31, 50)),
    ((100, 100), (7, 7)), ((5, 9), (64, 115)), ((64, 64), (64, 64)), ((1, 1), (8, 8)),
])  # fmt: skip
def test_pillow(old: tuple[int, int], new: tuple[int, int]):
    image = example(*old)
    theirs = np.array(Image.fromarray(image).resize(new[::-1], Image.Resampling.BILINEAR))
    mine = resize.pillow(torch.from_numpy(image).permute(2, 0, 1), new)
    assert mine.permute(1, 2, 0).equal(torch.from_numpy(theirs).int())


def test_opencv_by_hand():
    """One row of 0, 100, 200 made four wide: places -0.125, 0.625, 1.375, 2.125 of the old ones.

    Weights in 2048ths: 0; 768 and 1280; 1280 and 768; 200. Sums shifted by 4 (to 2048ths / 16),
    then times 2048 shifted by 16, plus 2, shifted by 2.
    """
    row = torch.tensor([0, 100, 200], dtype=torch.uint8).expand(1, 3, 3)
    expected = []
    for low, high, part in ((0, 0, 0), (0, 100, 1280), (100, 200, 768), (200, 200, 0)):
        total = (low * (2048 - part) + high * part) >> 4
        expected.append((((total * 2048) >> 16) + 2) >> 2)
    assert expected == [0, 63, 138, 200]
    assert resize.opencv(row, (3, 4))[0, 1].tolist() == expected


def test_opencv_where_nothing_changes():
    image = torch.from_numpy(example(20, 30)).permute(2, 0, 1)
    assert resize.opencv(image, (20, 30)).equal(image.int())


def test_opencv_itself():
    """Where it is installed: it is no requirement."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    for old, new in (((90, 120), (40, 53)), ((40, 53), (90, 120)), ((37, 83), (181, 285))):
        image = example(*old)
        theirs = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)
        mine = resize.opencv(torch.from_numpy(image).permute(2, 0, 1), new)
        assert mine.permute(1, 2, 0).equal(torch.from_numpy(theirs).int())
