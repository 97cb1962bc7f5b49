"""Boxes around shapes, computed by hand."""

import math

import pytest

from fasterrcnn.data import enclosing


def test_box_around_points():
    assert enclosing.of_points([(5, 30), (20, 10), (12.5, 40)]) == [5, 10, 15, 30]


@pytest.mark.parametrize(
    ("radians", "box"),
    [
        (0, [40, 40, 20, 40]),
        (math.pi / 2, [30, 50, 40, 20]),
        (-math.pi, [40, 40, 20, 40]),
        (math.pi / 6, [50 - (10 * 3**0.5 + 20) / 2, 60 - (10 + 20 * 3**0.5) / 2,
                       10 * 3**0.5 + 20, 10 + 20 * 3**0.5]),
    ],
)  # fmt: skip
def test_box_around_a_rotated_box(radians: float, box: list[float]):
    assert enclosing.of_rotated(50, 60, 20, 40, radians) == pytest.approx(box)


def test_box_around_an_ellipse():
    assert enclosing.of_ellipse(50, 60, 10, 20, 0) == [40, 40, 20, 40]
    assert enclosing.of_ellipse(50, 60, 10, 20, math.pi / 2) == pytest.approx([30, 50, 40, 20])
    half = math.sqrt(10**2 / 2 + 20**2 / 2)
    turned = enclosing.of_ellipse(50, 60, 10, 20, math.pi / 4)
    assert turned == pytest.approx([50 - half, 60 - half, 2 * half, 2 * half])
