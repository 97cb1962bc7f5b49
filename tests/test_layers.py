"""Imports go downwards only, by folder; libraries know nothing of ranks, flags and terminals."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGE = PROJECT / "fasterrcnn"
LAYERS = {  # folder: layer; modules of the package itself are plain values
    "": 1, "recipes": 1,
    "data": 2, "models": 2, "metrics": 2, "importers": 2, "export": 2, "reports": 2, "safe_load": 2,
    "engine": 3,
    "cli": 4,
    "commands": 5, "api": 5,
}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """``data.coco`` of fasterrcnn/data/coco.py."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def layer(name: str) -> int:
    """The layer of a module, by its folder."""
    if name in ("__main__", "__init__"):  # the doors to commands and api
        return LAYERS["commands"]
    folder = name.split(".")[0]
    return LAYERS[folder if (PACKAGE / folder).is_dir() else ""]


def imported(source: str) -> set[str]:
    """Modules of the package that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("fasterrcnn.")]
            found |= {name.removeprefix("fasterrcnn.") for name in names}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fasterrcnn":
            inside = (node.module or "").removeprefix("fasterrcnn").removeprefix(".")
            for alias in node.names:
                candidate = f"{inside}.{alias.name}".removeprefix(".")
                place = PACKAGE / candidate.replace(".", "/")
                is_module = place.with_suffix(".py").exists() or place.is_dir()
                found.add(candidate if is_module else inside)
    return found


def forbidden(name: str, source: str) -> list[str]:
    """What the layer of module `name` forbids in its source."""
    own, tree = layer(name), ast.parse(source)
    wrong = [f"imports {other}" for other in imported(source) if layer(other) > own]
    wrong += [
        f"imports the command {other}"
        for other in imported(source)
        if other.split(".")[0] == "commands"
    ]
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    if own == 1:
        wrong += [f"imports {module}" for module in _third_party(tree) & {"torch", "torchvision"}]
    if own == 2:
        wrong += [f"uses {word}" for word in names & {"print", "input", "argparse"}]
        wrong += [f"uses {word}" for word in _dotted(tree) & {"sys.stdout", "sys.stderr"}]
        wrong += ["names a device"] * ("cuda" in constants)
    if name not in ("engine.runtime", "engine.gpu", "commands.torchrun"):
        used = _dotted(tree)
        wrong += [f"uses {word}" for word in ("torch.cuda", "torch.distributed") if word in used]
    return wrong


def _dotted(tree: ast.AST) -> set[str]:
    """``torch.cuda`` and the like, as they are imported or written out."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
        if isinstance(node, ast.Import):
            found |= {".".join(alias.name.split(".")[:2]) for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found.add(".".join(node.module.split(".")[:2]))
    return found


def _third_party(tree: ast.AST) -> set[str]:
    return {
        (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_keeps_to_its_layer(path: Path):
    assert forbidden(name_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("models.rpn", "from fasterrcnn.engine import runtime", "imports engine.runtime"),
        ("models.rpn", "from fasterrcnn.cli.flags import parse", "imports cli.flags"),
        ("engine.step", "from fasterrcnn.cli import shared", "imports cli.shared"),
        ("recipes.fields", "from fasterrcnn.models.build import build", "imports models.build"),
        ("schedule", "def f():\n    from fasterrcnn import data", "imports data"),
        ("commands.train", "from fasterrcnn.commands import train", "imports the command"),
        ("api.training", "from fasterrcnn.commands import train", "imports the command"),
        ("cli.inference", "from fasterrcnn.api.inputs import read", "imports api.inputs"),
        ("errors", "import torch", "imports torch"),
        ("data.coco", "print(1)", "uses print"),
        ("metrics.coco", "x.to('cuda')", "names a device"),
        ("engine.step", "torch.cuda.synchronize()", "uses torch.cuda"),
        ("engine.step", "from torch import distributed", "uses torch.distributed"),
        ("models.rpn", "from torch.cuda import synchronize", "uses torch.cuda"),
        ("models.rpn", "import fasterrcnn.engine.runtime", "imports engine.runtime"),
        ("models.rpn", "import sys\nsys.stdout.write('')", "uses sys.stdout"),
    ],
)
def test_what_is_forbidden_is_seen(name: str, source: str, wrong: str):
    assert any(found.startswith(wrong) for found in forbidden(name, source))


def test_folders_do_not_import_each_other_in_circles():
    needs: dict[str, set[str]] = {folder: set() for folder in LAYERS if folder}
    for path in MODULES:
        own = name_of(path).split(".")[0]
        if own in needs:
            needs[own] |= {name.split(".")[0] for name in imported(path.read_text())} & {*needs}
    while needs:
        free = [folder for folder, others in needs.items() if not others - {folder}]
        assert free, f"in a circle: {needs}"
        for folder in free:
            del needs[folder]
        needs = {folder: others - {*free} for folder, others in needs.items()}


def test_no_file_is_long():
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 400, path


def test_no_function_is_long():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 70, f"{path.name}: {node.name}"


def test_public_functions_and_modules_are_documented():
    for path in MODULES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
