"""Repeat factors: LVIS's formula by hand, and copies drawn systematically."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data import repeats
from fasterrcnn.data.annotations import Annotations, Classes, Strings

# 16 images: cat in all but two, dog in 4, emu in 1 (three boxes, with a dog), none of yak.
SHOWN = [[1]] * 10 + [[1, 2]] * 3 + [[2, 3, 3, 3, 1]] + [[]] * 2


@pytest.fixture
def data() -> Annotations:
    labels = np.array([label for image in SHOWN for label in image], np.int64)
    n, boxes = len(SHOWN), len(labels)
    return Annotations(
        folder=Path("nowhere"),
        ids=Strings(map(str, range(n))),
        files=Strings([""] * n),
        sizes=np.full((n, 2), 50, np.int32),
        rotate=np.zeros(n, bool),
        seen=np.zeros(n, np.uint8),
        first=np.cumsum([0, *map(len, SHOWN)]),
        xywh=np.tile([[1.0, 2.0, 30.0, 40.0]], (boxes, 1)),
        labels=labels,
        area=np.full(boxes, 1200.0),
        crowd=np.zeros(boxes, bool),
        trainable=np.ones(boxes, bool),
        classes=Classes(("cat", "dog", "emu", "yak"), (1, 2, 3, 4)),
    )


def test_factors_are_those_of_the_rarest_class(data):
    """dog: sqrt(1 / (4 / 16)) = 2; emu: sqrt(1 / (1 / 16)) = 4; cat: sqrt(1 / (14 / 16))."""
    cat = (16 / 14) ** 0.5
    expected = [cat] * 10 + [2.0] * 3 + [4.0] + [1.0] * 2
    assert repeats.factors(data, 1.0).tolist() == pytest.approx(expected, rel=1e-12)
    # at 0.25 a dog is just not rare
    assert repeats.factors(data, 0.25).tolist() == [1.0] * 13 + [2.0] + [1.0] * 2
    assert repeats.factors(data, 0.01).tolist() == [1.0] * 16


def test_boxes_that_are_not_trained_on_count_for_nothing(data):
    crowd = data.labels == 3
    assert (
        repeats.factors(dataclasses.replace(data, crowd=crowd, trainable=~crowd), 0.25).tolist()
        == [1.0] * 16
    )


def test_the_log_names_the_classes_repeated_most(data):
    assert repeats.describe(data, 0.5) == (
        "data: images of 2 of 4 classes are repeated, most often emu 2.83 x (1 of 16 images), "
        "dog 1.41 x (4 of 16 images); an epoch has about 19 images"
    )
    assert "nothing is repeated" in repeats.describe(data, 0.01)


def test_the_number_of_copies_is_the_rounded_sum():
    assert repeats.number_of_copies(np.array([0.5, 0.9])) == 1
    assert repeats.number_of_copies(np.array([0.5, 1.0])) == 2
    assert repeats.number_of_copies(np.array([0.0, 0.0])) == 0
    many = np.full(1000, 0.1)  # whose plain sum is not 100
    assert repeats.number_of_copies(many) == 100


def test_copies_are_drawn_systematically():
    extra = np.array([0.5, 0.0, 1.25, 0.25, 0.0])
    assert repeats.draw_copies(extra, 2, 0.0).tolist() == [1, 0, 1, 0, 0]
    assert repeats.draw_copies(extra, 2, 0.5).tolist() == [0, 0, 2, 0, 0]
    assert repeats.draw_copies(extra, 2, 0.8).tolist() == [0, 0, 1, 1, 0]
    assert repeats.draw_copies(extra, 2, 1 - 2**-53).tolist() == [0, 0, 1, 1, 0]
    total = sum(repeats.draw_copies(extra, 2, k / 1000) for k in range(1000))
    assert (total / 1000).tolist() == pytest.approx(extra.tolist(), abs=2e-3)


@pytest.mark.parametrize("seed", range(5))
def test_every_image_gets_its_share_rounded_down_or_up(seed: int):
    random = np.random.default_rng(seed)
    extra = random.exponential(0.7, 200) * (random.random(200) < 0.6)
    number = repeats.number_of_copies(extra)
    scaled = extra * number / extra.sum()
    for start in random.random(20):
        drawn = repeats.draw_copies(extra, number, start)
        assert drawn.sum() == number
        assert (np.floor(scaled) <= drawn).all()
        assert (drawn <= np.ceil(scaled)).all()
