"""Numbers of a split, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fasterrcnn.data import statistics
from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.statistics import Bin
from tests.data.make import annotations_of


def test_a_split_by_hand():
    """Images of 400 px: one of three boxes (one a crowd), one without, one of a box outside."""
    data = annotations_of(
        [[(0, 0, 10, 10), (0, 0, 40, 90), (50, 50, 9, 9)], [], [(500, 0, 5, 5)]], crowd=[2]
    )
    data = replace(
        data,
        labels=np.array([1, 2, 1, 2]),
        classes=Classes(("cat", "dog", "cow"), (7, 3, 9)),
        trainable=np.array([True, True, False, False]),
    )
    found = statistics.describe("train", data)
    assert (found.name, found.images, found.boxes, found.crowd) == ("train", 3, 2, 1)
    assert found.without_boxes == ["1", "2"]
    assert found.boxes_per_image == (0, 0.0, 2)
    counts = [(c.name, c.category_id, c.images, c.boxes) for c in found.classes]
    assert counts == [("cat", 7, 1, 1), ("dog", 3, 1, 1), ("cow", 9, 0, 0)]
    assert found.by_size == {"small": 1, "medium": 1, "large": 0}  # 100 and 3,600 px^2
    assert [(b.file, b.index, b.name, b.xywh) for b in found.smallest] == [
        ("0", 0, "cat", (0, 0, 10, 10)),
        ("0", 1, "dog", (0, 0, 40, 90)),
    ]
    assert found.largest == found.smallest[::-1]
    assert [(b.file, b.image, b.name, b.what) for b in found.lost] == [("2", 2, "dog", "dropped")]
    assert [bar.boxes for bar in found.ratios] == [1, 0, 1]  # 1, and 2.25 in 2 to 2.83


def test_an_image_counts_once_for_a_class():
    found = statistics.describe("val", annotations_of([[(0, 0, 5, 5)] * 3, [(0, 0, 5, 5)]]))
    assert [(c.images, c.boxes) for c in found.classes] == [(2, 4)]


def test_sizes_are_those_of_clipped_boxes():
    """100 x 100 px, of which 50 x 100 are in the image: clipped, and 70.7 px in size."""
    data = annotations_of([[(350, 0, 100, 100)]])
    found = statistics.describe("train", data)
    assert [(b.low < 70.7 < b.high, b.boxes) for b in found.sizes] == [(True, 1)]
    assert [b.what for b in found.lost] == ["clipped"]
    assert [round(b.low, 2) for b in found.ratios] == [2.0]


def test_coco_rounds_boxes_a_hundredth_out_of_their_image():
    assert statistics.lost(annotations_of([[(390, 0, 10.01, 5)]])) == []
    assert len(statistics.lost(annotations_of([[(390, 0, 10.02, 5)]]))) == 1


def test_bars_are_half_octaves():
    assert statistics.histogram(np.array([1.0, 1.3, 2.0, 4.0])) == [
        Bin(1.0, 2**0.5, 2),
        Bin(2**0.5, 2.0, 0),
        Bin(2.0, 2**1.5, 1),
        Bin(2**1.5, 4.0, 0),
        Bin(4.0, 2**2.5, 1),
    ]
    assert statistics.histogram(np.zeros(0)) == []


def test_a_systematic_sample_is_evenly_spread():
    assert statistics.systematic(3, 5) == [0, 1, 2]
    assert statistics.systematic(10, 2) == [2, 7]
    assert statistics.systematic(100, 4) == [12, 37, 62, 87]
    assert statistics.systematic(10, 0) == []
