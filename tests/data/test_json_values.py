"""What a value of json means, and what cannot be meant."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fasterrcnn.data import json_values

NONE = (None, True, [], {}, "seven", "", float("nan"), float("inf"), "nan", 1e9, 10**400)


@pytest.mark.parametrize("value", [7, 7.0, "7", "7.0", " 7 "])
def test_ways_to_write_a_whole_number(value: Any):
    assert json_values.whole(value) == json_values.number(value) == 7
    assert type(json_values.whole(value)) is int


@pytest.mark.parametrize("value", [*NONE[:-1], 7.5, "7.5"])
def test_no_whole_number(value: Any):
    assert json_values.whole(value) is None


def test_numbers():
    assert json_values.number("-2.5e1") == -25
    assert [json_values.number(value) for value in NONE] == [None] * len(NONE)


def test_identifiers():
    assert json_values.identifier("7b") == "7b"
    assert json_values.identifier(7.0) == 7
    assert json_values.identifier(10**400) == 10**400
    for value in (None, True, [7], 7.5, "\ud800"):
        assert json_values.identifier(value) is None


class Row(msgspec.Struct):
    id: int
    name: str = "none"


def test_rows_of_both_parsers():
    raw = msgspec.Raw(b'{"id": 3, "more": 1}')
    assert json_values.as_struct(raw, Row) == Row(3)
    assert json_values.as_struct({"id": 3, "more": 1}, Row) == Row(3)
    assert json_values.as_struct(msgspec.Raw(b'{"id": "x"}'), Row) is None
    assert json_values.as_struct([3], Row) is None
    assert json_values.as_object(raw) == {"id": 3, "more": 1}
    assert json_values.as_object([3]) == [3]


def test_messages_show_values_in_short():
    assert json_values.short({"a": [1, None]}) == '{"a": [1, null]}'
    assert json_values.short("x" * 100) == '"' + "x" * 56 + "..."


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
