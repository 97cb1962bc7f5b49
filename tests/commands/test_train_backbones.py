"""Runs with other backbones: continued they end with the same bits, and so does killing them."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.commands.runs import assert_same_bits, run
from tests.conftest import HANG, TINY, clean_environment, command

NETWORKS = {
    "regnet_y_400mf": ("--backbone.norm", "batch"),
    "swin_t": ("--optimizer", "adamw"),
    "timm:test_vit": ("--optimizer", "adamw"),
}


def flags(name: str) -> tuple[str, ...]:
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm, an extra, is not installed")
    return ("--backbone.name", name, "--weights", "none", "--val-split", "none", *NETWORKS[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_continued_it_ends_with_the_same_bits(shapes_folder: Path, tmp_path: Path, name: str):
    straight = run(shapes_folder, tmp_path / "straight", *flags(name), "--steps", "2")
    run(shapes_folder, tmp_path / "parts", *flags(name), "--steps", "1")
    parts = run(shapes_folder, tmp_path / "parts", *flags(name), "--steps", "2", "--resume")
    assert_same_bits(straight, parts)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_killed_it_ends_with_the_same_bits(shapes_folder: Path, tmp_path: Path, name: str, shell):
    def line(out: str) -> list[str]:
        return command(
            "train", *TINY, "--data-path", shapes_folder, "--output-dir", tmp_path / out,
            *flags(name), "--steps", 6, "--save-every", 2,
        )  # fmt: skip

    assert shell(line("straight")).code == 0
    with subprocess.Popen(
        line("killed"), env=clean_environment(), stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + HANG
        while not (tmp_path / "killed/checkpoints/step-00000002").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert shell(line("killed")).code == 0
    assert_same_bits(
        *(tmp_path / out / "checkpoints/step-00000006" for out in ("straight", "killed"))
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_two_ranks_train_it(shapes_folder: Path, tmp_path: Path, name: str, shell):
    """Continued too, with the same bits."""

    def line(out: str, *more: object) -> list[str]:
        return command(
            "torchrun", "--nproc-per-node", 2, "-m", "fasterrcnn", "train", *TINY, "--data-path",
            shapes_folder, "--output-dir", tmp_path / out, *flags(name), *more,
        )  # fmt: skip

    for words in (
        line("a", "--steps", 3),
        line("b", "--steps", 2),
        line("b", "--steps", 3, "--resume"),
    ):
        done = shell(words)
        assert done.code == 0, done.err
    assert_same_bits(*(tmp_path / out / "checkpoints/step-00000003" for out in ("a", "b")))
