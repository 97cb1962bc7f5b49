"""Ids and boxes of images, by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.known_images import KnownImages
from fasterrcnn.errors import DataError, UsageError


@pytest.fixture
def known(tmp_path: Path) -> KnownImages:
    def image(id: int, name: str) -> dict:
        return {"id": id, "file_name": name, "height": 40, "width": 60}

    names = ("a.jpg", "val/b.jpg", "one/c.jpg", "two/c.jpg")
    boxes = [(1, 8, [1, 2, 3, 4]), (0, 9, [5, 5, 9, 9]), (1, 9, [10, 10, 10, 10])]
    content = {
        "images": [image(100 + k, name) for k, name in enumerate(names)],
        "annotations": [
            {"id": k, "image_id": 100 + i, "category_id": c, "bbox": box, "area": 9, "iscrowd": 0}
            for k, (i, c, box) in enumerate(boxes)
        ],
        "categories": [{"id": 8, "name": "cat"}, {"id": 9, "name": "dog"}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    return KnownImages(tmp_path / "x.json")


def test_an_image_is_found_by_its_name_or_the_last_part_of_it(known: KnownImages):
    names = ("a.jpg", "val/b.jpg", "b.jpg", "anywhere/b.jpg", "one/c.jpg", "two/c.jpg")
    known.check(names)
    assert [known.get(name).id for name in names] == [100, 101, 101, 101, 102, 103]
    with pytest.raises(UsageError, match=r"x\.json: /images: c\.jpg has no file_name here \(nor"):
        known.check(["a.jpg", "c.jpg", "d.jpg"])  # one/c.jpg or two/c.jpg?


def test_boxes_are_corners_with_the_names_of_their_classes(known: KnownImages):
    image = known.get("b.jpg")
    assert image.boxes.tolist() == [[1, 2, 4, 6], [10, 10, 20, 20]]
    assert image.names == ("cat", "dog")
    assert image.size == known.size("b.jpg") == (40, 60)
    assert known.get("a.jpg").names == ("dog",)
    assert known.get("one/c.jpg").boxes.shape == (0, 4)
    assert known.size("gone.jpg") is None


def test_category_ids_are_the_files(known: KnownImages):
    assert known.category_ids(Classes(("dog", "cat"), (1, 2))) == (9, 8)
    with pytest.raises(UsageError, match="has no category cow; leave that class out with --cl"):
        known.category_ids(Classes(("dog", "cow"), (1, 2)))


def test_a_file_that_is_none(tmp_path: Path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match=r"x\.json: "):
        KnownImages(tmp_path / "x.json")
    with pytest.raises(DataError, match="missing"):
        KnownImages(tmp_path / "gone.json")
