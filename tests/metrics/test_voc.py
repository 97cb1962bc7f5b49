"""VOC metrics: cases by hand, and equal to the devkit's rules written down plainly on real data."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.problems import Problems
from fasterrcnn.metrics import voc
from tests.data import make
from tests.metrics.test_coco import detections

HERE, THERE, AWAY = (0, 0, 10, 10), (20, 0, 10, 10), (50, 50, 10, 10)


def ap(boxes: list[list[tuple]], rows: list[tuple], crowd: list[int] | None = None) -> tuple:
    """AP_07 and AP_10 of one class; rows: image, box, score."""
    found = np.array([[image, *box, score, 1] for image, box, score in rows]).reshape(-1, 7)
    results = voc.evaluate(make.annotations_of(boxes, crowd=crowd), found)
    (values,) = results["per_class"].values()
    assert (results["mAP_07"], results["mAP_10"]) == (values["AP_07"], values["AP_10"])
    return values["AP_07"], values["AP_10"]


def test_a_duplicate_is_false():
    """True, false, true of 2: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.

    07: recalls 0 to 0.5 have 1, the other five 2/3. 10: half at 1, half at 2/3.
    """
    rows = [(0, HERE, 0.9), (0, HERE, 0.8), (0, THERE, 0.7)]
    assert ap([[HERE, THERE]], rows) == pytest.approx(((6 + 5 * 2 / 3) / 11, 5 / 6))


def test_of_two_the_better_scored_is_true_though_it_fits_less():
    """True at IoU 0.6, then false at IoU 1: precision 1, 1/2 at recall 1."""
    assert ap([[HERE]], [(0, HERE, 0.8), (0, (0, 0, 6, 10), 0.9)]) == (1, 1)


def test_a_second_choice_is_not_made():
    """Both overlap the first gt box most, by 0.9 and 0.74: true and false, though the other one is
    free and the second detection overlaps it by 0.6. Recall 1/2: 07 counts recalls 0 to 0.5."""
    boxes = [[(0, 0, 10, 10), (4, 0, 10, 10)]]
    rows = [(0, (0, 0, 9, 10), 0.9), (0, (1.5, 0, 10, 10), 0.8)]
    assert ap(boxes, rows) == pytest.approx((6 / 11, 1 / 2))


def test_difficult_is_neither_true_nor_false_nor_missed():
    """Difficult, difficult, true, false of 1: precision 0, 0, 1, 1/2 at recall 0, 0, 1, 1."""
    rows = [(0, THERE, 0.9), (0, THERE, 0.8), (0, HERE, 0.7), (0, AWAY, 0.6)]
    assert ap([[HERE, THERE]], rows, crowd=[1]) == (1, 1)
    before = (0, AWAY, 0.95)  # false first: 0, 0, 0, 1/2, 1/3
    assert ap([[HERE, THERE]], [before, *rows], crowd=[1]) == (0.5, 0.5)


def test_an_iou_of_exactly_one_half_is_enough():
    """The devkit's ovmax >= minoverlap; Python copies of it say >."""
    assert ap([[HERE]], [(0, (0, 0, 5, 10), 0.9)]) == (1, 1)
    assert ap([[HERE]], [(0, (0, 0, 4.999, 10), 0.9)]) == (0, 0)


def test_an_image_without_gt_has_only_false_ones():
    """False, true of 1: precision 0, 1/2."""
    assert ap([[], [HERE]], [(0, HERE, 0.9), (1, HERE, 0.8)]) == (0.5, 0.5)


def test_ties_are_taken_by_image_whatever_the_order_of_rows():
    """All 0.5: image 0 is false, then image 1 true: best precision 1/2. In one image the order of
    rows decides."""
    rows = [(1, HERE, 0.5), (0, AWAY, 0.5)]
    assert ap([[], [HERE]], rows) == (0.5, 0.5)
    assert ap([[], [HERE]], rows[::-1]) == (0.5, 0.5)
    assert ap([[HERE]], [(0, HERE, 0.5), (0, AWAY, 0.5)]) == (1, 1)
    assert ap([[HERE]], [(0, AWAY, 0.5), (0, HERE, 0.5)]) == (0.5, 0.5)


def test_a_recall_of_exactly_three_tenths_counts():
    """3 of 10, all true: 07 has recalls 0, 0.1, 0.2 and 0.3; 10 an area of 3/10."""
    boxes = [[(20 * k, 0, 10, 10) for k in range(10)]]
    rows = [(0, box, 0.9) for box in boxes[0][:3]]
    assert ap(boxes, rows) == pytest.approx((4 / 11, 0.3))


