"""Dataclass fields that describe themselves: help text, choices, bounds and flag names."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from math import inf, isfinite
from typing import Any

from fasterrcnn.errors import UsageError


@dataclass(frozen=True)
class Bounds:
    """What a number may be, or each number of a tuple: inside these bounds, and finite."""

    least: float = -inf
    most: float = inf
    above: float = -inf  # the number must be larger: by default finite
    below: float = inf  # the number must be smaller: by default finite
    count: int | None = None  # of a tuple's values
    filled: bool = False  # a tuple must have a value

    def allow(self, value: Any) -> bool:
        """Whether a number or a tuple of numbers is within the bounds; NaN never is."""
        values = value if isinstance(value, tuple) else (value,)
        if (self.filled and not values) or self.count not in (None, len(values)):
            return False
        return all(
            self.least <= number <= self.most and self.above < number < self.below
            for number in values
        )

    def __str__(self) -> str:
        count = f"{self.count} values, each " if self.count else ""
        return ("one value or more, each " if self.filled else count) + self._range()

    def _range(self) -> str:
        if isfinite(self.least) and isfinite(self.most):
            return f"{self.least:g} to {self.most:g}"
        if isfinite(self.above) and isfinite(self.most):
            return f"above {self.above:g}, at most {self.most:g}"
        if isfinite(self.least) and isfinite(self.below):
            return f"{self.least:g} to below {self.below:g}"
        if isfinite(self.least):
            return f"{self.least:g} or more"
        return "positive" if self.above == 0 else "a number"


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    flag: str = "",
    choices: tuple[str, ...] | None = None,
    positional: bool = False,
    words: dict[str, int] | None = None,
    **bounds: Any,
) -> Any:
    """A dataclass field that `cli.flags` turns into a flag.

    `flag`: additional flag names, separated by spaces (``"-o"``, ``"--lr"``). `positional`: the
    field collects the arguments that are not flags. `words`: what may be given in place of a number
    within the bounds, and the number that stands for it. `bounds`: of a number or of a tuple's, the
    fields of `Bounds`.
    """
    metadata = {
        "help": help,
        "flags": flag.split(),
        "choices": choices,
        "positional": positional,
        "words": words or {},
        "bounds": Bounds(**bounds),
    }
    return field(default=default, metadata=metadata)


def flag_names(item: Field, group: str = "") -> list[str]:
    """The flags of a field, short ones first; `group`, such as "schedule.", stands before its
    name."""
    return list(dict.fromkeys([*item.metadata["flags"], as_flag(f"{group}{item.name}")]))


def as_flag(name: str) -> str:
    """``"schedule.images_per_gpu"`` -> ``"--schedule.images-per-gpu"``."""
    return "--" + name.replace("_", "-")


def check(flag: str, item: Field, value: Any) -> None:
    """Raise UsageError for a number, or a tuple of numbers, outside the bounds of its field."""
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(number, (int, float)) for number in numbers):
        return
    bounds = item.metadata["bounds"]
    if any(isinstance(number, int) and abs(number) >= 2**63 for number in numbers):
        raise UsageError(f"{flag}: {value}: integers of more than 64 bits are not taken")
    if not bounds.allow(value):
        shown = ",".join(map(str, numbers)) or "none"
        finite = all(-inf < number < inf for number in numbers)
        raise UsageError(f"{flag}: {shown}: must be {bounds}{'' if finite else ' and finite'}")


def check_fields(values: Any, group: str = "") -> None:
    """`check` every field of a dataclass, and of the dataclasses in it, but for numbers that stand
    for a word; and that it is one of its choices, if it has some. Raises UsageError."""
    for item in fields(values):
        value = getattr(values, item.name)
        if is_dataclass(value):
            check_fields(value, f"{item.name}.")
        elif item.metadata and value not in item.metadata["words"].values():
            flag, choices = flag_names(item, group)[0], item.metadata["choices"]
            if choices and value not in (None, *choices):
                raise UsageError(f"{flag}: {value}: must be one of {', '.join(choices)}")
            check(flag, item, value)
