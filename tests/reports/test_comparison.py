"""What was found, missed and false in scenes of a few boxes, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fasterrcnn.data.annotations import Annotations, Classes, Federated, Lists, Strings
from fasterrcnn.reports import comparison


def scene(*images: list[tuple[list[float], int, bool]]) -> Annotations:
    """Images of 100 x 100 px with objects of (x y w h, label, crowd)."""
    boxes = [box for image in images for box in image]
    xywh = np.array([box[0] for box in boxes], np.float64).reshape(-1, 4)
    crowd = np.array([box[2] for box in boxes], bool)
    names = Strings(f"{i}.png" for i in range(len(images)))
    return Annotations(
        folder=Path(),
        ids=names,
        files=names,
        sizes=np.full((len(images), 2), 100, np.int32),
        rotate=np.zeros(len(images), bool),
        seen=np.zeros(len(images), np.uint8),
        first=np.cumsum([0, *map(len, images)]).astype(np.int64),
        xywh=xywh,
        labels=np.array([box[1] for box in boxes], np.int64),
        area=xywh[:, 2:].prod(axis=1),
        crowd=crowd,
        trainable=~crowd,
        classes=Classes(("a", "b"), (1, 2)),
    )


A, B = [10.0, 10.0, 20.0, 20.0], [50.0, 50.0, 40.0, 40.0]


def rows(*detections: tuple[int, list[float], float, int]) -> np.ndarray:
    table = [(image, *box, score, label) for image, box, score, label in detections]
    return np.array(table, np.float64).reshape(-1, 7)


def test_found_missed_and_false():
    data = scene([(A, 1, False), (B, 2, False)])
    (one,) = comparison.compare_all(data, rows((0, A, 0.6, 2), (0, A, 0.9, 1), (0, B, 0.4, 2)), 0.5)
    assert one.counts == (1, 1, 1)  # A as b is false, B is below the threshold
    assert one.scores.tolist() == [0.9, 0.6]
    assert one.found.tolist() == [True, False]
    assert one.boxes.tolist() == [[10, 10, 30, 30]] * 2
    assert one.missed_boxes.tolist() == [[50, 50, 90, 90]]
    assert one.missed_labels.tolist() == [2]
    assert one.quality == 0.5


def test_an_object_is_found_once_and_by_the_best():
    near = [11.0, 10.0, 20.0, 20.0]
    (one,) = comparison.compare_all(
        scene([(A, 1, False)]), rows((0, near, 0.7, 1), (0, A, 0.6, 1)), 0.5
    )
    assert one.counts == (1, 0, 1)
    assert one.found.tolist() == [True, False]


def test_the_overlap_asked_for_is_one_half():
    for height, counts in ((10.0, (1, 0, 0)), (9.9, (0, 1, 1))):  # IoU 0.5 and less
        found = rows((0, [10.0, 10.0, 20.0, height], 0.9, 1))
        (one,) = comparison.compare_all(scene([(A, 1, False)]), found, 0.5)
        assert one.counts == counts


def test_a_crowd_is_neither_missed_nor_false():
    data = scene([(B, 1, True)])
    inside, half_out = [55.0, 55.0, 5.0, 5.0], [44.0, 50.0, 10.0, 10.0]
    (one,) = comparison.compare_all(
        data, rows((0, inside, 0.9, 1), (0, half_out, 0.8, 1), (0, inside, 0.7, 2)), 0.5
    )
    assert one.ignored.tolist() == [True, False, False]
    assert one.counts == (0, 0, 2)


def test_where_a_federated_data_set_does_not_say_nothing_is_false():
    """Class 2 was looked for in the second image only, where it is not."""
    data = scene([(A, 1, False)], [(A, 1, False)])
    federated = Federated(Lists.of([[], [2]]), Lists.of([[], [1]]), ("r", "f"))
    data = replace(data, federated=federated)
    found = rows(*((i, B, 0.9, label) for i in (0, 1) for label in (1, 2)), (1, A, 0.8, 1))
    first, second = comparison.compare_all(data, found, 0.5)
    assert first.ignored.tolist() == [False, True]  # by labels: 1, 2
    assert first.counts == (0, 1, 1)
    assert second.ignored.tolist() == [True, False, False]  # the last one is found
    assert second.counts == (1, 0, 1)
    assert not comparison.compare_all(data, found, 0.5, by_class=False)[0].ignored.any()


def test_proposals_have_no_class():
    data = scene([(A, 2, False)])
    found = rows((0, A, 0.9, 1), (0, B, 0.8, 1))
    (one,) = comparison.compare_all(data, found, 0.5, by_class=False)
    assert one.counts == (1, 0, 0), "one more than objects is no fault"
    assert one.quality == 1
    (one,) = comparison.compare_all(
        scene([(A, 2, False), (B, 1, False)]), found[:1], 0.5, by_class=False
    )
    assert one.quality == 0.5, "recall"
    assert not one.by_class


def test_detections_belong_to_their_image():
    data = scene([(A, 1, False)], [], [(A, 1, False)])
    all_of_them = comparison.compare_all(data, rows((2, A, 0.9, 1), (1, A, 0.8, 1)), 0.5)
    assert [one.counts for one in all_of_them] == [(0, 1, 0), (0, 0, 1), (1, 0, 0)]


def test_best_and_worst():
    """Images 0 two found, 1 one found, 2 empty, 3 two missed, 4 missed, 5 one of two found."""
    two = [(A, 1, False), (B, 1, False)]
    data = scene(two, two[:1], [], two, two[:1], two)
    found = rows((0, A, 0.9, 1), (0, B, 0.9, 1), (1, A, 0.9, 1), (5, A, 0.9, 1))
    all_of_them = comparison.compare_all(data, found, 0.5)
    assert comparison.best_and_worst(all_of_them, 2) == ([0, 1], [3, 4])
    assert comparison.best_and_worst(all_of_them, 10) == ([0, 1, 5], [3, 4])
    assert comparison.best_and_worst(all_of_them[2:3], 2) == ([], [])
    assert all_of_them[2].quality == 1


def test_most_different_images_come_first():
    """F1 of the first: 1, 1, 0, 1; of the other: 1, 0, 1, 2/3."""
    one, two = (A, 1, False), (B, 2, False)
    data = scene([one], [one], [one, two], [one])
    first = rows((0, A, 0.9, 1), (1, A, 0.9, 1), (3, A, 0.9, 1))
    other = rows(
        (0, A, 0.9, 1), (2, A, 0.9, 1), (2, B, 0.9, 2), (3, A, 0.9, 1), (3, B, 0.8, 1)
    )  # fmt: skip
    found = [comparison.compare_all(data, some, 0.5) for some in (first, other)]
    assert comparison.most_different(*found, 9) == [2, 1, 3]
    assert comparison.most_different(*found[::-1], 2) == [2, 1]
    assert comparison.most_different(found[0], found[0], 9) == []
