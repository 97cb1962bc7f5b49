"""init_torch.sh: keeps a tested pair that works, is idempotent, lets the commands run from
anywhere, says which package failed. No network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

STUB = "def main(): print(__file__)\nif __name__ == '__main__': main()\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy(tmp_path / "a project")


@pytest.fixture
def no_wheels(tmp_path: Path) -> str:
    """A WHEELS folder from which nothing can be installed."""
    (tmp_path / "no wheels").mkdir()
    return str(tmp_path / "no wheels")


def copy(root: Path) -> Path:
    """What the set-up needs of this project."""
    for name in ("start_scripts", "fasterrcnn"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(PROJECT / name, root)
    return root


def stub(root: Path) -> str:
    """Make the entry point of a copy only print its path, which is returned."""
    main = root / "fasterrcnn" / "__main__.py"
    main.write_text(STUB)
    return f"{main}\n"


def init(root: Path) -> list[object]:
    return ["bash", root / "start_scripts" / "init_torch.sh"]


def test_keeps_the_torch_that_is_there_and_is_idempotent(
    shell, project: Path, tmp_path: Path, no_wheels: str
):
    """The tests' own interpreter is the machine's; nothing has to be downloaded."""
    done = shell(init(project), cwd=tmp_path, BASE_PYTHON=sys.executable, WHEELS=no_wheels)
    assert done.code == 0, done.err
    assert "keeping the torch and torchvision of" in done.out
    assert done.out.splitlines()[-1].startswith("ready: Python 3.")
    config = (project / ".venv" / "pyvenv.cfg").read_text()
    assert "include-system-site-packages = true" in config
    assert not list((project / ".venv").rglob("site-packages/torch"))
    before = (project / ".venv" / "pyvenv.cfg").stat().st_mtime_ns
    (project / ".venv" / "bin" / "fasterrcnn").unlink()
    again = shell(init(project), cwd=project / "start_scripts")
    assert again.code == 0, again.err
    assert again.out.splitlines() == done.out.splitlines()[-1:]
    assert (project / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == before
    # the commands run from any folder, as a program and as a module, through a link too
    (tmp_path / "a link").symlink_to(project / ".venv" / "bin" / "fasterrcnn")
    doors = [[tmp_path / "a link"], [project / ".venv" / "bin" / "fasterrcnn"]]
    doors += [[project / ".venv" / "bin" / "python", "-m", "fasterrcnn"]]
    for door in doors:
        done = shell([*door, "--help"], cwd="/", PYTHONPATH="")
        assert done.code == 0, done.err
        assert done.out.startswith("usage: fasterrcnn COMMAND")
        done = shell([*door, "trian"], cwd="/", PYTHONPATH="")
        assert done.code == 2
        assert len(done.err.splitlines()) == 1
    # the launchers take it from here
    launcher = project / "start_scripts" / "train_fasterrcnn_resnet50_amp_torch.sh"
    done = shell(["bash", launcher, "--help"], cwd="/")
    assert done.code == 0, done.err
    assert "--data-path" in done.out
    # a pulled change of the requirements asks for init again
    with (project / "requirements.txt").open("a") as file:
        file.write("# one more\n")
    done = shell(["bash", launcher, "--help"])
    assert done.code == 2
    assert "out of date" in done.err
    # a project that was moved runs itself, not the copy that took its place
    moved = project.rename(tmp_path / "moved elsewhere")
    copy(project)
    stub(project)
    here = stub(moved)
    (tmp_path / "a link").unlink()
    (tmp_path / "a link").symlink_to(moved / ".venv" / "bin" / "fasterrcnn")
    doors[1:] = [[moved / ".venv" / "bin" / "fasterrcnn"]]
    doors += [[moved / ".venv" / "bin" / "python", "-m", "fasterrcnn"]]
    for door in doors:
        done = shell(door, cwd="/", PYTHONPATH="")
        assert (done.code, done.out) == (0, here), done.err


def test_the_project_comes_before_a_copy_among_the_machines_packages(
    shell, project: Path, tmp_path: Path
):
    """Where the base is a virtual environment in which somebody installed the package."""
    here = stub(project)
    base, venv = tmp_path / "base", project / ".venv"
    done = shell([sys.executable, "-m", "venv", "--without-pip", base])
    assert done.code == 0, done.err
    (packages,) = base.glob("lib/python3*/site-packages")
    (packages / "fasterrcnn").mkdir()
    (packages / "fasterrcnn" / "__init__.py").touch()
    (packages / "fasterrcnn" / "__main__.py").write_text(STUB)
    done = functions(shell, project, f"make_venv {base}/bin/python '{venv}' --system-site-packages")
    assert done.code == 0, done.err
    run = [venv / "bin" / "python", "-m", "fasterrcnn"]
    done = shell(run, cwd="/", PYTHONPATH="")
    assert done.out == f"{packages / 'fasterrcnn' / '__main__.py'}\n", done.err
    assert functions(shell, project, f"make_entry_point '{venv}'").code == 0
    assert shell(run, cwd="/", PYTHONPATH="").out == here


def functions(shell, root: Path, call: str, **env: str):
    """Call a function of _install.sh."""
    folder = f"'{root}/start_scripts'"
    script = f"set -euo pipefail; source {folder}/_common.sh; source {folder}/_install.sh; {call}"
    return shell(["bash", "-c", script], **env)


def test_without_pip_the_base_installs(shell, project: Path, tmp_path: Path, no_wheels: str):
    """A Python whose venv module cannot bring pip along, as Debian's without python3-venv."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("the tests' own Python has no pip")
    base = program(
        tmp_path / "python3",
        'case "$*" in *--without-pip*) ;; "-m venv"*) exit 1 ;; esac\n'
        f'exec "{sys.executable}" "$@"\n',
    )
    done = shell(init(project), BASE_PYTHON=base, WHEELS=no_wheels)
    assert done.code == 0, done.err
    assert not list((project / ".venv" / "bin").glob("pip*"))
    done = shell([project / ".venv" / "bin" / "fasterrcnn", "--help"], cwd="/", PYTHONPATH="")
    assert done.code == 0, done.err


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return str(path)


