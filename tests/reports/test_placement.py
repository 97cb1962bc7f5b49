"""Labels: inside the picture, at their boxes, never on each other."""

from __future__ import annotations

import numpy as np
import pytest

from fasterrcnn.reports.placement import Rectangle, place_labels


def check(
    places: list[Rectangle | None],
    boxes: np.ndarray,
    sizes: list[tuple[int, int]],
    width: int,
    height: int,
):
    assert len(places) == len(boxes)
    drawn = [place for place in places if place is not None]
    for x1, y1, x2, y2 in drawn:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)
    for place, box, size in zip(places, boxes, sizes, strict=True):
        if place is not None:
            assert (place[2] - place[0], place[3] - place[1]) == size
            assert place[0] <= box[2] + 1 and box[0] - 1 <= place[2], "away from its box"
            assert place[1] <= box[3] + 1 and box[1] - 1 <= place[3], "away from its box"


@pytest.mark.parametrize("seed", range(8))
def test_random_boxes_have_labels_that_do_not_overlap(seed: int):
    rng = np.random.RandomState(seed)
    corners = rng.uniform([0, 0], [640, 480], (2, 25, 2))
    boxes = np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1)
    sizes = [(int(w), 18) for w in rng.randint(30, 120, 25)]
    places = place_labels(boxes, sizes, 640, 480)
    check(places, boxes, sizes, 640, 480)
    assert None not in places


def test_a_crowd_in_one_place_keeps_the_first_labels():
    boxes = np.array([[200.0, 200.0, 260.0, 260.0]] * 60)
    sizes = [(70, 18)] * 60
    places = place_labels(boxes, sizes, 640, 480)
    check(places, boxes, sizes, 640, 480)
    drawn = [place is not None for place in places]
    assert drawn.index(False) == sum(drawn) > 8


def test_above_first_then_where_it_hides_least():
    free = place_labels(np.array([[100.0, 100.0, 200.0, 200.0]]), [(50, 20)], 400, 400)
    assert free == [(100, 80, 150, 100)]
    above = [[100.0, 100.0, 200.0, 200.0], [90.0, 60.0, 210.0, 98.0]]  # an object where it would be
    assert place_labels(np.array(above), [(50, 20)], 400, 400) == [(100, 200, 150, 220)]
    top = place_labels(np.array([[100.0, 0.0, 200.0, 100.0]]), [(50, 20)], 400, 400)
    assert top == [(100, 100, 150, 120)]
    whole = place_labels(np.array([[0.0, 0.0, 400.0, 400.0]]), [(50, 20)], 400, 400)
    assert whole == [(0, 0, 50, 20)]
    right = place_labels(np.array([[380.0, 100.0, 400.0, 120.0]]), [(50, 20)], 400, 400)
    assert right == [(350, 80, 400, 100)]


def test_it_hides_neither_its_own_object_nor_those_of_others():
    below = [[100.0, 100.0, 200.0, 200.0], [0.0, 0.0, 4000.0, 99.0]]  # above: whose would it be?
    assert place_labels(np.array(below), [(50, 20)], 4000, 400) == [(100, 200, 150, 220)]
    small = [[0.0, 100.0, 60.0, 124.0], [0.0, 0.0, 60.0, 86.0], [0.0, 138.0, 60.0, 600.0]]
    assert place_labels(np.array(small), [(50, 20)], 60, 600) == [(0, 124, 50, 144)]


def test_when_the_edges_are_full_labels_go_inside():
    boxes, sizes = np.array([[0.0, 0.0, 200.0, 200.0]] * 40), [(50, 20)] * 40
    places = place_labels(boxes, sizes, 200, 200)
    check(places, boxes, sizes, 200, 200)
    drawn = [place for place in places if place is not None]
    assert any(x1 > 20 and x2 < 180 and y1 > 20 and y2 < 180 for x1, y1, x2, y2 in drawn)


def test_what_does_not_fit_is_left_out():
    assert place_labels(np.array([[0.0, 0.0, 9.0, 9.0]]), [(50, 20)], 40, 400) == [None]
    assert place_labels(np.array([[0.0, 0.0, 9.0, 9.0]]), [(50, 20)], 400, 10) == [None]
    assert place_labels(np.zeros((0, 4)), [], 10, 10) == []


def test_boxes_outside_the_picture_and_without_area():
    boxes = np.array([[-50.0, -50.0, 900.0, 900.0], [30.0, 30.0, 30.0, 30.0], [500, 500, 600, 600]])
    places = place_labels(boxes, [(40, 10)] * 3, 100, 100)
    assert None not in places
    check(places, np.clip(boxes, 0, 100), [(40, 10)] * 3, 100, 100)
