"""Keyword arguments as the flags of a command, so that both are understood and checked alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fasterrcnn.errors import UsageError


def as_flags(given: Mapping[str, Any], options: type) -> list[str]:
    """The words of a command line for fields by name; None: as it is by default.

    options: the command's own, whose switches have no flag for False, which they are by default.
    Raises UsageError.
    """
    switches = {field.name for field in dataclasses.fields(options)}
    words = []
    for name, value in given.items():
        if name == "help":  # which would print the flags and exit
            raise UsageError("help: unknown parameter; docs/python.md says where they are listed")
        flag = name.replace("_", "-")
        if value is None or (value is False and name in switches):
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            several = isinstance(value, (list, tuple))
            words.append(f"--{flag}={','.join(map(str, value)) if several else value}")
    return words
