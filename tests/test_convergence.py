"""Convergence: training and evaluation from scratch reach the metrics they should."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn import recipes
from fasterrcnn.commands import evaluate, train
from fasterrcnn.data import formats, shapes
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import evaluation, runtime
from fasterrcnn.models.build import build

EIGHT_IMAGES = (
    "--recipe", "fasterrcnn_r10_fpn_shapes",
    "--input.flip", "0",
    "--input.min-size", "512",  # with max-size equal, images of all shapes share a micro-batch
    "--input.max-size", "512",
    "--rpn.anchor-sizes", "8,16,32,64,256",
    "--rpn.aspect-ratios", "0.2,0.5,1,2,5",
    "--rpn.pre-nms-top-n-train", "500",
    "--rpn.pre-nms-top-n-test", "500",
    "--rpn.post-nms-top-n-train", "300",
    "--rpn.post-nms-top-n-test", "300",
    "--roi-heads.batch-size-per-image", "64",
    "--epochs", "250",
    "--lr", "0.01",
    "--amp", "auto",
    "--device", "cpu",
)  # fmt: skip


def first_eight(coco_tiny: Path, root: Path) -> Path:
    """The first images with boxes, by id, of the training split, in COCO's layout."""
    name = "annotations/instances_train2017.json"
    content = json.loads((coco_tiny / name).read_text())
    boxed = sorted({a["image_id"] for a in content["annotations"] if not a["iscrowd"]})[:8]
    content["images"] = [i for i in content["images"] if i["id"] in boxed]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in boxed]
    for folder in ("annotations", "train2017"):
        (root / folder).mkdir()
    (root / name).write_text(json.dumps(content))
    for image in content["images"]:
        shutil.copy(coco_tiny / "train2017" / image["file_name"], root / "train2017")
    return root


@pytest.mark.slow
def test_eight_real_images_are_overfitted(coco_tiny: Path, tmp_path: Path):
    """53 boxes of 18 classes, many of them thin or below 20 px; 500 steps on two CPU cores."""
    (tmp_path / "data").mkdir()
    data = first_eight(coco_tiny, tmp_path / "data")
    train.main([
        *EIGHT_IMAGES,
        "--data-path", str(data),
        "--val-split", "train",
        "--output-dir", str(tmp_path / "run"),
        "--eval-every", "0",
        "--save-every", "0",
    ])  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["AP50"] >= 0.95
    assert results["AP"] >= 0.70


@pytest.mark.slow
def test_an_rpn_alone_learns_to_propose(tmp_path: Path):
    """From scratch on the demo's images: AR at 100 proposals, before and after."""
    shapes.write(tmp_path / "data", train=1000, val=200)
    recipe = recipes.get("rpn_r10_fpn_shapes")
    data = formats.read(tmp_path / "data", "val", "auto", (), Problems())
    torch.manual_seed(0)
    untrained, _ = evaluation.evaluate(
        build(recipe, 7), data, recipe, runtime.start("cpu"), images_per_gpu=4, workers=0
    )
    train.main([
        "--recipe", recipe.name, "--device", "cpu", "--amp", "auto",
        "--data-path", str(tmp_path / "data"), "--output-dir", str(tmp_path / "run"),
        "--eval-every", "0", "--save-every", "0",
    ])  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert untrained["AR_100"] < 0.2
    assert results["AR_100"] >= 0.6


def mosaic(root: Path, seed: int) -> None:
    """A split val of one image of 4,000 x 3,000 px: 450 images of the demo side by side."""
    side = 160  # px, of the largest of them
    canvas = np.full((3000, 4000, 3), 128, np.uint8)
    boxes = []
    for y in range(0, 3000 - side + 1, side):
        for x in range(0, 4000 - side + 1, side):
            pixels, objects = shapes.draw(seed)
            seed += 1
            canvas[y : y + len(pixels), x : x + pixels.shape[1]] = pixels
            for item in objects:
                left, top, width, height = item["bbox"]
                kept = {key: item[key] for key in ("category_id", "area", "iscrowd")}
                boxes.append({**kept, "bbox": [left + x, top + y, width, height]})
    (root / "val").mkdir()
    Image.fromarray(canvas).save(root / "val" / "1.png")
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "instances_val.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "1.png", "height": 3000, "width": 4000}],
        "annotations": [{"id": i, "image_id": 1, **box} for i, box in enumerate(boxes, start=1)],
        "categories": [{"id": i, "name": n} for i, n in enumerate(shapes.CLASSES, start=1)],
    }))  # fmt: skip


@pytest.mark.slow
def test_tiles_find_the_small_objects_of_a_large_image(tmp_path: Path):
    """With half of the demo's training: AP in a mosaic of its images."""
    shapes.write(tmp_path / "data", train=1000, val=1)
    train.main([
        "--recipe", "fasterrcnn_r10_fpn_shapes", "--device", "cpu", "--amp", "auto",
        "--epochs", "2.125", "--data-path", str(tmp_path / "data"), "--val-split", "none",
        "--output-dir", str(tmp_path / "run"), "--save-every", "0",
    ])  # fmt: skip
    (tmp_path / "large").mkdir()
    mosaic(tmp_path / "large", seed=2 * 10**6)
    tiles = ("--slice", "160", "--slice-overlap", "0.4")
    for flags in ((), tiles, (*tiles, "--tta", "flip")):
        evaluate.main([
            "--checkpoint", str(tmp_path / "run"), "--device", "cpu", "--workers", "0",
            "--data-path", str(tmp_path / "large"), "--split", "val", "--images-per-gpu", "4",
            "--detections-per-image", "4000", "--max-dets", "4000", *flags,
        ])  # fmt: skip
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    without, in_tiles, mirrored_too = map(json.loads, lines)
    assert without["AP"] < 0.01
    assert in_tiles["AP"] > 0.1
    assert in_tiles["AP_small"] > 0.1
    assert mirrored_too["AP"] > in_tiles["AP"] - 0.01
