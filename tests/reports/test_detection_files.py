"""Files of detections for other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn.data.annotations import Classes
from fasterrcnn.errors import StorageError
from fasterrcnn.reports import detection_files

CLASSES = Classes(("cat", "big/dog"), (7, 9))
FOUND = {
    "boxes": torch.tensor([[10.0, 20, 30, 60], [0, 0, 0.2, 0.2]]),
    "labels": torch.tensor([2, 1]),
    "scores": torch.tensor([0.75, 0.5]),
}
NOTHING = {name: value[:0] for name, value in FOUND.items()}


def test_rows_are_cocos():
    first, second = detection_files.rows(5, "x.jpg", FOUND, CLASSES)
    assert first == {
        "image_id": 5,
        "file_name": "x.jpg",
        "category_id": 9,
        "category_name": "big/dog",
        "bbox": [10, 20, 20, 40],
        "score": 0.75,
    }
    assert second["category_id"] == 7


def test_tables_are_whole_whenever_they_are_closed(tmp_path: Path):
    for count in (0, 1, 3):
        tables = detection_files.Tables(tmp_path / "new" / "x.json", tmp_path / "x.csv")
        for k in range(count):
            tables.add(detection_files.rows(k, "a, b.jpg", FOUND, CLASSES))
        tables.close()
        rows = json.loads((tmp_path / "new" / "x.json").read_text())
        lines = (tmp_path / "x.csv").read_text().splitlines()
        assert len(rows) == len(lines) - 1 == 2 * count
        assert lines[0] == "image_id,file_name,category_id,category_name,score,x,y,width,height"
    assert lines[1] == '0,"a, b.jpg",9,big/dog,0.7500,10.00,20.00,20.00,40.00'


def test_no_file_is_emptied_if_one_cannot_be_written(tmp_path: Path):
    (tmp_path / "x.json").write_text("kept")
    with pytest.raises(StorageError, match=r"--csv: .*: cannot be written \(Is a directory\)"):
        detection_files.Tables(tmp_path / "x.json", tmp_path)
    assert (tmp_path / "x.json").read_text() == "kept"


def test_labels_are_yolos_with_scores(tmp_path: Path):
    detection_files.write_labels(tmp_path / "sub" / "x.txt", (100, 200), FOUND)
    first, second = (tmp_path / "sub" / "x.txt").read_text().splitlines()
    assert first == "1 0.100000 0.400000 0.100000 0.400000 0.750000"
    assert second == "0 0.000500 0.001000 0.001000 0.002000 0.500000"
    detection_files.write_labels(tmp_path / "sub" / "x.txt", (100, 200), NOTHING)
    assert (tmp_path / "sub" / "x.txt").read_text() == ""


def test_crops_are_cut_out_into_a_folder_per_class(tmp_path: Path):
    image = torch.zeros(3, 100, 200, dtype=torch.uint8)
    image[0, 20:60, 10:30] = 255
    detection_files.write_crops(tmp_path, "sub/x.y.jpg", image, FOUND, CLASSES.names)
    files = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.jpg"))
    assert files == ["big_dog/sub/x.y-1.jpg", "cat/sub/x.y-2.jpg"]
    with Image.open(tmp_path / files[0]) as crop:
        assert crop.size == (20, 40)
        assert np.asarray(crop)[:, :, 0].min() > 240, "only the red box"
    with Image.open(tmp_path / files[1]) as crop:
        assert crop.size == (1, 1)
