"""init_torch.sh: keeps a pair that works, is idempotent, says which package failed. No network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "a project"
    for name in ("start_scripts", "fasterrcnn"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "requirements.txt", root)
    return root


def test_keeps_the_torch_that_is_there_and_is_idempotent(shell, project: Path, tmp_path: Path):
    """The tests' own interpreter is the machine's; nothing has to be downloaded."""
    empty = tmp_path / "wheels"
    empty.mkdir()
    init = ["bash", project / "start_scripts" / "init_torch.sh"]
    env = {"BASE_PYTHON": sys.executable, "WHEELS": str(empty)}
    done = shell(init, cwd=tmp_path, **env)
    assert done.code == 0, done.err
    assert "keeping the torch and torchvision of" in done.out
    assert done.out.splitlines()[-1].startswith("ready: Python 3.")
    config = (project / ".venv" / "pyvenv.cfg").read_text()
    assert "include-system-site-packages = true" in config
    assert not list((project / ".venv").rglob("site-packages/torch"))
    before = (project / ".venv" / "pyvenv.cfg").stat().st_mtime_ns
    again = shell(init, cwd=project / "start_scripts")
    assert again.code == 0, again.err
    assert again.out.splitlines() == done.out.splitlines()[-1:]
    assert (project / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == before
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


def _python_without_torch() -> str | None:
    base = Path(sys.base_prefix) / "bin" / "python3"
    test = [
        base,
        "-c",
        "import sys, importlib.util as u; sys.exit(u.find_spec('torch') is not None)",
    ]
    return str(base) if base.exists() and subprocess.run(test).returncode == 0 else None


def test_a_failed_install_names_the_package_and_what_to_do(shell, project: Path, tmp_path: Path):
    base = _python_without_torch()
    if base is None:
        pytest.skip("the base interpreter has torch")
    (tmp_path / "wheels").mkdir()
    done = shell(
        ["bash", project / "start_scripts" / "init_torch.sh"],
        BASE_PYTHON=base,
        WHEELS=str(tmp_path / "wheels"),
    )
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert last.startswith("error: torch==2.11.0: not installed from WHEELS=")
    assert not (project / ".venv" / "requirements.txt").exists()


def test_an_unsuitable_python_is_refused(shell, project: Path, tmp_path: Path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = shell(["bash", project / "start_scripts" / "init_torch.sh"], BASE_PYTHON=str(old))
    assert done.code == 2
    assert done.err == f"error: BASE_PYTHON: {old}: must be Python 3.10 to 3.13\n"
