"""The commands by name. Their modules are imported only when they are run."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "fasterrcnn.commands"
COMMANDS = {  # name: module in `fasterrcnn.commands`
    "train": "train",
    "evaluate": "evaluate",
    "predict": "predict",
    "propose": "propose",
    "import": "import_checkpoint",
    "export": "export",
    "check-data": "check_data",
    "recipes": "recipes",
    "benchmark": "benchmark",
    "check-gpu": "check_gpu",
    "report": "report",
    "compare": "compare",
    "tables": "tables",
    "compare-proposals": "compare_proposals",
    "selective-search": "selective_search",
    "assemble": "assemble",
    "fetch": "fetch",
    "make-shapes": "make_shapes",
    "self-test": "self_test",
    "torchrun": "torchrun",
}
CONTINUED = ("train", "torchrun")  # those that the same command line continues once they stop


def module_of(name: str) -> str:
    """The module of command `name`, to be imported."""
    return f"{PACKAGE}.{COMMANDS[name]}"


def program(module: str) -> str:
    """What a user types to run the command in `module`, for its help."""
    names = {module_of(name): name for name in COMMANDS}
    return f"fasterrcnn {names.get(module, module)}"


def summary(name: str) -> str:
    """The first line of the command's docstring, read without importing the command."""
    spec = find_spec(module_of(name))
    assert spec is not None and spec.origin is not None
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    assert docstring is not None
    return docstring.splitlines()[0]
