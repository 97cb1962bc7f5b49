"""Runs with other backbones: continued they end with the same bits, and so does killing them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fasterrcnn.errors import UsageError
from tests.commands.runs import assert_same_bits, refused, run
from tests.conftest import HANG, PROJECT, TINY, clean_environment, command

NETWORKS = {
    "regnet_y_400mf": ("--backbone.norm", "batch"),
    "swin_t": ("--optimizer", "adamw", "--backbone.drop-path", "0.5"),
    "timm:test_vit": ("--optimizer", "adamw", "--schedule.layer-decay", "0.8"),
}


def flags(name: str) -> tuple[str, ...]:
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm, an extra, is not installed")
    return ("--backbone.name", name, "--weights", "none", "--val-split", "none", *NETWORKS[name])


def environment(name: str) -> dict[str, str]:
    """What lets a command find timm where this process has it."""
    if not name.startswith("timm:"):
        return {}
    place = Path(pytest.importorskip("timm").__file__).parent.parent
    return {"PYTHONPATH": f"{PROJECT}{os.pathsep}{place}"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "swin_t" else ()) for n in NETWORKS]
)
def test_continued_it_ends_with_the_same_bits(shapes_folder: Path, tmp_path: Path, name: str):
    """Also where activations were computed again before that, and blocks left out at random."""
    straight = run(shapes_folder, tmp_path / "straight", *flags(name), "--steps", "2")
    again = ("--checkpoint-activations",) if name != "regnet_y_400mf" else ()
    run(shapes_folder, tmp_path / "parts", *flags(name), "--steps", "1", *again)
    parts = run(shapes_folder, tmp_path / "parts", *flags(name), "--steps", "2", "--resume")
    assert_same_bits(straight, parts)


def test_what_cannot_be_trained_together(shapes_folder: Path, tmp_path: Path):
    words = ("--backbone.name", "swin_t", "--weights", "none", "--checkpoint-activations")
    assert "not with --compile" in refused(UsageError, shapes_folder, tmp_path, *words, "--compile")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_killed_it_ends_with_the_same_bits(shapes_folder: Path, tmp_path: Path, name: str, shell):
    def line(out: str) -> list[str]:
        return command(
            "train", *TINY, "--data-path", shapes_folder, "--output-dir", tmp_path / out,
            *flags(name), "--steps", 6, "--save-every", 2,
        )  # fmt: skip

    place = environment(name)
    assert shell(line("straight"), **place).code == 0
    with subprocess.Popen(
        line("killed"), env=clean_environment() | place, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + HANG
        while not (tmp_path / "killed/checkpoints/step-00000002").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert shell(line("killed"), **place).code == 0
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
        done = shell(words, **environment(name))
        assert done.code == 0, done.err
    assert_same_bits(*(tmp_path / out / "checkpoints/step-00000003" for out in ("a", "b")))
