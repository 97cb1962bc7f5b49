"""The image that stands in for another is a function of shapes and of what is known to be bad."""

import pytest

from fasterrcnn.data import stand_ins
from fasterrcnn.data.stand_ins import StandIns

BUCKET = [0, 1, 0, 0, 1, 0]


def order(i: int, *replaced: int, bucket: list[int] = BUCKET) -> list[int]:
    return list(StandIns(bucket, replaced, skip=True).order(i))


def test_the_next_image_of_the_same_shape_comes_first():
    assert order(0) == [0, 2, 3, 5]
    assert order(3) == [3, 5, 0, 2]
    assert order(4) == [4, 1]
    assert order(0, bucket=[0, 1, 1]) == [0]


def test_a_replaced_image_is_never_used():
    assert order(3, 3, 5) == [0, 2]
    assert order(1, 1, 4) == []


def test_the_search_ends_where_not_the_files_are_to_blame():
    assert order(7, bucket=[0] * 1000) == list(range(7, 107))


def test_an_image_that_is_fine_costs_no_search(monkeypatch: pytest.MonkeyPatch):
    stand_ins_of = StandIns(BUCKET, [], skip=True).order
    with monkeypatch.context() as without:
        without.setattr(stand_ins.np, "flatnonzero", None)  # the search cannot run
        candidates = stand_ins_of(2)
        assert next(candidates) == 2
    assert list(candidates) == [3, 5, 0]
