"""train as a function: the run of the command, its weights to the bit and its errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fasterrcnn import load, train
from fasterrcnn.commands import train as command
from fasterrcnn.errors import Failure
from tests.conftest import TINY

FIELDS: dict[str, Any] = {
    "recipe": "fasterrcnn_r10_fpn_shapes",
    "input.min_size": 64,
    "input.max_size": 96,
    "backbone.fpn_channels": 16,
    "roi_heads.representation_size": 32,
    "images_per_step": 4,
    "images_per_gpu": 2,
    "log_every": 2,
    "workers": 0,
    "device": "cpu",
    "steps": 2,
    "val_split": "none",
}


def test_a_run_is_that_of_the_command(shapes_folder: Path, tmp_path: Path):
    flags = ("--steps", "2", "--val-split", "none", "--classes", "star,ring")
    command.main([*TINY, "--data-path", str(shapes_folder), "--output-dir", str(tmp_path / "a"),
                  *flags, "--data.keep-empty", "--no-rpn.round-anchors"])  # fmt: skip
    torch.use_deterministic_algorithms(False)
    more = {"classes": ("star", "ring"), "data.keep_empty": True, "rpn.round_anchors": False}
    options = {"resume": False, "patience": None}  # as they are by default
    run = train(data_path=shapes_folder, output=tmp_path / "b", **FIELDS, **more, **options)
    assert run == tmp_path / "b"
    assert not torch.are_deterministic_algorithms_enabled()
    weights = "checkpoints/step-00000002/model.safetensors"
    assert (run / weights).read_bytes() == (tmp_path / "a" / weights).read_bytes()
    assert load(run).classes.names == ("star", "ring")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(data_path="/nope"), "data_path: /nope: no such folder; check the path"),
        (dict(stepps=3), "stepps=3: unknown flag; did you mean steps?"),
        (dict(steps=0), "steps: 0: must be 1 or more"),
        (dict(lr="high"), "lr: invalid float value: 'high'"),
        (dict(recipe="x"), "x: "),
    ],
)
def test_mistakes_are_one_line(shapes_folder: Path, tmp_path: Path, fields: dict, message: str):
    given = {**FIELDS, "data_path": shapes_folder, "output": tmp_path / "run", **fields}
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        train(**given)
    assert len(str(error.value).splitlines()) == 1
    assert not isinstance(error.value, Failure)
