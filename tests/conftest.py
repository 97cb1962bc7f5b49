"""Fixtures: real images where they are there, synthetic ones always, ways to run commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fasterrcnn.data import shapes
from fasterrcnn.engine import download
from tests.server import Server, running

PROJECT = Path(__file__).resolve().parent.parent
HANG = 600  # s after which a process counts as hanging, on however busy a machine
REAL = Path(os.environ.get("TEST_DATA", PROJECT.parent / "shared" / "data"))
EXPORT_PYTHON = os.environ.get("EXPORT_PYTHON")  # an interpreter with supervision and datumaro
TINY = (  # a detector small enough for thousands of steps in a test suite
    "--recipe", "fasterrcnn_r10_fpn_shapes",
    "--input.min-size", "64",
    "--input.max-size", "96",
    "--backbone.fpn-channels", "16",
    "--roi-heads.representation-size", "32",
    "--images-per-step", "4",
    "--images-per-gpu", "2",
    "--log-every", "2",
    "--workers", "0",
    "--device", "cpu",
)  # fmt: skip


@dataclass
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests run only when asked for by -m; GPU tests only on a GPU."""
    no_gpu = pytest.mark.skip(reason="no GPU on this machine")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@pytest.fixture(scope="session", autouse=True)
def _own_image_cache(tmp_path_factory: pytest.TempPathFactory):
    """Verdicts on images go to a folder of the tests, also those of commands that they start."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["XDG_CACHE_HOME"]
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was():
    """Commands run in this process, by fixtures of modules too, turn deterministic algorithms
    on."""
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(False)


def _real(name: str) -> Path:
    if not (REAL / name).is_dir():
        pytest.skip(f"real images {REAL / name} are not there; set TEST_DATA to their folder")
    return REAL / name


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """50 + 50 images of COCO 2017 in COCO's layout."""
    return _real("coco_tiny")


@pytest.fixture(scope="session")
def bccd_voc() -> Path:
    """364 blood cell images in VOC's layout."""
    return _real("bccd_voc")


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 + 8 synthetic images in COCO's layout; not to be written to."""
    root = tmp_path_factory.mktemp("shapes")
    shapes.write(root, train=24, val=8)
    return root


@pytest.fixture
def shell():
    """Run a command without inheriting the launchers' variables; returns Finished."""

    def run(command: list[object], *, cwd: Path | None = None, timeout: float = HANG, **env: str):
        done = subprocess.run(
            list(map(str, command)),
            cwd=cwd or PROJECT,
            env=clean_environment() | env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


def clean_environment() -> dict[str, str]:
    """This process's environment without what launchers and torchrun read."""
    prefixes = ("CUDA_VISIBLE", "TORCHELASTIC", "PYTORCH_", "FASTERRCNN_")
    names = (
        "NGPU NNODES NODE_RANK MASTER_ADDR MASTER_PORT DATA_DIR OUTPUT_DIR PYTHON DRY_RUN WHEELS "
        "BASE_PYTHON RANK LOCAL_RANK WORLD_SIZE OMP_NUM_THREADS COCO_URL VOC_URL "
        "PYTHONDONTWRITEBYTECODE"  # else every process would compile the project anew
    ).split()
    kept = {k: v for k, v in os.environ.items() if k not in names and not k.startswith(prefixes)}
    return kept | {"PYTHONPATH": str(PROJECT)}


def command(name: str, *flags: object) -> list[str]:
    """What runs a command of the project."""
    return [sys.executable, "-m", "fasterrcnn", name, *map(str, flags)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local server of files; nobody waits before trying it again."""
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    with running() as server:
        yield server
