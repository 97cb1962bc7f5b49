"""Bounds of every number that a user can give, through the parser and for recipes in Python."""

from __future__ import annotations

import dataclasses
import sys
from importlib import import_module
from math import inf, isfinite, nan, nextafter
from typing import Any, get_args, get_type_hints

import pytest

from fasterrcnn import recipes
from fasterrcnn.cli import flags, names
from fasterrcnn.commands import train
from fasterrcnn.errors import UsageError
from fasterrcnn.settings import Bounds, as_flag, flag_names

RECIPE = recipes.get("fasterrcnn_r50_fpn_1x")
UNBOUNDED = {  # numbers that may be any finite one, and why
    "recipe seed": "it is hashed",
    "recipe input.image_mean": "it is subtracted; how many there are is bounded",
}


@dataclasses.dataclass
class Number:
    """A field of numbers: of the recipe, or of a command's options."""

    owner: str  # "recipe" or a command
    name: str
    field: dataclasses.Field
    kind: type  # int or float
    is_tuple: bool
    default: Any

    @property
    def flag(self) -> str:
        return flag_names(self.field, "".join(self.name.rpartition(".")[:2]))[0]

    def parse(self, value: Any) -> Any:
        """What the command's own parser makes of the flag's value."""
        given = [f"{as_flag(self.name)}={recipes.as_text(value)}"]
        if self.owner == "recipe":
            recipe, _ = flags.parse_with_recipe(train.Options, given, "test")
            return recipes.flat(recipe)[self.name]
        options = import_module(names.module_of(self.owner)).Options
        for item in dataclasses.fields(options):
            if item.default is dataclasses.MISSING:
                word = (item.metadata["choices"] or ("x",))[0]
                given += [word] if item.metadata["positional"] else [as_flag(item.name), word]
        return getattr(flags.parse(options, given, "test"), self.name)

    def values(self, number: float) -> Any:
        """A value of the field that holds `number`."""
        if not self.is_tuple:
            return number
        return tuple(map(self.kind, (number, *self.default[1:])))


def numbers_of(owner: str, kind: type, instance: Any = None, group: str = "") -> list[Number]:
    found = []
    types = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        default = field.default if instance is None else getattr(instance, field.name)
        if dataclasses.is_dataclass(default) and instance is not None:
            found += numbers_of(owner, type(default), default, f"{field.name}.")
            continue
        of = {types[field.name], *get_args(types[field.name])} & {int, float}
        if of:
            is_tuple = isinstance(default, tuple)
            name = f"{group}{field.name}"
            found.append(Number(owner, name, field, of.pop(), is_tuple, default))
    return found


def every_number() -> list[Number]:
    found = numbers_of("recipe", recipes.Recipe, RECIPE)
    for command in names.COMMANDS:
        options = getattr(import_module(names.module_of(command)), "Options", None)
        if options is not None:
            found += numbers_of(command, options)
    return found


NUMBERS = every_number()


def beside(bounds: Bounds, kind: type) -> tuple[list[float], list[float]]:
    """The numbers just inside and just outside of each bound."""
    inside, outside = [], []
    for limit, away, is_allowed in (
        (bounds.least, -inf, True), (bounds.most, inf, True),
        (bounds.above, inf, False), (bounds.below, -inf, False),
    ):  # fmt: skip
        if isfinite(limit):
            step = (1 if away > 0 else -1) if kind is int else 0
            next_one = kind(limit) + step if kind is int else nextafter(limit, away)
            (inside if is_allowed else outside).append(kind(limit))
            (outside if is_allowed else inside).append(next_one)
    return inside, outside + ([inf, -inf, nan] if kind is float else [])


def test_an_integer_that_torch_cannot_hold():
    with pytest.raises(UsageError, match=r"--seed: 10{20}: integers of more than 64 bits"):
        recipes.check(recipes.change(RECIPE, seed=10**20))


def test_there_are_numbers_and_each_has_bounds_or_a_reason():
    assert len(NUMBERS) > 90
    unbounded = set()
    for number in NUMBERS:
        bounds = number.field.metadata["bounds"]
        limits = (bounds.least, bounds.most, bounds.above, bounds.below)
        if not any(map(isfinite, limits)):
            unbounded.add(f"{number.owner} {number.name}")
    assert unbounded == set(UNBOUNDED)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: f"{number.owner} {number.name}")
def test_each_bound_is_kept(number: Number):
    bounds = number.field.metadata["bounds"]
    inside, outside = beside(bounds, number.kind)
    for value in map(number.values, inside):
        assert number.parse(value) == value
    wrong = [number.values(value) for value in outside]
    if bounds.count:
        usual = number.default
        wrong += [usual[:-1], (*usual, usual[-1])]
    if bounds.filled:
        wrong.append(())
    for value in wrong:
        start = f"{number.flag}: {recipes.as_text(value) or 'none'}: must be {bounds}"
        with pytest.raises(UsageError) as error:
            number.parse(value)
        assert str(error.value).removesuffix(" and finite") == start
        if number.owner == "recipe":
            group, _, leaf = number.name.rpartition(".")
            changes = {group: {leaf: value}} if group else {leaf: value}
            with pytest.raises(UsageError) as error:
                recipes.check(recipes.change(RECIPE, **changes))
            assert str(error.value).removesuffix(" and finite") == start


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_every_recipe_is_within_the_bounds(name: str):
    recipes.check(recipes.get(name))


def test_commands_refuse_in_one_line_before_any_work(shell, tmp_path):
    out = tmp_path / "run"
    for word in ("--lr=-1", "--workers=-1"):  # of a recipe, and of the command
        done = shell([sys.executable, "-m", "fasterrcnn", "train", "--output-dir", out, word])
        flag, _, value = word.partition("=")
        assert done.code == 2
        assert done.out == ""
        (line,) = done.err.splitlines()
        assert line.startswith(f"error: {flag}: {value}")
        assert ": must be " in line
    assert not out.exists()
