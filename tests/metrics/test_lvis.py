"""LVIS's metric: which detections count, by hand; all numbers on real boxes, from lvis-api."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.annotations import Annotations, Classes, Federated, Lists
from fasterrcnn.data.problems import Problems
from fasterrcnn.metrics import coco, lvis
from tests.data import make
from tests.metrics.test_coco import detections

BOX, ELSEWHERE = (0, 0, 10, 10), (50, 50, 10, 10)


def one_thing(
    absent: tuple[list[int], ...] = ([], []), not_exhaustive: tuple[list[int], ...] = ([], [])
) -> Annotations:
    """Two images, the first of which has one rare thing. A second class is frequent."""
    federated = Federated(Lists.of(absent), Lists.of(not_exhaustive), ("r", "f"))
    classes = Classes(("thing", "other"), (1, 2))
    return replace(make.annotations_of([[BOX], []]), classes=classes, federated=federated)


def found(*rows: tuple[int, tuple, float, int]) -> np.ndarray:
    return np.array([(image, *box, score, label) for image, box, score, label in rows], np.float64)


RIGHT = (0, BOX, 0.5, 1)


def test_without_detections_that_do_not_count_it_is_coco():
    """A false detection above the right one halves the precision at every recall."""
    rows = found((0, ELSEWHERE, 0.9, 1), RIGHT)
    assert lvis.evaluate(one_thing(), rows)["AP"] == pytest.approx(0.5)
    assert coco.evaluate(one_thing(), rows)["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize(("absent", "ap"), [(([], []), 1.0), (([], [1]), 0.5), (([1], [2]), 1.0)])
def test_a_detection_counts_only_where_its_class_was_looked_for(absent: tuple, ap: float):
    """The second image has no thing. Only one that is known to have none makes it false there."""
    results = lvis.evaluate(one_thing(absent), found((1, ELSEWHERE, 0.9, 1), RIGHT))
    assert results["AP"] == pytest.approx(ap)
    assert coco.evaluate(one_thing(absent), found((1, ELSEWHERE, 0.9, 1), RIGHT))["AP"] < 0.6


@pytest.mark.parametrize(("lists", "ap"), [(([1], []), 1.0), (([2], [1]), 0.5)])
def test_where_boxes_are_not_exhaustive_nothing_is_false(lists: tuple, ap: float):
    rows = found((0, ELSEWHERE, 0.9, 1), RIGHT)
    assert lvis.evaluate(one_thing(not_exhaustive=lists), rows)["AP"] == pytest.approx(ap)


def test_where_boxes_are_not_exhaustive_they_can_still_be_missed_and_found():
    data = one_thing(not_exhaustive=([1], []))
    assert lvis.evaluate(data, found((0, ELSEWHERE, 0.9, 1)))["AP"] == 0
    results = lvis.evaluate(data, found(RIGHT))
    assert (results["AP"], results["AR_300"]) == (pytest.approx(1), 1)


def test_groups_of_classes_by_frequency():
    data = one_thing(absent=([2], [2]))
    results = lvis.evaluate(data, found(RIGHT, (0, ELSEWHERE, 0.9, 2)))
    assert results["AP_rare"] == pytest.approx(1)
    assert results["AP_common"] is None, "no such class"
    assert results["AP_frequent"] is None, "no box of such a class"
    assert results["per_class"] == {
        "thing": {"AP": pytest.approx(1), "AP50": pytest.approx(1)},
        "other": {"AP": None, "AP50": None},
    }
    assert data.federated is not None
    unknown = replace(data, federated=replace(data.federated, frequency=("", "")))
    results = lvis.evaluate(unknown, found(RIGHT))
    assert results["AP"] == pytest.approx(1)
    assert results["AP_rare"] is None


def test_the_300_best_detections_of_an_image_count():
    """Of whatever class: the others here count as nothing themselves."""
    others = [(0, ELSEWHERE, 0.9, 2)] * 300
    data = one_thing(not_exhaustive=([2], []))
    assert lvis.evaluate(data, found(*others[1:], RIGHT))["AP"] == pytest.approx(1)
    assert lvis.evaluate(data, found(*others, RIGHT))["AP"] == 0
    assert lvis.evaluate(data, found(*others, (0, BOX, 0.91, 1)))["AP"] == pytest.approx(1)


def test_no_detections_give_0_and_nothing_is_printed(capfd: pytest.CaptureFixture):
    results = lvis.evaluate(one_thing(), np.zeros((0, 7)))
    assert results["AP"] == results["AP_rare"] == results["AR_300"] == 0
    assert capfd.readouterr().out == ""


def as_in_lvis(data: Annotations, seed: int) -> Annotations:
    """Real boxes without crowds, with lists and frequencies at random."""
    random = np.random.RandomState(seed)
    rows = np.split(np.arange(len(data.labels)), data.first[1:-1])
    data = replace(data, crowd=np.zeros_like(data.crowd))
    every = np.arange(1, data.classes.num_classes)
    absent, not_exhaustive = [], []
    for own in rows:
        present = np.unique(data.labels[own])
        others = random.permutation(np.setdiff1d(every, present))
        absent.append(others[: random.randint(25)].tolist())
        not_exhaustive.append(present[random.rand(len(present)) < 0.4].tolist())
    frequency = tuple("rcf"[k] for k in random.randint(3, size=len(every)))
    return replace(data, federated=Federated(Lists.of(absent), Lists.of(not_exhaustive), frequency))


# What lvis-api 0.5.3 gives for the same boxes, lists and detections: `lvis.NAMES` in order. In the
# last case images have up to 1,500 detections.
GOLDEN = {
    (0, 3, 5.0): [
        0.4135516387, 0.6392384036, 0.4369164139, 0.1419081473, 0.5475645260, 0.7895861235,
        0.4641713035, 0.3771504462, 0.3935942469,
        0.5105558938, 0.1827036151, 0.6407021502, 0.8732001134,
    ],
    (1, 1, 0.5): [
        0.5938647410, 0.6653838081, 0.6082307408, 0.5904797820, 0.5911841407, 0.7827086280,
        0.5862706271, 0.6132100948, 0.5802509795,
        0.6457016276, 0.6096124402, 0.5993240307, 0.7840136054,
    ],
    (2, 60, 20.0): [
        0.2191877290, 0.4288033522, 0.1947718819, 0.0305875718, 0.2290666433, 0.5888067373,
        0.2275260092, 0.2023705763, 0.2323832452,
        0.4128627324, 0.0656483697, 0.4465045677, 0.8069444444,
    ],
}  # fmt: skip


@pytest.mark.parametrize(("seed", "per_box", "noise"), GOLDEN)
def test_the_numbers_of_lvis_api(coco_tiny: Path, seed: int, per_box: int, noise: float):
    data = as_in_lvis(formats.read(coco_tiny, "val", "auto", (), Problems()), seed)
    results = lvis.evaluate(data, detections(data, seed, per_box, noise, decimals=3))
    values = [results[name] for name in lvis.NAMES]
    assert values == pytest.approx(GOLDEN[seed, per_box, noise], abs=1e-9)
