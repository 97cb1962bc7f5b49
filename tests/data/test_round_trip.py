"""What other libraries export is read with the boxes that went in.

They are not dependencies of this project: EXPORT_PYTHON names an interpreter that has supervision
and datumaro.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from tests.conftest import EXPORT_PYTHON

TOOLS = {
    "supervision": ("coco", "voc", "yolo"),
    "datumaro": ("coco_instances", "cvat", "voc_detection", "yolo", "yolo_ultralytics"),
}
IMAGES = 20

Boxes = dict[str, list[tuple[str, list[float]]]]


@pytest.fixture(scope="module")
def original(coco_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of coco_tiny's validation split without crowds, as a split `train`."""
    root = tmp_path_factory.mktemp("original")
    content = json.loads((coco_tiny / "annotations" / "instances_val2017.json").read_text())
    images = sorted(content["images"], key=lambda image: image["id"])[:IMAGES]
    ids = {image["id"] for image in images}
    boxes = [
        {**a, "segmentation": []}  # supervision would write the outline of a rasterized mask
        for a in content["annotations"]
        if a["image_id"] in ids and not a["iscrowd"]
    ]
    (root / "annotations").mkdir()
    (root / "images" / "train").mkdir(parents=True)
    for image in images:
        name = image["file_name"]
        shutil.copy(coco_tiny / "val2017" / name, root / "images" / "train" / name)
    text = json.dumps({**content, "images": images, "annotations": boxes})
    (root / "annotations" / "instances_train.json").write_text(text)
    return root


@pytest.fixture(scope="module")
def exported(original: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder that each library has written its exports into."""
    if not EXPORT_PYTHON:
        pytest.skip("EXPORT_PYTHON, a Python with supervision and datumaro, is not set")
    folders = {tool: tmp_path_factory.mktemp(tool) for tool in TOOLS}
    for tool, out in folders.items():
        script = Path(__file__).with_name("exporters.py")
        subprocess.run(
            [EXPORT_PYTHON, script, tool, original, out], check=True, capture_output=True
        )
    return folders


def boxes_of(root: Path, splits: tuple[str, ...]) -> Boxes:
    """File name without suffix -> class and x y w h of each box."""
    found: Boxes = {}
    for split in splits:
        data = formats.read(root, split, "auto", (), Problems())
        for i in range(len(data)):
            rows = range(data.first[i], data.first[i + 1])
            found[Path(data.files[i]).stem] = sorted(
                (data.classes.names[data.labels[k] - 1], data.xywh[k].tolist()) for k in rows
            )
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("tool", "name"), [(t, name) for t in TOOLS for name in TOOLS[t]])
def test_boxes_come_back_within_a_pixel(
    original: Path, exported: dict[str, Path], tool: str, name: str
):
    splits = ("train", "val") if name == "yolo_ultralytics" else ("train",)
    expected, found = boxes_of(original, ("train",)), boxes_of(exported[tool] / name, splits)
    assert found.keys() == expected.keys()
    assert len(found) == IMAGES
    for image, boxes in expected.items():
        assert [c for c, _ in found[image]] == [c for c, _ in boxes], image
        wanted = np.array([box for _, box in boxes]).reshape(-1, 4)
        got = np.array([box for _, box in found[image]]).reshape(-1, 4)
        for name in {c for c, _ in boxes}:
            own = [k for k, (c, _) in enumerate(boxes) if c == name]
            distance = np.abs(wanted[own][:, None] - got[own][None]).max(axis=2)
            assert distance.min(axis=1).max() <= 1, (image, name)
            assert distance.min(axis=0).max() <= 1, (image, name)
