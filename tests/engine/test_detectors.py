"""A detector from a run, a file of another framework and a name; folders are in test_hub."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fasterrcnn.engine import detectors, importing
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.importers.recognize import Hints
from tests.importers import synthetic


def test_a_file_of_another_framework(tmp_path: Path):
    file = tmp_path / "model_final.pth"
    tensors = synthetic.filled(synthetic.detectron2(detector="rpn"))
    torch.save({"model": tensors, "__author__": "Detectron2 Model Zoo"}, file)
    model, state, path, folder, of_run = detectors.load(str(file))
    assert (path, folder, of_run) == (file, tmp_path / "model_final", False)
    imported = importing.load(str(file), Hints(), {})
    assert not model.training
    assert state == imported.state
    assert state.recipe.name == "rpn_r50_fpn_1x_detectron2"
    assert all(imported.model.state_dict()[k].equal(v) for k, v in model.state_dict().items())


def test_a_run(tmp_path: Path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        detectors.load(str(tmp_path / "nope"))
    with pytest.raises(CheckpointError, match="there is no such file"):
        detectors.load(tmp_path / "nope.onnx")
    with pytest.raises(CheckpointError, match="give a run folder or one of its checkpoints"):
        detectors.load(str(tmp_path))


def test_a_name_that_nobody_published():
    with pytest.raises(UsageError, match="no published file known"):
        detectors.load("mmdet:x")
