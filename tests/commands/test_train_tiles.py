"""Training on tiles: evaluation and prediction alike, exact resume, and what it is for."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fasterrcnn
from fasterrcnn.commands import evaluate, predict
from fasterrcnn.data import windows
from fasterrcnn.errors import UsageError
from tests.commands.processes import ALL, ONE, start, train, wait_for_step
from tests.commands.runs import assert_same_bits, refused, run
from tests.conftest import HANG

TILES = ("--data.tile", "96", "--data.tile-empty", "0.5")


def test_a_run_on_tiles_is_evaluated_and_predicts_in_them(
    shapes_folder: Path, tmp_path: Path, monkeypatch
):
    out, predicted = tmp_path / "run", tmp_path / "predicted.json"
    flags = ("--steps", "1", "--roi-heads.score-thresh", "0", "--data.tile-cache", tmp_path / "raw",
             "--max-dets", "7")  # fmt: skip
    run(shapes_folder, out, *TILES, *flags)
    assert len([*(tmp_path / "raw").glob("*.npy")]) == 24 + 8
    own = json.loads((out / "results.json").read_text())
    again, found = tmp_path / "again.json", tmp_path / "found.json"
    with monkeypatch.context() as patch:
        patch.setattr(windows, "_decoded", None)  # its raw copies are found again
        evaluate.main(["--checkpoint", str(out), "--device", "cpu", "--workers", "0",
                       "--json", str(again), "--detections", str(found)])  # fmt: skip
    metrics = json.loads(again.read_text())
    assert metrics["AP"] == own["AP"] and metrics["AR_7"] == own["AR_7"]
    assert metrics["validation_loss"] == own["validation_loss"]
    predict.main(["--checkpoint", str(out), "--device", "cpu", "--workers", "0", "--no-pictures",
                  "--annotations", str(shapes_folder / "annotations" / "instances_val.json"),
                  "--json", str(predicted), str(shapes_folder / "val")])  # fmt: skip
    one, other = (json.loads(file.read_text()) for file in (found, predicted))
    assert len(one) == len(other) > 100 * 8, "not cut to what one tile can give"
    keys = [[(d["image_id"], d["category_id"]) for d in all_] for all_ in (one, other)]
    assert sorted(keys[0]) == sorted(keys[1])
    image = min((shapes_folder / "val").glob("*.png"))
    number = sum(d["image_id"] == int(image.stem) for d in one)
    assert len(fasterrcnn.load(out, device="cpu")(image).scores) == number
    flags = (*flags[:-1], "8", "--steps", "2", "--resume")
    assert "max-dets: 7 -> 8" in refused(UsageError, shapes_folder, out, *TILES, *flags)


def of_16_bits(root: Path, shapes: Path) -> Path:
    """The synthetic images with values of 16 bits, gray."""
    shutil.copytree(shapes, root)
    for file in root.glob("*/*.png"):
        values = np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 200 + 5
        Image.fromarray(values).save(file)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("script, ranks", [(ONE, 1), (ALL, 2)])
def test_killed_and_resumed_on_tiles_of_16_bits_it_ends_with_the_same_bits(
    shapes_folder: Path, tmp_path: Path, script: str, ranks: int
):
    root = of_16_bits(tmp_path / "data", shapes_folder)
    flags = ("--data-path", root, *TILES, "--save-every", 3, "--log-every", 1, "--steps", 12,
             "--eval-every", 6)  # fmt: skip
    out = tmp_path / "output" / "run"
    process = start(script, out, *flags, "--workers", 1, ngpu=ranks)
    wait_for_step(out, 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=HANG)
    continued = train(script, out, *flags, "--workers", 0, ngpu=ranks)
    assert "continuing at step" in out.with_suffix(".log").read_text()
    cache = ("--data.tile-cache", "none")  # which changes no bits
    whole = train(script, tmp_path / "whole", *flags, *cache, "--workers", 2, ngpu=ranks)
    assert_same_bits(whole, continued)
    one, other = (
        json.loads((run / "results.json").read_text()) for run in (out, tmp_path / "whole")
    )
    assert one["AP"] == other["AP"]


def large_images(root: Path, train_images: int, val_images: int) -> Path:
    """Images of 1,600 x 1,200 px with squares and disks of 14 to 24 px on noise."""
    random = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", train_images), ("val", val_images)):
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            pixels = random.integers(70, 130, (1200, 1600, 3), dtype=np.uint8)
            for cell in random.choice(30 * 40, 60, replace=False).tolist():
                side, kind = int(random.integers(14, 25)), int(random.integers(2))
                y, x = (40 * k + int(random.integers(0, 40 - side)) for k in divmod(cell, 40))
                grid = np.mgrid[:side, :side] - (side - 1) / 2
                shape = np.ones((side, side), bool) if kind else (grid**2).sum(0) <= side**2 / 4
                pixels[y : y + side, x : x + side][shape] += random.integers(40, 90, 3, np.uint8)
                annotations.append({"id": len(annotations) + 1, "image_id": i, "iscrowd": 0,
                                    "category_id": kind + 1, "bbox": [x, y, side, side],
                                    "area": side**2})  # fmt: skip
            Image.fromarray(pixels).save(root / split / f"{i}.jpg", quality=95)
            images.append({"id": i, "file_name": f"{i}.jpg", "height": 1200, "width": 1600})
        names = [{"id": 1, "name": "disk"}, {"id": 2, "name": "square"}]
        content = {"images": images, "annotations": annotations, "categories": names}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.mark.slow
def test_small_objects_in_large_images_are_found_in_tiles(tmp_path: Path):
    root = large_images(tmp_path / "data", 12, 4)
    found = {}
    for name, flags in (  # 400 steps each
        ("tiles", ("--data.tile", "160", "--epochs", "1.63")),
        ("whole", ("--epochs", "133")),
    ):
        out = tmp_path / name
        run(root, out, "--input.min-size", "160", "--input.max-size", "160", "--eval-every", "0",
            "--backbone.fpn-channels", "64", "--roi-heads.representation-size", "256",
            "--images-per-gpu", "4", "--log-every", "50", *flags)  # fmt: skip
        found[name] = json.loads((out / "results.json").read_text())["AP"]
    print(f"AP on 1,600 x 1,200 px at an input of 160 px: {found}")
    assert found["whole"] < 0.2
    assert found["tiles"] > 0.7
