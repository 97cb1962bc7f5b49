"""The package as others get it: its commands, its dependencies, and what is in its wheel."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from fasterrcnn.cli import names
from tests.conftest import HANG, PROJECT, command

PYPROJECT = (PROJECT / "pyproject.toml").read_text()
STARTED = """
import sys
sys.argv[1:] = {argv!r}
from fasterrcnn.__main__ import main
try:
    main()
finally:
    print(*sorted({{name.partition('.')[0] for name in sys.modules}}), file=sys.stderr)
"""


def requirements(path: str) -> list[str]:
    """The lines of a requirements file that require something."""
    lines = (PROJECT / path).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def listed(key: str) -> list[str]:
    """The strings of a list in pyproject.toml (Python 3.10 cannot read TOML)."""
    (text,) = re.findall(rf"^{key} = (\[.*?\])$", PYPROJECT, re.MULTILINE | re.DOTALL)
    return ast.literal_eval(text)


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!;\[ ]", requirement)[0].replace("_", "-").lower()


def numbers(version: str) -> tuple[int, ...]:
    """`2.11.0+cu130` -> (2, 11); pyproject's bounds have no more than three parts."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def inside(version: str, requirement: str) -> bool:
    """Whether a version is within the bounds `name>=low,<high`."""
    low, high = re.fullmatch(r"[\w-]+>=([\d.]+),<([\d.]+)", requirement).groups()
    return numbers(low) <= numbers(version) < numbers(high)


# The commands


def test_help_lists_every_command_with_a_line(shell):
    done = shell(command("--help"), cwd="/")
    assert done.code == 0, done.err
    for name in names.COMMANDS:
        assert re.search(rf"^  {name} +\S.*[.?]$", done.out, re.MULTILINE), name
    assert "python -m" not in done.out
    assert shell(command("--help")[:-1], cwd="/").out == done.out


@pytest.mark.parametrize("argv", [["--help"], ["trian"]])
def test_what_runs_no_command_imports_nothing_but_the_standard_library(shell, argv: list[str]):
    done = shell([sys.executable, "-c", STARTED.format(argv=argv)], cwd="/")
    loaded = set(done.err.splitlines()[-1].split())
    assert "fasterrcnn" in loaded
    assert not loaded & {
        "torch",
        "torchvision",
        "numpy",
        "PIL",
        "matplotlib",
        "yaml",
        "tqdm",
        "jinja2",
    }


def test_importing_the_package_imports_nothing_but_the_standard_library(shell):
    """So that it takes no time; `load` and the rest import torch when they are asked for."""
    lines = (
        "import sys, fasterrcnn",
        "print(sorted(sys.modules.keys() & {'torch', 'numpy', 'PIL', 'fasterrcnn.api'}))",
        "print(all(getattr(fasterrcnn, name).__module__.startswith('fasterrcnn.api.')",
        "          for name in fasterrcnn.__all__))",
        "print(hasattr(fasterrcnn, 'nothing'))",
    )
    done = shell([sys.executable, "-c", "\n".join(lines)], cwd="/")
    assert done.out.split() == ["[]", "True", "False"], done.err


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("trian", "; did you mean train?"), ("self_test", "; did you mean self-test?"), ("xyz", "")],
)
def test_an_unknown_command_is_one_line_and_exit_code_2(shell, typed: str, hint: str):
    done = shell(command(typed), cwd="/")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: {typed}: unknown command{hint} (fasterrcnn --help lists them)\n"


def test_the_environment_has_the_command(shell):
    door = PROJECT / ".venv" / "bin" / "fasterrcnn"
    if not door.exists():
        pytest.skip("the tests run with another Python; start_scripts/init_torch.sh makes .venv")
    done = shell([door, "--help"], cwd="/", PYTHONPATH="")
    assert done.code == 0, done.err
    assert done.out == shell(command("--help"), cwd="/").out


# The dependencies


def test_requirements_are_the_packages_dependencies():
    """The file pins torch and torchvision within the package's bounds; the rest is the same."""
    wanted = {name_of(line): line for line in listed("dependencies")}
    pinned = {}
    for line in requirements("requirements.txt"):
        name, _, version = line.partition("==")
        if version:
            pinned[name] = version
        else:
            assert wanted.pop(name_of(line)) == line
    assert pinned.keys() == wanted.keys() == {"torch", "torchvision"}
    assert all(inside(version, wanted[name]) for name, version in pinned.items())


def test_test_tools_are_the_packages_test_extra():
    assert listed("test") == requirements("tests/requirements.txt")


def test_every_bound_has_two_ends_and_the_tested_version_in_it():
    exact = {}
    for line in requirements("constraints.txt"):
        name, _, version = line.partition(";")[0].strip().partition("==")
        assert version, line
        exact.setdefault(name_of(name), []).append(version)
    for line in [*listed("dependencies"), *listed("test")]:
        assert exact[name_of(line)], line
        assert all(inside(version, line) for version in exact[name_of(line)]), line
    for line in requirements("requirements.txt")[:2]:
        name, _, version = line.partition("==")
        assert exact[name] == [version]


def test_this_environment_is_within_the_bounds():
    for line in listed("dependencies"):
        assert inside(metadata.version(name_of(line)), line), line


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the project with tests, data and runs in it, as `pip wheel .` does."""
    pytest.importorskip("setuptools", "77", reason="setuptools 77 builds the wheel")
    root = tmp_path_factory.mktemp("project")
    without = shutil.ignore_patterns("__pycache__", "coco", "voc", "shapes")
    for name in ("fasterrcnn", "tests", "start_scripts", "datasets"):
        shutil.copytree(PROJECT / name, root / name, ignore=without)
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt", "constraints.txt"):
        shutil.copy(PROJECT / name, root)
    for path in ("datasets/coco/data.py", "output/run/metrics.jsonl", "fasterrcnn/notes.bin"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=root, capture_output=True, text=True, timeout=HANG
    )
    assert done.returncode == 0, done.stderr
    (path,) = (root / "dist").glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path):
    package = PROJECT / "fasterrcnn"
    modules = {
        str(path.relative_to(PROJECT))
        for path in (*package.rglob("*.py"), *package.rglob("templates/*.html"))
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == modules | {"fasterrcnn/README.md", "fasterrcnn/py.typed"}


def test_the_wheel_says_what_it_needs_and_brings_its_license(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        about = archive.read(f"{info}/METADATA").decode().partition("\n\n")[0].splitlines()
        started = archive.read(f"{info}/entry_points.txt").decode()
        license = archive.read(f"{info}/licenses/LICENSE").decode()
    assert "License-Expression: BSD-3-Clause" in about
    assert license == (PROJECT / "LICENSE").read_text()
    assert "fasterrcnn = fasterrcnn.__main__:main" in started
    needed = [line.removeprefix("Requires-Dist: ") for line in about if "extra ==" not in line]
    for line in listed("dependencies"):
        name, bounds = re.match(r"([\w-]+)(.*)", line).groups()
        assert f"{name}{','.join(sorted(bounds.split(',')))}" in needed, line


def test_the_commands_run_from_the_wheel(shell, wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    run = "import fasterrcnn.__main__ as m; assert {0!r} in m.__file__; m.main()"
    done = shell(
        [sys.executable, "-c", run.format(str(tmp_path)), "--help"],
        cwd="/",
        PYTHONPATH=str(tmp_path),
    )
    assert done.code == 0, done.err
    assert done.out == shell(command("--help"), cwd="/").out
