"""Flags from dataclass fields.

A field's type, default and `settings.setting` metadata make its flag. Everyday fields have a short
name (``--lr``); every recipe field also has its dotted one (``--schedule.lr``). The last flag wins.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from fasterrcnn import recipes
from fasterrcnn.cli import names
from fasterrcnn.errors import UsageError
from fasterrcnn.settings import as_flag, check, flag_names

Options = TypeVar("Options")


class _Parser(argparse.ArgumentParser):
    """Raises UsageError instead of printing the usage: one line says what is wrong."""

    def __init__(self, kind: type, docstring: str | None) -> None:
        prog = names.program(kind.__module__)
        super().__init__(
            prog=prog,
            description=(docstring or "").partition("\n\n")[0],
            allow_abbrev=False,
            add_help=False,
            argument_default=argparse.SUPPRESS,
            usage=f"{prog} [flags]",
            formatter_class=lambda prog: argparse.HelpFormatter(
                prog, max_help_position=34, width=100
            ),
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}; --help lists the flags")

    def parse(self, argv: list[str] | None) -> dict[str, Any]:
        """The values given, by field name."""
        refuse_empty(argv)
        required = [a for a in self._actions if a.required and a.option_strings]
        for action in required:  # only after the unknown flags: one of them may be what is missing
            action.required = False
        found, unknown = self.parse_known_args(argv)
        if unknown:
            raise UsageError(f"{unknown[0]}: {self._hint(unknown[0].split('=')[0])}")
        values = vars(found)
        if missing := ["/".join(a.option_strings) for a in required if a.dest not in values]:
            self.error(f"the following arguments are required: {', '.join(missing)}")
        return values

    def _hint(self, flag: str) -> str:
        """What may have been meant by an unknown flag."""
        field = flag.removeprefix("--").replace("-", "_")
        if field in recipes.RENAMED_FIELDS:
            return f"renamed to {as_flag(recipes.RENAMED_FIELDS[field])}"
        flags = [flag for action in self._actions for flag in action.option_strings]
        close = difflib.get_close_matches(flag, flags, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"unknown flag{hint} (--help lists them)"


def refuse_empty(argv: Sequence[str] | None) -> None:
    """Raise UsageError for ``--flag=--``, which argparse takes for a flag with no value."""
    for word in sys.argv[1:] if argv is None else argv:
        if word.startswith("-") and word.endswith("=--"):
            raise UsageError(f"{word[:-3]}: --: not a value; --help lists the flags")


def parse(kind: type[Options], argv: list[str] | None, docstring: str | None) -> Options:
    """A command's options from its flags; `docstring` is the module's, for --help.

    Raises UsageError.
    """
    parser = _Parser(kind, docstring)
    group = parser.add_argument_group("flags")
    group.add_argument("-h", "--help", action="help", help="show this help and exit")
    _add_fields(group, kind)
    given = parser.parse(argv)
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def parse_with_recipe(
    kind: type[Options], argv: list[str] | None, docstring: str | None
) -> tuple[recipes.Recipe, Options]:
    """The recipe named by --recipe with the user's changes, and the options. Raises UsageError."""
    refuse_empty(argv)
    only_recipe = _Parser(kind, docstring)
    only_recipe.add_argument("--recipe", default=next(iter(recipes.RECIPES)))
    base = recipes.get(only_recipe.parse_known_args(argv)[0].recipe)

    parser = _Parser(kind, docstring)
    everyday = parser.add_argument_group("everyday flags")
    everyday.add_argument("-h", "--help", action="help", help="show this help and exit")
    everyday.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"recipe to start from: 'fasterrcnn recipes' lists all {len(recipes.RECIPES)} "
        f"(default: {base.name}); the defaults below are its values",
    )
    _add_fields(everyday, kind)
    _add_recipe(parser, everyday, base)
    given = parser.parse(argv)
    given.pop("recipe", None)
    own = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type] # a dataclass
    options = kind(**{key: value for key, value in given.items() if key in own})
    return _changed(base, {k: v for k, v in given.items() if k not in own}), options


def parse_with_network(
    kind: type[Options], argv: list[str] | None, docstring: str | None
) -> tuple[Options, dict[str, Any]]:
    """A command's options, and the fields of a recipe's network and input that were given, by
    dotted name. Raises UsageError."""
    parser = _Parser(kind, docstring)
    group = parser.add_argument_group("flags")
    group.add_argument("-h", "--help", action="help", help="show this help and exit")
    _add_fields(group, kind)
    types = get_type_hints(recipes.Recipe)
    for name in ("input", "backbone", "rpn", "roi_heads"):
        of_recipe = parser.add_argument_group(f"recipe, {name}", types[name].__doc__)
        inner_types = get_type_hints(types[name])
        for field in dataclasses.fields(types[name]):
            dest = f"{name}.{field.name}"
            flags = flag_names(field, f"{name}.")
            _add(of_recipe, flags, dest, inner_types[field.name], field, None)
    given = parser.parse(argv)
    fields = {name: value for name, value in given.items() if "." in name}
    own = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k not in fields}
    return kind(**own), fields


