"""Values of json: what is one number, and what can be shown."""

from typing import Any

import pytest

from fasterrcnn.data import json_values


@pytest.mark.parametrize(
    ("id", "table", "found"),
    [
        (7, {7: 0}, 7),
        (7, {"7": 0}, "7"),
        (7.0, {7: 0}, 7),
        (7.0, {"7": 0}, "7"),
        ("7", {7: 0}, 7),
        ("7", {"7": 0, 7: 1}, "7"),
        ("07", {"7": 0}, None),
        (7.5, {"7.5": 0, 7: 1}, None),
        (True, {1: 0, "1": 1, "True": 2}, None),
        ([7], {7: 0}, None),
    ],
)
def test_known(id: Any, table: dict, found: Any):
    assert json_values.known(id, table) == found


@pytest.mark.parametrize(
    ("value", "number"),
    [(7, 7), ("7", 7), (" 7.5 ", 7.5), ("1e3", 1000), ("1_0", None), (1e9, None), (10**400, None),
     ("nan", None), ("seven", None), (True, None), (None, None), ([7], None)],
)  # fmt: skip
def test_number(value: Any, number: float | None):
    assert json_values.number(value) == number


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a", '"a"'),
        ({"a": [1]}, '{"a": [1]}'),
        (nested(100_000), "(list, too long to be shown)"),
        (10**5000, "(int, too long to be shown)"),
    ],
    ids=["text", "object", "nested", "digits"],
)
def test_shown(value: Any, shown: str):
    assert json_values.shown(value) == shown
    assert len(json_values.short([value, "x" * 100])) <= 60