def test_classes_and_images_are_apart_and_classes_without_gt_left_out():
    """Class a is found in the wrong image, b as a; c has only difficult gt, d none."""
    data = make.annotations_of([[HERE, THERE, AWAY], [THERE]], crowd=[2])
    data = replace(
        data, labels=np.array([1, 2, 3, 2]), classes=Classes(tuple("abcd"), (1, 2, 3, 4))
    )
    found = np.array([
        [1, *HERE, 0.9, 1], [0, *THERE, 0.9, 1], [1, *THERE, 0.9, 2], [0, *AWAY, 0.9, 3],
        [0, *AWAY, 0.9, 4],
    ])  # fmt: skip
    results = voc.evaluate(data, found)
    assert results["per_class"]["a"] == {"AP_07": 0, "AP_10": 0}
    assert results["per_class"]["b"] == pytest.approx({"AP_07": 6 / 11, "AP_10": 1 / 2})
    assert results["per_class"]["c"] == results["per_class"]["d"] == {"AP_07": None, "AP_10": None}
    assert (results["mAP_07"], results["mAP_10"]) == pytest.approx((3 / 11, 1 / 4))
    curves = voc.precision_recall(data, found)
    assert {name: [x.tolist() for x in curve] for name, curve in curves.items()} == {
        "a": [[0, 0], [0, 0]], "b": [[1], [0.5]],
    }  # fmt: skip


def test_without_detections_or_gt():
    assert ap([[HERE]], []) == (0, 0)
    assert ap([[], []], [(0, HERE, 0.9)]) == (None, None)
    with np.errstate(all="raise"):  # 0 / 0 is no IoU
        assert ap([[(5, 5, 0, 0)]], [(0, (5, 5, 0, 0), 0.9)]) == (0, 0)


# The devkit's rules once more: one detection after the other, pixels counted from 1.


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """IoU of xmin ymin xmax ymax, both ends inside."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def pixels(xywh: np.ndarray) -> tuple[float, ...]:
    """xmin ymin xmax ymax, counted from 1."""
    x, y, w, h = map(float, xywh)
    return x + 1, y + 1, x + w, y + h


def devkit(data: Annotations, found: np.ndarray, label: int) -> tuple[float, float]:
    """AP_07 and AP_10 of one class."""
    gt_boxes: dict[int, list[dict]] = {}
    for i in range(len(data)):
        own = [k for k in range(data.first[i], data.first[i + 1]) if data.labels[k] == label]
        gt_boxes[i] = [
            {"box": pixels(data.xywh[k]), "difficult": data.crowd[k], "found": False} for k in own
        ]
    positives = sum(not gt["difficult"] for own in gt_boxes.values() for gt in own)
    rows = sorted((row for row in found if row[6] == label), key=lambda row: (-row[5], row[0]))
    true = false = 0
    points = []
    for row in rows:
        overlap_of = [overlap(pixels(row[1:5]), t["box"]) for t in gt_boxes[int(row[0])]]
        best = max(overlap_of, default=0.0)
        gt = gt_boxes[int(row[0])][overlap_of.index(best)] if best >= 0.5 else None
        if gt is None:
            false += 1
        elif not gt["difficult"]:
            true, false = true + (not gt["found"]), false + gt["found"]
            gt["found"] = True
        points.append((Fraction(true, positives), true / (true + false) if true + false else 0.0))
    eleven = [max((p for r, p in points if r >= Fraction(t, 10)), default=0.0) for t in range(11)]
    under, before = 0.0, Fraction(0)
    for k, (recall, _) in enumerate(points):
        under += float(recall - before) * max(p for _, p in points[k:])
        before = recall
    return sum(eleven) / 11, under


@pytest.mark.parametrize(
    ("seed", "per_box", "noise", "decimals"), [(0, 1, 0.5, 9), (1, 2, 8.0, 1), (2, 4, 25.0, 9)]
)
def test_equal_to_the_devkit_on_real_boxes(
    bccd_voc: Path, seed: int, per_box: int, noise: float, decimals: int
):
    """Its IoU counts pixels, ours measures between edges: on declared boxes they are one."""
    data = formats.read(bccd_voc, "test", "voc", (), Problems())
    difficult = np.random.RandomState(seed).rand(len(data.labels)) < 0.15
    data = replace(data, crowd=difficult)
    found = detections(data, seed, per_box, noise, decimals)
    results = voc.evaluate(data, found)
    expected = {
        name: devkit(data, found, label) for label, name in enumerate(data.classes.names, start=1)
    }
    for name, (eleven, under) in expected.items():
        assert 0 < eleven < 1
        assert abs(results["per_class"][name]["AP_07"] - eleven) < 1e-12
        assert abs(results["per_class"][name]["AP_10"] - under) < 1e-12
    means = np.mean(list(expected.values()), axis=0)
    assert np.abs(means - [results["mAP_07"], results["mAP_10"]]).max() < 1e-12


def test_iou_of_edges_is_that_of_pixels():
    """Whole and broken numbers, apart and touching: pixels 1 to 5 and 6 to 9 share none."""
    random = np.random.RandomState(0)
    a, b = random.randint(0, 12, (2, 300, 4)) + random.choice([0, 0.25], (2, 300, 4))
    a[:, 2:], b[:, 2:] = a[:, 2:] + 1, b[:, 2:] + 1
    a[0], b[0] = (0, 0, 5, 5), (5, 0, 4, 5)
    assert overlap((1, 1, 5, 5), (6, 1, 9, 5)) == 0
    expected = [overlap(pixels(one), pixels(other)) for one, other in zip(a, b, strict=True)]
    assert 50 < np.count_nonzero(expected) < 250
    assert np.abs(voc._iou(a, b) - expected).max() < 1e-15
