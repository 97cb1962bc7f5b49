"""Rows of YOLO label files: every reading, and the phrase for what has none."""

from __future__ import annotations

import numpy as np
import pytest

from fasterrcnn.data.yolo_rows import Row, Rows, look_like_corners

CLASSES = (0, 1, 7)


def parse(line: str, keypoints: tuple[int, int] | None = None) -> Row | str:
    return Rows(CLASSES, keypoints).parse(line)


@pytest.mark.parametrize(
    ("line", "category", "box"),
    [
        ("0 0.5 0.4 0.3 0.2", 0, (0.5, 0.4, 0.3, 0.2)),
        ("7.0\t5.0e-01 .4 +0.3 2e-1", 7, (0.5, 0.4, 0.3, 0.2)),
        ("1.000000e+00\u00a00.5 0.4  0.3 0.2", 1, (0.5, 0.4, 0.3, 0.2)),
        ("0 0.5 0.4 0 0", 0, (0.5, 0.4, 0, 0)),  # without area: noted later
        ("0 1.01 -0.01 1 1.01", 0, (1.01, -0.01, 1, 1.01)),
    ],
)
def test_boxes(line: str, category: int, box: tuple[float, ...]):
    assert parse(line) == Row(category, box)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.2 0.2 0.4 0.2 0.3 0.6", (0.3, 0.4, 0.2, 0.4)),
        ("0 0.2 0.2 0.4 0.2 0.4 0.6 0.2 0.6", (0.3, 0.4, 0.2, 0.4)),
        ("0 -0.2 0.5 0.5 -0.4 1.2 0.5 0.5 1.4", (0.5, 0.5, 1.4, 1.8)),  # an oriented box
        ("0 0 0 1 0 1 1 0.5 1 0 1", (0.5, 0.5, 1, 1)),
    ],
)
def test_outlines(line: str, box: tuple[float, ...]):
    row = parse(line)
    assert isinstance(row, Row)
    assert row.box == pytest.approx(box)
    assert row.note == ("polygon or oriented box", "its enclosing box is used")


@pytest.mark.parametrize(
    ("line", "keypoints"),
    [
        ("0 0.5 0.4 0.3 0.2 0.5 0.5 0.6 0.6 0.4 0.4", (3, 2)),
        ("0 0.5 0.4 0.3 0.2 0.5 0.5 2 0 0 0", (2, 3)),
        ("0 0.5 0.4 0.3 0.2 0.5 0.5 0.93", (1, 3)),  # a confidence as visibility
        ("0 0.5 0.4 0.3 0.2 1.7 0.5 1", (1, 3)),  # a keypoint outside
        ("0 0.5 0.4 0.3 0.2", (17, 3)),
    ],
)
def test_declared_keypoints(line: str, keypoints: tuple[int, int]):
    assert parse(line, keypoints) == Row(0, (0.5, 0.4, 0.3, 0.2))


def test_keypoints_that_cannot_be_a_polygon_need_no_declaration():
    triples = " ".join(f"0.5 0.4 {k % 3}" for k in range(17))
    note = ("box with keypoints", "box used")
    assert parse(f"1 0.5 0.4 0.3 0.2 {triples}") == Row(1, (0.5, 0.4, 0.3, 0.2), note)
    # of eleven numbers, but a visibility of 2 is no coordinate
    assert parse("1 0.5 0.4 0.3 0.2 0.5 0.4 2 0.5 0.4 0") == Row(1, (0.5, 0.4, 0.3, 0.2), note)