def _changed(base: recipes.Recipe, given: dict[str, Any]) -> recipes.Recipe:
    """`base` with the given values, by dotted name.

    Values derived from others (the learning rate from the batch size) follow them unless they are
    given themselves.
    """
    recipe = base
    if (name := given.get("backbone.name")) is not None:
        from fasterrcnn.models import any_backbone  # only now: it needs torch

        recipe = recipes.change(recipe, **any_backbone.stated(name))
    if (optimizer := given.get("schedule.optimizer")) is not None:
        recipe = recipes.with_optimizer(recipe, optimizer)
    if (lr_scheduler := given.get("schedule.lr_scheduler")) is not None:
        recipe = recipes.with_lr_scheduler(recipe, lr_scheduler)
    if (epochs := given.get("schedule.epochs")) is not None:
        recipe = recipes.with_epochs(recipe, epochs)
    if (images := given.get("schedule.images_per_step")) is not None:
        recipe = recipes.with_images_per_step(recipe, images)
    if given.get("weights") == "coco":
        recipe = recipes.with_coco_weights(recipe)
    if given.get("input.bands") or given.get("input.channels", 3) not in (0, 3):
        recipe = recipes.with_measured_pixels(recipe)
    for name, value in given.items():
        group, _, leaf = name.rpartition(".")
        recipe = recipes.change(recipe, **{group: {leaf: value}} if group else {leaf: value})
    return recipe


def _add_fields(group: Any, kind: type) -> None:
    types = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.metadata["positional"]:
            inner = get_args(types[field.name])[0]
            help = field.metadata["help"]
            count = "+" if field.default is dataclasses.MISSING else "*"
            group.add_argument(
                field.name, nargs=count, type=inner, metavar=field.name.upper(), help=help
            )
        else:
            _add(group, flag_names(field), field.name, types[field.name], field, field.default)


def _add_recipe(parser: _Parser, everyday: Any, base: recipes.Recipe) -> None:
    """Every field of the recipe, those with a short name among the everyday flags."""
    types = get_type_hints(recipes.Recipe)
    for outer in dataclasses.fields(recipes.Recipe):
        value = getattr(base, outer.name)
        if not dataclasses.is_dataclass(value):
            if outer.name != "name":
                _add(everyday, flag_names(outer), outer.name, types[outer.name], outer, value)
            continue
        group = parser.add_argument_group(f"recipe, {outer.name}", type(value).__doc__)
        inner_types = get_type_hints(type(value))
        for field in dataclasses.fields(value):
            dest = f"{outer.name}.{field.name}"
            _add(
                everyday if field.metadata["flags"] else group,
                flag_names(field, f"{outer.name}."),
                dest, inner_types[field.name], field, getattr(value, field.name),
            )  # fmt: skip


def _add(group: Any, flags: list[str], dest: str, kind: Any, field: Any, default: Any) -> None:
    required = default is dataclasses.MISSING
    silent = required or default in (None, "", ()) or default is False
    shown = "" if silent else f" (default: {recipes.as_text(default)})"
    help = (field.metadata["help"] + shown).replace("%", "%%")
    if kind is bool:
        action = argparse.BooleanOptionalAction if "." in dest else "store_true"
        group.add_argument(*flags, dest=dest, action=action, help=help)
        return
    group.add_argument(
        *flags,
        dest=dest,
        type=_checked(_converter(kind), flags[0], field),
        choices=field.metadata.get("choices"),
        required=required,
        metavar=None if field.metadata.get("choices") else _metavar(kind),
        help=help,
    )


def _plain(kind: Any) -> Any:
    """``int | None`` -> int."""
    options = [arg for arg in get_args(kind) if arg is not type(None)]
    return options[0] if options and get_origin(kind) is not tuple else kind


def _converter(kind: Any) -> Callable[[str], Any]:
    kind = _plain(kind)
    if get_origin(kind) is not tuple:
        return kind
    inner = get_args(kind)[0]

    def convert(text: str) -> tuple:
        return tuple(inner(part.strip()) for part in text.split(",") if part.strip())

    convert.__name__ = f"comma-separated {inner.__name__}"  # argparse names it in errors
    return convert


def _checked(convert: Callable[[str], Any], flag: str, field: Any) -> Callable[[str], Any]:
    """`convert` that raises UsageError for a value outside the bounds of its field, which has no
    word for it."""

    def convert_and_check(text: str) -> Any:
        words = field.metadata["words"]
        if text in words:
            return words[text]
        try:
            value = convert(text)
        except ValueError:
            if not words:
                raise
            raise UsageError(f"{flag}: {text}: must be a number or {' or '.join(words)}") from None
        check(flag, field, value)
        return value

    convert_and_check.__name__ = convert.__name__  # argparse names it in errors
    return convert_and_check


def _metavar(kind: Any) -> str:
    kind = _plain(kind)
    if get_origin(kind) is tuple:
        return ",".join([get_args(kind)[0].__name__.upper()] * 2) + ",..."
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")
