"""Dataclass fields that describe themselves: help text, choices and flag names."""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    flag: str = "",
    choices: tuple[str, ...] | None = None,
    positional: bool = False,
) -> Any:
    """A dataclass field that `cli.flags` turns into a flag.

    `flag`: additional flag names, separated by spaces (``"-o"``, ``"--lr"``). `positional`: the
    field collects the arguments that are not flags.
    """
    metadata = {"help": help, "flags": flag.split(), "choices": choices, "positional": positional}
    return field(default=default, metadata=metadata)
