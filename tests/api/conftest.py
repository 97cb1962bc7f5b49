"""A trained detector, once for all tests of the interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasterrcnn.commands import train
from tests.conftest import TINY


@pytest.fixture(scope="session")
def run(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, evaluated once: its detections are poor, but there are some."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train.main([*TINY, "--data-path", str(shapes_folder), "--output-dir", str(out), "--steps", "30",
                "--roi-heads.score-thresh", "0.07"])  # fmt: skip
    return out
