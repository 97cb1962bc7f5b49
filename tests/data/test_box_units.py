"""Boxes that are fractions or corners by mistake."""

import pytest

from fasterrcnn.data import box_units
from fasterrcnn.errors import DataError
from tests.data import make


@pytest.mark.parametrize(
    ("boxes", "mistaken"),
    [
        ([[(0.1, 0.2, 0.3, 0.4)], [(0, 0, 1, 1)]], True),
        ([[(0.1, 0.2, 0.3, 0.4)], [(0, 0, 2, 1)]], False),
        ([[(0.6, 0.2, 0.9, 0.4)]], True),  # corners
        ([[(-0.1, 0.2, 0.3, 0.4)]], False),
        ([[(0, 0, 0, 0)]], False),  # an empty box says nothing
        ([[]], False),
    ],
)
def test_fractions(boxes: list, mistaken: bool):
    annotations = make.annotations_of(boxes)
    if mistaken:
        with pytest.raises(DataError, match=r"^a: no number is above 1: boxes are fractions"):
            box_units.stop_if_fractions(annotations, "a")
    else:
        box_units.stop_if_fractions(annotations, "a")


@pytest.mark.parametrize(
    ("boxes", "mistaken"),
    [
        ([[(300, 300, 390, 401)], [(10, 10, 20, 20)]], True),
        ([[(300, 300, 390, 402)], [(10, 10, 20, 20)]], False),  # not inside as corners either
        ([[(300, 300, 390, 390)], [(10, 10, 5, 20)]], False),
        ([[(300, 300, 100, 101)]], False),  # rounding
        ([[(10, 10, 20, 20)]], False),  # both fit: as the format says
        ([[]], False),
    ],
)
def test_corners(boxes: list, mistaken: bool):
    annotations = make.annotations_of(boxes)
    if mistaken:
        with pytest.raises(
            DataError, match=r"^a: \d of \d boxes leave their images as x y w h, but they fit"
        ):
            box_units.stop_if_corners(annotations, "a")
    else:
        box_units.stop_if_corners(annotations, "a")
