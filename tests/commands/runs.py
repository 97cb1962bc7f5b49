"""Small training runs in this process, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fasterrcnn.commands import train
from fasterrcnn.errors import Failure
from tests.conftest import TINY


def run(root: Path, out: Path, *flags: object) -> Path:
    """Train on `root` into `out`; the newest checkpoint."""
    train.main([*TINY, "--data-path", str(root), "--output-dir", str(out), *map(str, flags)])
    return max((out / "checkpoints").glob("step-*"))


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.stem}/{key}": value
        for path in checkpoint.glob("*.safetensors")
        for key, value in load_file(path).items()
    }


def assert_same_bits(a: Path, b: Path) -> None:
    first, second = tensors(a), tensors(b)
    assert set(first) == set(second)
    different = [key for key in first if not first[key].equal(second[key])]
    assert different == []
    moved = [key for key in first if key.startswith("optimizer") and first[key].abs().max() > 0]
    assert len(moved) > 20  # the comparison is of something


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def refused(kind: type[Failure], root: Path, out: Path, *flags: object) -> str:
    with pytest.raises(kind) as error:
        run(root, out, *flags)
    return str(error.value)
