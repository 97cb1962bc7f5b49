"""What MMDetection and Detectron2 themselves computed: files of `peers`, where they are there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import REAL

NAMES = {
    "mmdet-rpn": "mmdet/rpn_r50_fpn_1x_coco",
    "mmdet": "mmdet/faster-rcnn_r50_fpn_1x_coco",
    "mmdet-giou": "mmdet/faster-rcnn_r50_fpn_giou_1x_coco",
    "mmdet-cascade": "mmdet/cascade-rcnn_r50_fpn_1x_coco",
    "detectron2": "detectron2/faster_rcnn_R_50_FPN_1x",
    "detectron2-dc5": "detectron2/faster_rcnn_R_50_DC5_1x",
    "detectron2-dconv": "detectron2/faster_rcnn_R_50_FPN_1x_dconv_c3-c5",
}
IMAGES = ("000000296649", "000000329323")


@dataclass
class Peer:
    """One framework's outputs and the checkpoint they were computed with."""

    name: str
    arrays: dict[str, np.ndarray]
    about: dict
    file: Path

    @property
    def framework(self) -> str:
        """ "mmdet" or "detectron2", as its files are called."""
        return NAMES[self.name].split("/")[0]

    def image(self, i: int, kind: str = "test") -> torch.Tensor:
        """uint8 RGB image `i` as resized by the framework itself."""
        path = folder() / "inputs" / f"{self.framework}_{kind}_{IMAGES[i]}.png"
        return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


def folder() -> Path:
    """Where they are. Skips the test where they are not."""
    if not (REAL / "peers").is_dir():
        pytest.skip(f"outputs of other frameworks ({REAL / 'peers'}) are not there; set TEST_DATA")
    return REAL / "peers"


def script(name: str) -> ModuleType:
    """One of their scripts, as a module."""
    spec = util.spec_from_file_location(name, folder() / f"{name}.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peer(name: str, target: Path, suffix: str = ".pth") -> Peer:
    """The outputs, and the checkpoint written into `target`."""
    base = folder() / NAMES[name]
    file = target / f"{name}{suffix}"
    if not file.exists():
        subprocess.run(
            [sys.executable, "-B", folder() / "make_checkpoint.py", base, file],
            check=True, capture_output=True,
        )  # fmt: skip
    arrays = dict(np.load(f"{base}.npz"))
    return Peer(name, arrays, json.loads(Path(f"{base}.json").read_text()), file)
