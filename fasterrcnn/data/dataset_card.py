"""Class names in what describes a data set of the Hugging Face hub: README.md and its like."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from fasterrcnn.data import text
from fasterrcnn.data.problems import Problems

_FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\n---", re.DOTALL)
_MAX_CHARACTERS, _MAX_LISTS = 2**16, 200  # of yaml, read in 3 s at worst: more than names need
_FILES = ("README.md", "dataset_info.json", "dataset_infos.json")


def class_names(root: Path, fields: Sequence[str], problems: Problems) -> dict[int, str] | None:
    """The names of the class numbers in one of the `fields` of a data set; None if no file has
    them. A file that cannot be read, or several different lists, become notes."""
    tables: list[dict[int, str]] = []
    for path in (root / name for name in _FILES if (root / name).is_file()):
        try:
            for names in _lists(_content(path), fields, False, set()):
                if (table := _table(names)) and table not in tables:
                    tables.append(table)
        except Exception as error:  # yaml's constructors raise many kinds on odd values
            what = f"class names cannot be read ({' '.join(str(error).split())[:80]})"
            problems.note(path, "names", path.name, what, "left out")
    if len(tables) > 1:
        value = "; ".join(", ".join(table.values()) for table in tables)
        problems.note(root, "names", value, "different lists of class names", "left out")
    return tables[0] if len(tables) == 1 else None


def _content(path: Path) -> Any:
    """The structured part of a file. Raises many kinds of errors."""
    written = text.read_text(path)
    if path.suffix == ".json":
        return json.loads(written)
    match = _FRONT_MATTER.match(written)
    if match is None:
        return None
    if len(match[1]) > _MAX_CHARACTERS or match[1].count("[") > _MAX_LISTS:
        raise ValueError("more than a list of names")
    if "<<" in match[1]:  # can multiply without end
        raise ValueError("merge keys are not read")
    return yaml.safe_load(match[1])


def _lists(node: Any, fields: Sequence[str], inside: bool, seen: set[tuple[int, bool]]) -> Iterator:
    """The class names in any of the `fields` below `node`; aliases of yaml are visited once."""
    if isinstance(node, (dict, list)):
        if (id(node), inside) in seen:
            return
        seen.add((id(node), inside))
    if isinstance(node, list):
        for item in node:
            yield from _lists(item, fields, inside, seen)
    elif isinstance(node, dict):
        inside = inside or node.get("name") in fields
        if inside and node.get("_type", "ClassLabel") == "ClassLabel" and "names" in node:
            yield node["names"]
        for key, value in node.items():
            yield from _lists(value, fields, inside or key in fields, seen)


def _table(names: Any) -> dict[int, str] | None:
    """Number -> name of a list, or of a mapping with numbers as keys; None for anything else."""
    table = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(table, dict) or not all(str(key).isdecimal() for key in table):
        return None
    by_number = {int(key): str(name) for key, name in table.items()}
    return by_number if len({*by_number.values()}) == len(by_number) else None
