"""When tiles are advised, and which."""

from __future__ import annotations

import dataclasses

import numpy as np

from fasterrcnn.data import tile_advice
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.recipes import Input
from tests.data import make

SIZES = Input(min_size=160, max_size=160)


def split(*sides: float, size: tuple[int, int] = (1200, 1600)) -> Annotations:
    data = make.annotations_of([[(10, 10, side, side) for side in sides]])
    return dataclasses.replace(data, sizes=np.array([size], np.int32))


def test_small_boxes_in_large_images_are_to_be_cut_into_tiles():
    advice = tile_advice.advise(split(14, 16, 18, 20, 24), SIZES)
    assert advice == tile_advice.Advice(1.0, "--data.tile 128 --data.tile-overlap 0.19", 0.0)


def test_tiles_hold_the_largest_box_twice():
    advice = tile_advice.advise(split(*[40.0] * 9, 110), SIZES)
    assert advice is not None
    assert advice.flags == "--data.tile 384 --data.tile-overlap 0.29"
    advice = tile_advice.advise(split(*[40.0] * 9, 210), SIZES)
    assert advice is not None
    assert advice.flags == "", "in tiles of 448 px too, most boxes are below 16 px"


def test_no_tiles_where_boxes_are_large_or_tiles_would_not_help():
    assert tile_advice.advise(split(), SIZES) is None
    for data in (
        split(160, 200, 300),  # large enough
        split(20, 24, size=(160, 160)),  # the image is no larger than a tile
        split(*[14.0] * 9, 900),  # tiles as large as the largest box leave the others small
    ):
        advice = tile_advice.advise(data, SIZES)
        assert advice is not None
        assert advice.flags == ""
