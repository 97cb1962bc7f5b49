"""Flags from dataclass fields, errors as one line, exit codes.

A field's type, default and `recipes.setting` metadata make its flag: everyday fields have a short
name (``--lr``), every recipe field also its dotted one (``--schedule.lr``). The last flag wins.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from fasterrcnn import recipes, runtime
from fasterrcnn.errors import Failure, Stopped, StorageError, UsageError

Options = TypeVar("Options")
PROJECT = Path(__file__).resolve().parent.parent


class _Parser(argparse.ArgumentParser):
    """Prints no usage on errors: one line says what is wrong."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description,
            allow_abbrev=False,
            add_help=False,
            argument_default=argparse.SUPPRESS,
            usage="%(prog)s [flags]",
            formatter_class=lambda prog: argparse.HelpFormatter(
                prog, max_help_position=34, width=100
            ),
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}; --help lists the flags")

    def parse(self, argv: list[str] | None) -> dict[str, Any]:
        """The values given, by field name."""
        values, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            close = difflib.get_close_matches(unknown[0].split("=")[0], flags, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"{unknown[0]}: unknown flag{hint} (--help lists them)")
        return vars(values)


def parse_options(kind: type[Options], argv: list[str] | None, description: str) -> Options:
    """A command's options from its flags. Raises UsageError."""
    parser = _Parser(description)
    group = parser.add_argument_group("flags")
    group.add_argument("-h", "--help", action="help", help="show this and stop")
    _add_fields(group, kind)
    given = parser.parse(argv)
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def parse_recipe_and_options(
    kind: type[Options], argv: list[str] | None, description: str
) -> tuple[recipes.Recipe, Options]:
    """The recipe named by --recipe with the user's changes, and the options. Raises UsageError."""
    name = _Parser(description)
    name.add_argument("--recipe", default=next(iter(recipes.RECIPES)))
    base = recipes.get(name.parse_known_args(argv)[0].recipe)

    parser = _Parser(description)
    everyday = parser.add_argument_group("everyday flags")
    everyday.add_argument("-h", "--help", action="help", help="show this and stop")
    everyday.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"one of {len(recipes.RECIPES)}, listed by python -m fasterrcnn.recipes "
        f"(default: {base.name}); below, its values",
    )
    _add_fields(everyday, kind)
    _add_recipe(parser, everyday, base)
    given = parser.parse(argv)
    given.pop("recipe", None)
    own = {field.name for field in dataclasses.fields(kind)}
    options = kind(**{key: value for key, value in given.items() if key in own})
    return _changed(base, {k: v for k, v in given.items() if k not in own}), options


def output_root() -> Path:
    """The folder of run folders: $OUTPUT_DIR, else output/ of the project."""
    return Path(os.environ.get("OUTPUT_DIR") or PROJECT / "output")


def run(main: Callable[[], Any]) -> NoReturn:
    """Call `main` and exit: with 0, or with a Failure's lines on stderr and its code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background ignores it
    try:
        with runtime.expected_failures():
            main()
        code = 0
    except Failure as failure:
        code = _report(failure)
    except OSError as error:  # of what is written besides a run, say to --json
        if error.filename is None:
            raise
        code = _report(StorageError(f"{error.filename}: {error.strerror}; give another place"))
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.exit(code)


def _report(failure: Failure) -> int:
    """Print the failure unless another rank of this run already did; its exit code."""
    status = os.environ.get("FASTERRCNN_STATUS")  # set by fasterrcnn.torchrun, one file per run
    try:
        if status:
            with Path(status).open("x") as file:
                json.dump({"code": failure.code, "message": str(failure)}, file)
    except FileExistsError:
        return failure.code
    label = "stopped" if isinstance(failure, Stopped) else "error"
    for line in str(failure).splitlines():
        print(f"{label}: {line}", file=sys.stderr)
    return failure.code


def _changed(base: recipes.Recipe, given: dict[str, Any]) -> recipes.Recipe:
    """`base` with the given dotted values; what follows from them follows unless given itself."""
    recipe = base
    if (epochs := given.get("schedule.epochs")) is not None:
        recipe = recipes.with_epochs(recipe, epochs)
    if (images := given.get("schedule.images_per_step")) is not None:
        recipe = recipes.with_images_per_step(recipe, images)
    if given.get("weights") == "coco":
        recipe = recipes.with_coco_weights(recipe)
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
            flags = [*field.metadata["flags"], _flag(field.name)]
            _add(group, flags, field.name, types[field.name], field, field.default)


def _add_recipe(parser: _Parser, everyday: Any, base: recipes.Recipe) -> None:
    """Every field of the recipe, those with a short name among the everyday flags."""
    types = get_type_hints(recipes.Recipe)
    for outer in dataclasses.fields(recipes.Recipe):
        value = getattr(base, outer.name)
        if not dataclasses.is_dataclass(value):
            if outer.name != "name":
                flags = outer.metadata["flags"]
                _add(everyday, flags, outer.name, types[outer.name], outer, value)
            continue
        group = parser.add_argument_group(f"recipe, {outer.name}", type(value).__doc__)
        inner_types = get_type_hints(type(value))
        for field in dataclasses.fields(value):
            dest = f"{outer.name}.{field.name}"
            short = field.metadata["flags"]
            _add(
                everyday if short else group,
                [*short, _flag(dest)],
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
        type=_converter(kind),
        choices=field.metadata.get("choices"),
        required=required,
        metavar=None if field.metadata.get("choices") else _metavar(kind),
        help=help,
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


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


def _metavar(kind: Any) -> str:
    kind = _plain(kind)
    if get_origin(kind) is tuple:
        return ",".join([get_args(kind)[0].__name__.upper()] * 2) + ",..."
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")
