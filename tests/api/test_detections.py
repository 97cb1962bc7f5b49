"""The forms of detections."""

from __future__ import annotations

import sys

import pytest
import torch

from fasterrcnn import Detections
from fasterrcnn.data.annotations import Classes

FOUND = Detections(
    boxes=torch.tensor([[1.0, 2, 11, 22], [0, 0, 5, 5]]),
    scores=torch.tensor([0.75, 0.5]),
    labels=torch.tensor([2, 1]),
    classes=Classes(("cat", "dog"), (17, 18)),
)


def test_names_and_length():
    assert len(FOUND) == 2
    assert FOUND.names == ["dog", "cat"]


def test_coco_has_the_data_sets_own_ids_and_widths():
    assert FOUND.to_coco("a") == [
        {"image_id": "a", "category_id": 18, "bbox": [1, 2, 10, 20], "score": 0.75},
        {"image_id": "a", "category_id": 17, "bbox": [0, 0, 5, 5], "score": 0.5},
    ]


def test_supervision_has_the_same_with_classes_from_0():
    pytest.importorskip("supervision")
    theirs = FOUND.to_supervision()
    assert theirs.xyxy.tolist() == FOUND.boxes.tolist()
    assert theirs.confidence.tolist() == [0.75, 0.5]
    assert theirs.class_id.tolist() == [1, 0]
    assert theirs.data["class_name"].tolist() == ["dog", "cat"]
    none = torch.zeros(0, dtype=torch.long)
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), none, FOUND.classes)
    assert len(empty.to_supervision()) == 0


def test_a_missing_supervision_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ValueError, match="not installed; python -m pip install supervision"):
        FOUND.to_supervision()
