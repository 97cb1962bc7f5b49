"""What files of other values and bands than 8-bit RGB cost in accuracy: runs of minutes.

One scene in four encodings; objects that only the fourth band of a file shows.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn.commands import train
from tests.data.test_tiff_files import write

_TRAIN, _VAL = 480, 96
_HEIGHT, _WIDTH = 136, 160
_CLASSES = ("disc", "block", "ring")
KINDS = {  # suffix, data type, the values of black and white
    "8 bits": (".png", np.uint8, 0, 255),
    "12 bits": (".png", np.uint16, 0, 4095),
    "radiometric": (".png", np.uint16, 51_200, 52_200),
    "float": (".tif", np.float32, 270, 310),
}


def background(random: np.random.RandomState) -> np.ndarray:
    """Noise of two scales around 90, float ``(H, W)``."""
    coarse = np.kron(random.normal(0, 12, (_HEIGHT // 8, _WIDTH // 8)), np.ones((8, 8)))
    return 90 + coarse + random.normal(0, 12, (_HEIGHT, _WIDTH))


def scene(seed: int) -> tuple[np.ndarray, list[dict]]:
    """Two to five objects, some overlapping, brighter than the background; uint8 ``(H, W)`` and
    COCO's annotations of them."""
    random = np.random.RandomState(seed)
    image, objects = background(random), []
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    for _ in range(random.randint(2, 6)):
        kind, radius = random.randint(3), random.randint(9, 25)
        cx, cy = random.randint(radius, _WIDTH - radius), random.randint(radius, _HEIGHT - radius)
        distance = np.hypot(x - cx, y - cy)
        mask = distance < radius
        if kind == 1:
            mask = np.maximum(abs(x - cx), abs(y - cy)) < radius
        elif kind == 2:
            mask &= distance > 0.6 * radius
        image[mask] += random.uniform(60, 90)
        corner, side = [cx - radius + 1, cy - radius + 1], 2 * radius - 1
        objects.append({"bbox": [*corner, side, side], "area": side**2, "iscrowd": 0,
                        "category_id": kind + 1})  # fmt: skip
    return image.clip(0, 255).astype(np.uint8), objects


def saved(stem: Path, gray: np.ndarray, kind: str, seed: int) -> str:
    """One scene in an encoding of `KINDS`, or as the fourth band of TIFF, whose other bands are
    background; the name of the file."""
    if kind == "fourth band":
        random = np.random.RandomState(50_000 + seed)
        empty = [background(random).clip(0, 255).astype(np.uint8) for _ in range(3)]
        return write(stem.with_suffix(".tif"), [np.dstack([*empty, gray])], photometric=2).name
    suffix, dtype, low, high = KINDS[kind]
    values = low + gray / 255 * (high - low)
    pixels = (values if dtype == np.float32 else values.round()).astype(dtype)
    path = stem.with_suffix(suffix)
    Image.fromarray(pixels).save(path)
    return path.name


def scenes(root: Path, kind: str) -> Path:
    """Scenes in COCO's layout."""
    for split, first, count in (("train", 0, _TRAIN), ("val", 10_000, _VAL)):
        images, annotations = [], []
        (root / split).mkdir(parents=True)
        for seed in range(first, first + count):
            gray, objects = scene(seed)
            name = saved(root / split / str(seed), gray, kind, seed)
            images.append({"id": seed, "file_name": name, "height": _HEIGHT, "width": _WIDTH})
            for item in objects:
                annotations.append({"id": len(annotations) + 1, "image_id": seed, **item})
        categories = [{"id": i, "name": name} for i, name in enumerate(_CLASSES, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def ap(data: Path, out: Path, *flags: str) -> float:
    """AP in % on the validation images at the end of a run of the demo's recipe, on one thread:
    another number of threads rounds otherwise, which alone moves AP by up to 3.4."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train.main([
            "--recipe", "fasterrcnn_r10_fpn_shapes", "--data-path", str(data),
            "--output-dir", str(out), "--amp", "auto", "--device", "cpu", "--eval-every", "0",
            "--workers", "0", *flags,
        ])  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return 100 * json.loads((out / "evaluations.jsonl").read_text().splitlines()[-1])["AP"]


@pytest.mark.slow
def test_one_scene_in_four_encodings(tmp_path: Path):
    """510 steps each, with the same seed."""
    found = {kind: ap(scenes(tmp_path / kind, kind), tmp_path / f"{kind} run") for kind in KINDS}
    print({kind: round(value, 1) for kind, value in found.items()})
    assert max(found.values()) - min(found.values()) < 3, found


@pytest.mark.slow
def test_objects_in_the_fourth_band(tmp_path: Path):
    """510 steps each."""
    gray, four = (scenes(tmp_path / kind, kind) for kind in ("8 bits", "fourth band"))
    found = {
        "gray": ap(gray, tmp_path / "a"),
        "four bands": ap(four, tmp_path / "b", "--input.channels", "4"),
        "the first three": ap(four, tmp_path / "c"),
    }
    print({name: round(value, 1) for name, value in found.items()})
    assert abs(found["four bands"] - found["gray"]) < 5, found
    assert found["the first three"] < 5, found