def pair(folder: Path, torch: str, torchvision: str, kept: str = "[0]") -> str:
    """Packages that look like torch and torchvision of these versions."""
    for name, version in (("torch", torch), ("torchvision", torchvision)):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"__version__ = '{version}'\n")
    with (folder / "torch" / "__init__.py").open("a") as file:
        file.write("tensor = ones = lambda value: value\n")
    with (folder / "torchvision" / "__init__.py").open("a") as file:
        file.write(f"class ops:\n    def nms(*_): return {kept}\n")
    return str(folder)


@pytest.mark.parametrize(
    ("torch", "torchvision", "refused"),
    [
        ("2.12.1", "0.27.1", None),
        ("2.11.0+cu130", "0.26.0+cu130", None),
        ("2.11.0a0+1234abc.nv26.03", "0.26.0a0", None),
        ("2.10.0", "0.25.0", "torch 2.10.0"),
        ("2.11.0", "0.25.0", "torchvision 0.25.0"),
        ("2.99.0a0+1234abc", "0.99.0", "torch 2.99.0a0+1234abc"),
        ("2.11.0", "0.99.0", "torchvision 0.99.0"),
    ],
)
def test_only_a_tested_pair_is_kept(
    shell, project: Path, tmp_path: Path, torch: str, torchvision: str, refused: str | None
):
    path = pair(tmp_path / "packages", torch, torchvision)
    done = functions(shell, project, f"has_torch '{sys.executable}'", PYTHONPATH=path)
    assert done.code == (0 if refused is None else 1), done.err
    if refused is None:
        assert done.out == ""
    else:
        assert done.out.startswith(f"not keeping {refused}: tested are ")


def test_a_pair_whose_operators_do_not_run_is_not_kept(shell, project: Path, tmp_path: Path):
    path = pair(tmp_path / "packages", "2.11.0", "0.26.0", "undefined")
    assert functions(shell, project, f"has_torch '{sys.executable}'", PYTHONPATH=path).code == 1


def test_bounds_that_cannot_be_read_are_an_error(shell, project: Path):
    """A torch of the machine's must not be replaced because of a typing error in pyproject.toml."""
    text = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(text.replace('"torch>=', '"torch >= '))
    done = shell(init(project), BASE_PYTHON=sys.executable)
    assert done.code == 1
    assert done.err.endswith("pyproject.toml: no bounds of torch and torchvision\n")
    assert not (project / ".venv").exists()


def test_a_failed_install_names_the_package_and_what_to_do(
    shell, project: Path, tmp_path: Path, no_wheels: str
):
    """The pinned pair is what takes the place of one that is too new."""
    path = pair(tmp_path / "packages", "2.99.0", "0.99.0")
    done = shell(init(project), BASE_PYTHON=sys.executable, WHEELS=no_wheels, PYTHONPATH=path)
    assert done.code == 1
    assert done.out.startswith("not keeping torch 2.99.0: tested are torch 2.11 and newer, below ")
    last = done.err.splitlines()[-1]
    assert last.startswith("error: torch==2.11.0: not installed from WHEELS=")
    assert not (project / ".venv" / "requirements.txt").exists()


def test_exact_versions_hold_unless_a_torch_or_wheels_are_given(
    shell, project: Path, tmp_path: Path, no_wheels: str
):
    """What pip is asked for, by a Python that makes an empty environment and only notes it down."""
    notes = tmp_path / "notes"
    fake = f"""case "$*" in
  *'-m venv '*) mkdir -p "{project}/.venv/bin"; cp "$0" "{project}/.venv/bin/python" ;;
  *'-m pip install '*) echo "$*" >>"{notes}" ;;
  '- >='*|'- 2.'*) exit "$NO_TORCH" ;;
  *sysconfig*) echo "{tmp_path}" ;;
esac
"""
    base = program(tmp_path / "python3", fake)
    constraint = f"--constraint {project}/constraints.txt"
    for no_torch, wheels, constrained in (
        ("1", "", True),
        ("1", no_wheels, False),
        ("0", "", False),
    ):
        notes.unlink(missing_ok=True)
        done = shell(init(project), BASE_PYTHON=base, WHEELS=wheels, NO_TORCH=no_torch)
        assert done.code == 0, done.err
        assert (constraint in notes.read_text()) == constrained
        assert ("--no-index" in notes.read_text()) == bool(wheels)
        (project / ".venv" / "requirements.txt").unlink()


def test_an_unsuitable_python_is_refused(shell, project: Path, tmp_path: Path):
    old = program(tmp_path / "python3", "exit 1\n")
    done = shell(init(project), BASE_PYTHON=old)
    assert done.code == 2
    assert done.err == f"error: BASE_PYTHON: {old}: must be Python 3.10 to 3.13\n"
