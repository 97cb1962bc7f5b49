"""Values of json as people and tools write them: 7, 7.0 and "7" are one number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fasterrcnn.data import text
from fasterrcnn.errors import DataError

LIMIT = 1e9  # of a number, so that areas stay finite too

Struct = TypeVar("Struct", bound=msgspec.Struct)


class Wrong(Exception):
    """A value that cannot be used: its field in the row, the value, what is wrong."""


def load(data: bytes, path: Path) -> Any:
    """The content of a json file, NaN and infinities included. Raises DataError."""
    try:
        return json.loads(text.decode(data, path))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise DataError(f"{path}: {place}: not json: {error.msg}; repair the file") from None
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{path}: not json: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply for an annotation file") from None


def as_struct(row: Any, kind: type[Struct]) -> Struct | None:
    """The row as a struct; None if it does not fit."""
    if isinstance(row, dict):  # whose strings may be no Unicode, which msgspec refuses
        return kind(**{name: row[name] for name in kind.__struct_fields__ if name in row})
    if not isinstance(row, msgspec.Raw):
        return None
    try:
        return msgspec.json.decode(row, type=kind)
    except msgspec.ValidationError:
        return None


def is_unicode(string: str) -> bool:
    """Whether a string can be written to a file; json can hold half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in string)


def as_object(row: Any) -> Any:
    """The row as a plain object."""
    return msgspec.json.decode(row) if isinstance(row, msgspec.Raw) else row


def known(id: Any, table: Mapping[Any, int]) -> Any:
    """`id` as it stands in `table`, where "7", 7 and 7.0 are one id; None if it is not there."""
    number = whole(id)
    text = None if number is None or isinstance(id, str) else str(number)
    candidates = [identifier(id), number, text]
    return next((c for c in candidates if c is not None and c in table), None)


def identifier(value: Any) -> int | str | None:
    """A whole number or a string; None for anything else."""
    if isinstance(value, str):
        return value if is_unicode(value) else None
    return whole(value)


def whole(value: Any) -> int | None:
    """The whole number that `value` is: 7, 7.0 or "7"; None if it is none."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    found = number(value)
    return int(found) if found is not None and found.is_integer() else None


def number(value: Any) -> float | None:
    """The finite number below 1e9 that `value` is, also as text; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and "_" in value:  # float("1_0") is 10
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) < LIMIT else None


def shown(value: Any) -> str:
    """`value` as json, for messages."""
    try:
        return json.dumps(value, default=str)
    except (RecursionError, ValueError):  # of lists in lists, or an integer of thousands of digits
        return f"({type(value).__name__}, too long to be shown)"


def short(value: Any) -> str:
    """`value` as json of at most 60 characters, for messages."""
    text = shown(value)
    return text if len(text) <= 60 else text[:57] + "..."
