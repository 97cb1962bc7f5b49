"""Objects that only the fourth band of a file shows: found with it, and not without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasterrcnn.commands import train
from fasterrcnn.data import shapes
from tests.data.test_tiff_files import write

_TRAIN, _VAL = 480, 96


def scenes(root: Path, kind: str) -> Path:
    """Shapes drawn in gray: as gray PNG; or as the fourth band of a TIFF file whose other bands
    are the backgrounds of other images."""
    for split, first, count in (("train", 0, _TRAIN), ("val", 10_000, _VAL)):
        images, annotations = [], []
        (root / split).mkdir(parents=True)
        for seed in range(first, first + count):
            rgb, objects = shapes.draw(seed)
            gray = np.asarray(Image.fromarray(rgb).convert("L"))
            height, width = gray.shape
            if kind == "gray":
                name = f"{seed}.png"
                Image.fromarray(gray).save(root / split / name)
            else:
                name = f"{seed}.tif"
                random = np.random.RandomState(seed + 50_000)
                empty = shapes._background(random, height, width)
                write(root / split / name, [np.dstack([empty, gray])], photometric=2)
            images.append({"id": seed, "file_name": name, "height": height, "width": width})
            for item in objects:
                annotations.append({"id": len(annotations) + 1, "image_id": seed, **item})
        categories = [{"id": i, "name": name} for i, name in enumerate(shapes.CLASSES, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def ap(data: Path, out: Path, *flags: str) -> float:
    """AP in % on the validation images at the end of a run of the demo's recipe."""
    train.main([
        "--recipe", "fasterrcnn_r10_fpn_shapes", "--data-path", str(data), "--output-dir", str(out),
        "--amp", "auto", "--device", "cpu", "--eval-every", "0", "--workers", "0", *flags,
    ])  # fmt: skip
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return next(100 * line["AP"] for line in reversed(lines) if "AP" in line)


@pytest.mark.slow
def test_objects_in_the_fourth_band(tmp_path: Path):
    """510 steps each, four minutes on two CPU cores that do nothing else."""
    gray, four = scenes(tmp_path / "gray", "gray"), scenes(tmp_path / "four", "four")
    found = {
        "gray": ap(gray, tmp_path / "a"),
        "one channel": ap(gray, tmp_path / "b", "--input.channels", "1"),
        "four bands": ap(four, tmp_path / "c", "--input.channels", "4"),
        "the fourth": ap(four, tmp_path / "d", "--input.bands", "4"),
        "the first three": ap(four, tmp_path / "e"),
    }
    print({name: round(value, 1) for name, value in found.items()})
    for name in ("one channel", "four bands", "the fourth"):
        assert abs(found[name] - found["gray"]) < 5, found
    assert found["the first three"] < 5, found
