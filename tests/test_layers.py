"""Imports go downwards only, and libraries know nothing of ranks, flags, devices and terminals."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGE = PROJECT / "fasterrcnn"
VALUES = {"errors", "processes", "recipes", "schedule", "seeds"}
SERVICES = {
    "checkpoint", "cli", "download", "evaluation", "initial_weights", "metric_log", "profiling",
    "run_folder", "runtime", "step",
}  # fmt: skip
VERBS = {
    "assemble", "benchmark", "compare_proposals", "evaluate", "export", "fetch",
    "import_checkpoint", "make_shapes", "predict", "propose", "recipes.__main__", "report",
    "selective_search", "self_test", "torchrun", "train",
}  # fmt: skip
LIBRARIES = {"data", "importers", "models", "metrics", "drawing"}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def layer(name: str) -> int:
    first = name if name in VERBS else name.split(".")[0]
    for number, names in enumerate((VALUES, LIBRARIES, SERVICES, VERBS), start=1):
        if first in names:
            return number
    raise AssertionError(f"{name}: give it a layer in tests/test_layers.py")


def imported(path: Path) -> set[str]:
    """Modules of the package that `path` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fasterrcnn":
            inside = node.module.removeprefix("fasterrcnn").removeprefix(".")
            for alias in node.names:
                candidate = f"{inside}.{alias.name}".removeprefix(".")
                place = PACKAGE / candidate.replace(".", "/")
                is_module = place.with_suffix(".py").exists() or place.is_dir()
                found.add(candidate if is_module else inside)
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downwards(path: Path):
    own = layer(name_of(path))
    for name in imported(path):
        assert layer(name) <= own, f"{name_of(path)} imports {name}"
        assert layer(name) < 4, f"{name_of(path)} imports the command {name}"


@pytest.mark.parametrize("path", [p for p in MODULES if layer(name_of(p)) == 1], ids=name_of)
def test_plain_values_need_no_torch(path: Path):
    assert "torch" not in {
        (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }


@pytest.mark.parametrize("path", [p for p in MODULES if layer(name_of(p)) == 2], ids=name_of)
def test_libraries_know_no_ranks_flags_devices_or_terminal(path: Path):
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"print", "input", "argparse"}
    constants = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    assert "cuda" not in constants
    assert "distributed" not in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_runtime_speaks_of_cuda_and_process_groups(path: Path):
    text = path.read_text()
    if name_of(path) not in ("runtime", "torchrun"):
        assert "torch.cuda" not in text
        assert "torch.distributed" not in text


def test_public_functions_and_modules_are_documented():
    for path in MODULES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
