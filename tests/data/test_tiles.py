"""Tiles of images: where they are, what becomes of boxes, and which of the empty ones are kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fasterrcnn.data import tiles
from fasterrcnn.errors import DataError
from fasterrcnn.recipes import Data
from tests.data import make


def split(*boxes: tuple[float, float, float, float], size: tuple[int, int] = (100, 180), **more):
    """One image of `size` with these boxes, and one without any."""
    data = make.annotations_of([[*boxes], []], **more)
    return dataclasses.replace(data, sizes=np.array([size, size], np.int32))


def test_a_tile_is_an_image_of_its_own_with_the_boxes_that_it_shows():
    data = split((10, 20, 30, 40), (90, 50, 20, 10))
    found = tiles.cut(data, 100, 20)
    assert [*found.ids] == ["0@0,0", "0@80,0", "1@0,0", "1@80,0"]
    assert [*found.file_ids] == ["0", "0", "1", "1"]
    assert found.file_sizes.tolist() == [[100, 180]] * 4
    assert found.sizes.tolist() == [[100, 100]] * 4
    assert found.tiles.corners.tolist() == [[0, 0], [0, 80]] * 2
    assert found.tiles.position.tolist() == [0, 0, 1, 1]
    boxes, labels = found.training_boxes(0)
    assert boxes.tolist() == [[10, 20, 40, 60], [90, 50, 100, 60]]
    assert labels.tolist() == [1, 1]
    assert found.training_boxes(1)[0].tolist() == [[10, 50, 30, 60]]
    assert found.path(1) == data.path(0)
    assert len({part.digest() for part in (data, found, tiles.cut(data, 100, 30))}) == 3


def test_a_box_that_is_cut_too_much_is_neither_positive_nor_negative():
    data = split((90, 50, 20, 10), (95, 0, 20, 10))  # of the second, a quarter is in the first tile
    found = tiles.cut(data, 100, 20, min_visible=0.5)
    assert found.training_boxes(0)[1].tolist() == [1, -1]
    assert found.trainable.tolist() == [True, False, True, True]
    assert not (found.trainable & found.crowd).any()
    assert found.with_boxes().tolist() == [True, True, False, False]
    sliver = split((99.5, 50, 20, 10))
    assert tiles.cut(sliver, 100, 20).training_boxes(0)[1].tolist() == [-1], "less than a pixel"


def test_a_box_that_leaves_the_image_is_measured_inside_it():
    found = tiles.cut(split((-30, 0, 40, 10)), 100, 20, min_visible=0.9)
    boxes, labels = found.training_boxes(0)
    assert boxes.tolist() == [[0, 0, 10, 10]]
    assert labels.tolist() == [1]


def test_crowd_boxes_are_in_no_tile():
    found = tiles.cut(split((10, 20, 30, 40), (5, 5, 20, 20), crowd=[1]), 100, 20)
    assert len(found.labels) == 1


def test_every_part_of_many_boxes_is_where_the_pixels_are():
    """Against the plain definition, box by box and tile by tile."""
    random = np.random.default_rng(0)
    boxes = [
        tuple(box) for box in np.c_[random.uniform(0, 300, (60, 2)), random.uniform(1, 60, (60, 2))]
    ]
    data = split(*boxes, size=(310, 350))
    found = tiles.cut(data, 64, 20)
    for i in range(len(found)):
        (y, x), (h, w) = found.tiles.corners[i], found.sizes[i]
        expected = []
        for bx, by, bw, bh in boxes if found.tiles.position[i] == 0 else ():
            x1, y1 = max(bx, x) - x, max(by, y) - y
            x2, y2 = min(bx + bw, x + w, 350) - x, min(by + bh, y + h, 310) - y
            if x2 > x1 and y2 > y1:
                expected.append((x1, y1, x2, y2))
        assert np.allclose(np.array(expected).reshape(-1, 4), found.training_boxes(i)[0])


def test_of_empty_tiles_a_share_is_kept_chosen_by_the_seed():
    data = split((10, 20, 30, 40), size=(1000, 1000))
    config = Data(tile=64, tile_empty=0.1)

    def kept(seed: int, config: Data = config) -> list[str]:
        return [*tiles.to_train_on(data, config, seed)[0].ids]

    every = len(tiles.cut(data, 64, 13))
    assert 0.05 * every < len(kept(0)) < 0.15 * every
    assert kept(0) == kept(0) != kept(1)
    assert {"0@0,0"} < {*kept(0)} & {*kept(1)}
    assert kept(0, dataclasses.replace(config, tile_empty=0.0)) == ["0@0,0"]
    assert len(kept(0, dataclasses.replace(config, tile_empty=1.0))) == every


def test_a_box_larger_than_a_tile_is_refused_unless_parts_are_wanted():
    data = split((10, 20, 70.5, 40))
    with pytest.raises(DataError, match=r"--data.tile: 64: smaller than the largest box .* 71 px"):
        tiles.to_train_on(data, Data(tile=64), 0)
    tiles.to_train_on(data, Data(tile=64, tile_min_visible=0.0), 0)


def test_the_overlap_that_shows_each_box_whole_is_told():
    data = split((10, 20, 30, 40))
    _, lines = tiles.to_train_on(data, Data(tile=64), 0)
    assert lines[1] == (
        "note: the largest box is of 40 px, so some may be cut in every tile; --data.tile-overlap "
        "0.63 shows each whole"
    )
    assert len(tiles.to_train_on(data, Data(tile=64, tile_overlap=0.63), 0)[1]) == 1
