"""What is found about a data set, as values and lines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fasterrcnn import recipes
from fasterrcnn.data import statistics
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.duplicates import Duplicates, Member
from fasterrcnn.data.problems import Problem
from fasterrcnn.metrics.anchors import Recall
from fasterrcnn.reports import data_report
from fasterrcnn.reports.data_report import Anchors, Report
from tests.data.make import annotations_of


def report(**splits: Annotations) -> Report:
    """Of splits without problems."""
    return Report(
        data_path="/data/x",
        format="coco",
        recipe="r",
        splits=[statistics.describe(name, data) for name, data in splits.items()],
        problems=[],
        failures=[],
        odd={name: [] for name in splits},
        duplicates=Duplicates([], [], []),
        anchors=None,
    )


def test_odd_boxes_are_those_hotcoco_warns_of():
    """The first two are nearly the same, the fourth is 30 times as long as wide; the last two are
    the same, but crowds."""
    boxes = [(0, 0, 100, 100), (0, 0, 100, 99), (200, 0, 50, 50), (0, 300, 300, 10)]
    crowds = [(200, 200, 20, 20)] * 2
    found = data_report.odd_boxes(annotations_of([boxes + crowds], crowd=[4, 5]))
    assert [(b.index, b.what.split()[0]) for b in found] == [
        (3, "more"),
        (0, "nearly"),
        (1, "nearly"),
    ]


def test_lines_of_a_good_data_set():
    found = report(
        train=annotations_of([[(0, 0, 10, 10)], []]), val=annotations_of([[(0, 0, 9, 9)]])
    )
    assert data_report.lines(found) == [
        "/data/x: coco; splits: train, val",
        "train: 2 images, 1 boxes (1 small, 0 medium, 0 large), 1 images without boxes",
        "val: 1 images, 1 boxes (1 small, 0 medium, 0 large), 0 images without boxes",
        "1 classes: thing 1 + 1",
        "no problem in the annotations",
        "no image twice",
    ]
    bars = [statistics.Bin(k, k + 1, count) for k, count in enumerate((0, 1, 50, 400))]
    deep = replace(found, values=bars, value_range="1,3")
    assert data_report.lines(deep)[-1] == (
        "values of the training images: 0  ▁▁█ 4; --input.value-range 1,3"
    )


def test_lines_of_problems_name_the_first_of_each_kind():
    zero = [
        Problem(f"{i}.xml", f"object {i}", "[1, 2, 0, 5]", "no area", "dropped") for i in range(7)
    ]
    fault = Problem("a.json", "/x", "NaN", "not a number", "stop")
    found = replace(report(), problems=[fault, *zero])
    assert data_report.lines(found)[1:9] == [
        "7 x no area: dropped",
        *(f"  {i}.xml: object {i}: [1, 2, 0, 5]" for i in range(5)),
        "  and 2 more",
        "1 x not a number: stop",
    ]
    assert found.faults == [fault]


def test_lines_of_equal_images():
    one, two = Member("train", 0, "a.jpg"), Member("val", 3, "b.jpg")
    found = replace(report(), duplicates=Duplicates([[one, one]], [[one, two]], []))
    assert data_report.lines(found)[2:] == [
        "1 x in several splits: the same image",
        "  train: a.jpg = val: b.jpg",
        "1 x in one split several times: the same image",
        "  train: a.jpg = train: a.jpg",
    ]


def test_lines_of_anchors():
    before, after = (Recall(9, recall, []) for recall in ((0.9, 0.5), (0.95, 0.75)))
    found = Anchors("--given", "--fitted", {"train": before}, {"train": after}, {})
    assert data_report.lines(replace(report(), anchors=found))[-2:] == [
        "anchor recall on train, of r -> fitted: 90.0 -> 95.0 % at IoU 0.5, 50.0 -> 75.0 % at "
        "IoU 0.7",
        "fitted anchors: --fitted",
    ]
    found = replace(found, fitted="--given")
    assert data_report.lines(replace(report(), anchors=found))[-1] == (
        "no better anchors found than --given"
    )


def test_anchors_are_measured_on_every_split_with_boxes():
    recipe = recipes.get("fasterrcnn_r50_fpn_1x")
    splits = {"train": annotations_of([[(10, 20, 30, 40)]]), "val": annotations_of([[]])}
    found = data_report.fit_anchors(splits, recipe, (4, 8, 16, 32, 64))
    assert found is not None
    assert list(found.before) == list(found.after) == ["train"]
    assert [(bar.low, bar.boxes) for bar in found.sides["train"]] == [(64.0, 1)]  # 60 x 80 px
    assert found.before["train"].boxes == 1
    assert data_report.fit_anchors({"val": splits["val"]}, recipe, (4, 8, 16, 32, 64)) is None


def test_anchors_are_measured_at_the_size_that_images_are_jittered_to():
    recipe = recipes.get("fasterrcnn_r50_fpn_1x")
    jittered = recipes.change(recipe, augment=dict(jitter=True, jitter_size=1600))
    splits = {"train": annotations_of([[(10, 20, 30, 40)]])}
    found = data_report.fit_anchors(splits, jittered, (4, 8, 16, 32, 64))
    assert found is not None
    assert [(bar.low, bar.boxes) for bar in found.sides["train"]] == [(128.0, 1)]  # 120 x 160 px


@pytest.mark.parametrize("name", ["train", "val"])
def test_classes_without_boxes_are_named(name: str):
    data = annotations_of([[(0, 0, 9, 9)]])
    data = replace(
        data, classes=replace(data.classes, names=("thing", "none"), category_ids=(1, 2))
    )
    assert f"1 classes without a box in {name}: none" in data_report.lines(report(**{name: data}))
