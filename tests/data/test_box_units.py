"""Boxes that are fractions or corners by mistake."""

import pytest

from fasterrcnn.data import box_units
from tests.data import make


@pytest.mark.parametrize(
    ("boxes", "mistake"),
    [
        ([[(0.1, 0.2, 0.3, 0.4)], [(0, 0, 1, 1)]], "fractions of the image"),
        ([[(0.1, 0.2, 0.3, 0.4)], [(0, 0, 2, 1)]], None),
        ([[(0, 0, 0, 0)]], None),  # an empty box says nothing
        ([[]], None),
        ([[(300, 300, 390, 401)], [(10, 10, 20, 20)]], "corners x1 y1 x2 y2"),
        ([[(300, 300, 390, 402)], [(10, 10, 20, 20)]], None),  # not inside as corners either
        ([[(300, 300, 390, 390)], [(10, 10, 5, 20)]], None),
        ([[(300, 300, 100, 101)]], None),  # rounding
        ([[(10, 10, 20, 20)]], None),  # both fit: as the format says
    ],
)
def test_mistakes(boxes: list, mistake: str | None):
    found = box_units.mistake(make.annotations_of(boxes))
    assert found is None if mistake is None else mistake in str(found)