@pytest.mark.parametrize(
    ("line", "keypoints", "what"),
    [
        ("1", None, "five numbers"),
        ("1 0.5 0.5 0.25", None, "five numbers: class index, center x, center y, width, height"),
        ("dog 0.5 0.5 0.25 0.5", None, "given by its index, not its name"),
        ("1,0.5,0.5,0.25,0.5", None, "with spaces between them, not commas"),
        ("1, 0.5, 0.5, 0.25, 0.5", None, "with spaces between them, not commas"),
        ("1;0.5;0.5;0.25;0.5", None, "with spaces between them"),
        ("1 0,5 0,5 0,25 0,5", None, "with decimal points, not commas"),
        ("1 0.5 0.5 0.25 x", None, "five numbers"),
        ("1 0.5 0.5 0.25 0_5", None, "five numbers"),
        ("# comment", None, "five numbers"),
        ("1 0.5 0.5 0.25 0.5 0.93", None, "a sixth number, as predictions have a confidence"),
        ("1 0.5 0.5 0.25 0.5 0.93 0.1 0.1", None, "has 8 numbers: 5 are a box"),
        ("2 0.5 0.5 0.25 0.5", None, "no class has the index 2; the classes go from 0 to 7"),
        ("8 0.1 0.1 0.2 0.1 0.2 0.2", None, "no class has the index 8"),
        ("-1 0.5 0.5 0.25 0.5", None, "-1 is not a class index"),
        ("0.5 0.5 0.5 0.25 0.5", None, "0.5 is not a class index"),
        ("nan 0.5 0.5 0.25 0.5", None, "nan is not a class index"),
        ("1e999 0.5 0.5 0.25 0.5", None, "1e999 is not a class index"),
        ("1 0.5 0.5 -0.25 0.5", None, "width and height must not be negative"),
        ("1 -0.5 0.5 0.25 0.5", None, "fractions between 0 and 1"),
        ("1 nan 0.5 0.25 0.5", None, "fractions between 0 and 1"),
        ("1 0.5 0.5 0.5 inf", None, "fractions between 0 and 1"),
        ("1 1.2 0.5 0.25 0.5", None, "fractions between 0 and 1"),
        ("1 50 50 25 50", None, "percent or pixels: divide by 100"),
        ("1 300 200 150 20", None, "pixels: divide by the image's width and height"),
        ("1 10 10 20 10 300 300", None, "pixels: divide by the image's width and height"),
        ("1 0.1 0.1 0.2 0.1 0.2 nan", None, "fractions between 0 and 1"),
        ("1 0.5 0.5 0.5 0.5 0.4 0.4 1 0.6 0.6 0", None, "write kpt_shape: [2, 3] into data.yaml"),
        ("1 0.1 0.1 0.2 0.1 0.2 0.2", (2, 3), "7 numbers; kpt_shape: [2, 3] makes rows of 5"),
        ("1 0.1 0.1 0.2 0.1 0.2 0.2", (2, 3), "a polygon is not read where keypoints are"),
        ("1 0.1 0.1 0.2 0.1 0.2 0.2 0.1", (2, 3), "has 8 numbers"),
        ("1 0.5 0.5 1.25 0.5 0.4 0.4", (1, 2), "fractions between 0 and 1"),
    ],
)
def test_faulty_rows(line: str, keypoints: tuple[int, int] | None, what: str):
    phrase = parse(line, keypoints)
    assert isinstance(phrase, str)
    assert what in phrase
    assert "\n" not in phrase


def test_the_way_out_for_a_polygon_that_reads_as_keypoints():
    rows = Rows(CLASSES, None)
    polygon = "1 0.5 0.5 0.5 0.5 0.4 0.4 1 0.6 0.6 0"
    phrase = rows.parse(polygon)
    assert isinstance(phrase, str)
    assert "repeat its first point at the end" in phrase
    row = rows.parse(f"{polygon} 0.5 0.5")
    assert isinstance(row, Row)
    assert row.note == ("polygon or oriented box", "its enclosing box is used")


def test_corners_need_most_boxes_to_fit():
    corners = np.array([[0.1, 0.1, 0.9, 0.9], [0.7, 0.7, 0.8, 0.8], [0.3, 0.3, 0.35, 0.35]])
    assert look_like_corners(corners) == 2
    assert look_like_corners(corners[2:]) == 0  # stays inside either way
    assert look_like_corners(np.zeros((0, 4))) == 0
    centers = np.array([[0.5, 0.5, 1.0, 1.0], [0.3, 0.3, 0.5, 0.5]])
    assert look_like_corners(centers) == 0  # fit as corners, but none leaves the image
    edge = np.array([[0.95, 0.5, 0.2, 0.5], [0.02, 0.5, 0.1, 0.2]])
    assert look_like_corners(edge) == 0  # leave the image, but are no corners
