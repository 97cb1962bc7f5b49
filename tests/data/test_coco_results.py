"""COCO's result json, written and read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data import coco_results, formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError
from fasterrcnn.metrics import coco
from tests.data import make

FOUND = np.array([[0, 1.25, 2, 30, 20, 0.9, 1], [1, 5, 5, 10, 10, 1 / 3, 2]])
ROW = {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.fixture
def data(tmp_path: Path):
    make.coco(tmp_path / "data")
    return formats.read(tmp_path / "data", "train", "auto", (), Problems())


def write(tmp_path: Path, *rows) -> Path:
    file = tmp_path / "found.json"
    file.write_text(json.dumps(rows))
    return file


def test_round_trip(data, tmp_path: Path):
    coco_results.write(tmp_path / "found.json", data, FOUND)
    assert coco_results.read(tmp_path / "found.json", data).tolist() == FOUND.tolist()
    first = json.loads((tmp_path / "found.json").read_text())[0]
    assert first == {
        "image_id": int(data.ids[0]),
        "category_id": data.classes.category_ids[0],
        "bbox": [1.25, 2, 30, 20],
        "score": 0.9,
    }


def test_pycocotools_reads_it_and_has_the_same_ap(data, tmp_path: Path, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = np.column_stack([data.owners(), data.xywh, data.labels])
    found = np.insert(truth[~data.crowd], 5, 0.8, axis=1)
    found[0, 1:3] += 2
    coco_results.write(tmp_path / "found.json", data, found)
    gt = COCO(str(tmp_path / "data" / "annotations" / "instances_train2017.json"))
    evaluator = COCOeval(gt, gt.loadRes(str(tmp_path / "found.json")), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    ap = coco.evaluate(data, found)["AP"]
    assert 0 < ap < 1
    assert evaluator.stats[0] == pytest.approx(ap, abs=1e-9)


def test_entries_of_any_framework(data, tmp_path: Path):
    id, category = int(data.ids[0]), data.classes.category_ids[1]
    file = write(
        tmp_path,
        {"image_id": float(id), "category_id": str(category), "bbox": [0, 0, 0, 4], "score": 1,
         "segmentation": [], "area": 3},
        {"image_id": 1, "file_name": data.files[1], "category_id": category,
         "bbox": [1.5, 0, 3, 4], "score": "0.25"},
    )  # fmt: skip
    assert coco_results.read(file, data).tolist() == [
        [0, 0, 0, 0, 4, 1, 2], [1, 1.5, 0, 3, 4, 0.25, 2],
    ]  # fmt: skip


def test_no_detections(data, tmp_path: Path):
    assert coco_results.read(write(tmp_path), data).shape == (0, 7)


def test_ids_that_are_no_numbers(tmp_path: Path):
    make.image(tmp_path / "images" / "train" / "a.png", 40, 60)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    data = formats.read(tmp_path, "train", "auto", (), Problems())
    coco_results.write(tmp_path / "found.json", data, FOUND[:1])
    (row,) = json.loads((tmp_path / "found.json").read_text())
    assert row["image_id"] == data.ids[0]
    assert coco_results.read(tmp_path / "found.json", data).tolist() == FOUND[:1].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 10**20}, "/0/image_id: 100000000000000000000: not an image of this split"),
        ({"image_id": None}, "/0/image_id: null: not an image"),
        ({"file_name": "other.jpg"}, '/0/file_name: "other.jpg": not an image'),
        ({"category_id": 99}, "/0/category_id: 99: not a category of this data set"),
        ({"bbox": [1, 2, 3]}, "/0/bbox: .*must be x, y, width, height"),
        ({"bbox": [1, 2, -3, 4]}, "/0/bbox: "),
        ({"bbox": [1, 2, float("nan"), 4]}, "/0/bbox: "),
        ({"bbox": 5}, "/0/bbox: "),
        ({"score": None}, "/0/score: null: must be a number"),
        ({"score": float("inf")}, "/0/score: Infinity"),
    ],
)
def test_what_cannot_be_used(data, tmp_path: Path, change: dict, message: str):
    row = ROW | {"image_id": int(data.ids[0]), "category_id": data.classes.category_ids[0]}
    with pytest.raises(DataError, match=message):
        coco_results.read(write(tmp_path, row | change), data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "must be a list of detections"),
        ("[1]", "/0: 1: must be an object"),
        ("[", "not json"),
        ("", "not json"),
        ("[" * 100000, "nested too deeply"),
    ],
)
def test_what_is_no_result_file(data, tmp_path: Path, content: str, message: str):
    (tmp_path / "found.json").write_text(content)
    with pytest.raises(DataError, match=message):
        coco_results.read(tmp_path / "found.json", data)
    with pytest.raises(DataError, match="missing"):
        coco_results.read(tmp_path / "none.json", data)
