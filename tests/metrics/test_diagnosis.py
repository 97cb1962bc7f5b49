"""The diagnosis on a case made by hand, and against hotcoco's own numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.metrics import coco, diagnosis
from tests.data import make

BOXES = [
    [(10, 10, 40, 40), (100, 100, 40, 40), (10, 120, 30, 30), (200, 200, 100, 100)],
    [(50, 50, 30, 30)],
    [],
]
FOUND = np.array([
    [0, 10, 10, 40, 40, 0.9, 1],  # right
    [0, 100, 100, 40, 40, 0.8, 1],  # a dog
    [0, 22, 120, 30, 30, 0.7, 1],  # inexact: IoU 18 / 42
    [0, 10, 10, 40, 40, 0.6, 1],  # again
    [0, 300, 20, 20, 20, 0.55, 2],  # nothing there
    [0, 210, 210, 50, 50, 0.4, 1],  # in the crowd
])  # fmt: skip


@pytest.fixture
def data() -> Annotations:
    """Cats, of which the last of the first image is a crowd, and two dogs."""
    found = make.annotations_of(BOXES, crowd=[3])
    labels = np.array([1, 2, 1, 1, 2])
    return replace(found, labels=labels, classes=Classes(("cat", "dog", "yak"), (1, 2, 3)))


@pytest.fixture
def found(data: Annotations) -> diagnosis.Diagnosis:
    return diagnosis.diagnose(data, FOUND, coco.evaluate(data, FOUND))


def test_errors(found: diagnosis.Diagnosis):
    assert {name: number for name, (number, _) in found.errors.items()} == {
        "Cls": 1, "Loc": 1, "Both": 0, "Dupe": 1, "Bkg": 1, "Miss": 1,
    }  # fmt: skip


def test_classes_at_their_best_scores(found: diagnosis.Diagnosis):
    cat, dog, yak = found.classes
    assert (cat.name, cat.boxes, cat.images) == ("cat", 2, 1)
    assert (cat.threshold, cat.precision, cat.recall) == (0.9, 1.0, 0.5)
    assert cat.f1 == pytest.approx(2 / 3)
    assert (dog.name, dog.boxes, dog.images) == ("dog", 2, 2)
    assert (dog.threshold, dog.precision, dog.recall, dog.f1) == (None, None, 0.0, 0.0)
    assert (yak.name, yak.boxes, yak.threshold, yak.f1) == ("yak", 0, None, None)
    assert (cat.metrics["AP50"], yak.metrics["AP"]) == (pytest.approx(51 / 101), None)


def test_f1_counts_every_detection_down_to_the_score(found: diagnosis.Diagnosis):
    def f1(score: float) -> float:
        return float(found.curves.f1[0, np.searchsorted(diagnosis.SCORES, score - 1e-9)])

    assert f1(0.95) == 0.0
    assert f1(0.9) == pytest.approx(2 * 1 / (1 + 2))  # 2 right / (detections + boxes)
    assert f1(0.75) == pytest.approx(2 * 1 / (2 + 2))
    assert f1(0.0) == pytest.approx(2 * 1 / (4 + 2))  # the one in the crowd does not count
    assert np.isnan(found.curves.f1[2]).all()
    assert found.f1 == pytest.approx(1 / 3)
    assert 0.8 < found.threshold <= 0.9


def test_confusions(data: Annotations):
    rows = FOUND.copy()
    rows[:, 5] += 0.05  # all above the threshold
    rows[[0, 3], 5] = 0.4, 0.39
    found = diagnosis.diagnose(data, rows, coco.evaluate(data, rows))
    assert found.threshold <= 0.4
    assert found.confusion.tolist() == [[1, 0, 0, 1], [1, 0, 0, 1], [0] * 4, [1, 1, 0, 0]]
    assert diagnosis.confusions(found.confusion, 5) == [(2, 1, 1)]


def test_candidates(found: diagnosis.Diagnosis):
    assert [(one.image, one.label, one.score, one.what) for one in found.candidates] == [
        (0, 1, 0.8, "annotated as dog, looks like cat"),
        (0, 2, 0.55, "dog: not annotated"),
    ]
    assert found.candidates[0].box == (100, 100, 40, 40)


def test_crowding(found: diagnosis.Diagnosis):
    assert {name: images for name, (images, *_) in found.by_crowding.items()} == {
        "1 or 2": 1, "3 to 5": 1,
    }  # fmt: skip
    assert found.by_crowding["1 or 2"][1:] == (0.0, 0.0)


def test_no_detections(data: Annotations):
    none = np.empty((0, 7))
    found = diagnosis.diagnose(data, none, coco.evaluate(data, none))
    assert found.f1 == 0
    assert found.errors["Miss"][0] == 4
    assert found.candidates == []


def test_numbers_are_those_of_hotcoco(coco_tiny):
    """Boxes of COCO, moved, with random scores and some wrong classes."""
    from fasterrcnn.data import formats
    from fasterrcnn.data.problems import Problems

    data = formats.read(coco_tiny, "val", "auto", (), Problems())
    random = np.random.default_rng(0)
    owner = data.owners()
    labels = np.where(random.random(len(owner)) < 0.1, 3, data.labels)
    moved = data.xywh + random.normal(0, 8, data.xywh.shape)
    moved[:, 2:] = moved[:, 2:].clip(1)
    rows = np.column_stack([owner, moved, random.random(len(owner)), labels])
    found = diagnosis.diagnose(data, rows, coco.evaluate(data, rows))
    evaluator = coco.evaluate_arrays(data, rows)
    known = [one for one in found.classes if one.boxes]
    mean = np.nanmean(found.curves.precision, axis=1)
    by_label = {one.label: one for one in known}
    for label, one in by_label.items():
        assert mean[label - 1] == pytest.approx(one.metrics["AP50"])
    best = [one.f1 for one in known]
    assert np.mean(best) == pytest.approx(evaluator.f_scores()["F1_50"], abs=0.02)  # 101 recalls
    tide = evaluator.tide_errors()
    assert found.errors == {k: (tide["counts"][k], tide["delta_ap"][k]) for k in found.errors}
    assert found.calibration["ece"] == evaluator.calibration()["ece"]
