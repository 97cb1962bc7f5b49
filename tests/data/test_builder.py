"""From parsed images and boxes to flat arrays, checked against the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.builder import Boxes, Builder
from fasterrcnn.data.problems import Problems
from tests.data import make

CLASSES = Classes(("cat", "dog"), (3, 7))
TURNED = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"


@pytest.fixture
def problems() -> Problems:
    return Problems(skip=True)


@pytest.fixture
def builder(tmp_path: Path, problems: Problems) -> Builder:
    """Three images of 40 x 60 px that are added out of order."""
    builder = Builder(tmp_path, problems, lambda where: ("boxes.txt", f"line {where}"))
    for id in (10, 2, "b"):
        make.image(tmp_path / f"{id}.png", 40, 60)
        builder.add_image(id, f"{id}.png", (40, 60), "images.txt", f"image {id}")
    return builder


def add(builder: Builder, id: int | str, *xywh: float, label: int = 1, where: int = 0) -> None:
    builder.add_box(id, label, xywh, False, where)


def test_images_are_sorted_as_in_pycocotools_with_their_boxes_in_order(builder: Builder):
    add(builder, "b", 1, 1, 5, 5)
    add(builder, 10, 2, 2, 5, 5, label=2)
    add(builder, 10, 3, 3, 5, 5)
    columns = (np.array([1]), np.array([2]), np.array([[4.0, 4, 6, 6]]), np.array([9.0]))
    builder.add_boxes(Boxes(*columns, crowd=np.array([True])), [8])
    data = builder.build(CLASSES)
    assert list(data.ids) == ["2", "10", "b"]
    assert data.first.tolist() == [0, 1, 3, 4]
    assert data.owners().tolist() == [0, 1, 1, 2]
    assert data.xywh[:, 0].tolist() == [4, 2, 3, 1]
    assert data.labels.tolist() == [2, 2, 1, 1]
    assert data.area.tolist() == [9, 25, 25, 25]
    assert data.trainable.tolist() == [False, True, True, True]


def test_boxes_that_are_not_used_as_annotated_are_noted_where_they_stand(
    builder: Builder, problems: Problems
):
    boxes = [(0, 0, 60.01, 40), (0, 0, 60.02, 40), (5, 5, 0, 3), (60, 5, 5, 5), (1, 1, 5, 5)]
    for where, box in enumerate([*boxes, boxes[-1]]):
        add(builder, 2, *box, where=where)
    assert builder.build(CLASSES).trainable.tolist() == [True, True, False, False, True, True]
    assert sorted((p.field, p.what, p.action) for p in problems.found) == [
        ("line 1", "box partly outside the image", "clipped"),
        ("line 2", "box of zero width or height", "dropped"),
        ("line 3", "box outside the image", "dropped"),
        ("line 5", "the same box twice", "kept"),
    ]


def test_images_that_cannot_be_used_lose_their_boxes(
    builder: Builder, problems: Problems, tmp_path: Path
):
    (tmp_path / "10.png").unlink()
    make.image(tmp_path / "b.png", 40, 61)
    builder.add_image(2, "other.png", None, "images.txt", "image 4")
    for id in (10, 2, "b", 99):
        add(builder, id, 1, 1, 5, 5)
    data = builder.build(CLASSES)
    assert (len(data), len(data.xywh)) == (0, 0)
    assert [(p.field, p.what) for p in problems.found] == [
        ("image 4/id", "another image has this id too"),
        ("image 10", "missing"),
        ("image b (image b)", "b.png has height 40, width 61"),
    ]


@pytest.mark.parametrize(
    ("size", "expected"),
    [(None, (60, 40, True)), ((60, 40), (60, 40, True)), ((40, 60), (40, 60, False))],
)
def test_boxes_refer_to_the_image_as_displayed_unless_only_the_stored_size_fits(
    tmp_path: Path, problems: Problems, size: tuple[int, int] | None, expected: tuple
):
    make.image(tmp_path / "turned.jpg", 40, 60, exif=TURNED)
    builder = Builder(tmp_path, problems, lambda where: (where, ""))
    builder.add_image(1, "turned.jpg", size, "images.txt", "image 1")
    assert {id: image[:3] for id, image in builder.usable.items()} == {1: expected}
