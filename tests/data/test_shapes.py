"""The synthetic data set has what the demo claims, and never changes."""

import hashlib
import json
from pathlib import Path

import numpy as np

from fasterrcnn.data import formats, shapes
from fasterrcnn.data.problems import Problems


def test_an_image_is_a_function_of_its_seed():
    pixels, objects = shapes.draw(3)
    digest = hashlib.sha256(pixels.tobytes() + json.dumps(objects).encode()).hexdigest()
    assert digest.startswith("07bc73dc27aab7a8")


def test_what_it_contains(tmp_path: Path):
    shapes.write(tmp_path, train=200, val=20)
    problems = Problems()
    data = formats.read(tmp_path, "train", "auto", (), problems)
    val = formats.read(tmp_path, "val", "auto", data.classes, problems)
    assert problems.found == []
    assert data.classes.names == shapes.CLASSES
    assert np.bincount(data.labels, minlength=7)[1:].min() > 50  # every class is common
    assert not set(data.ids) & set(val.ids)
    assert 0 < data.crowd.sum() < 40
    assert 0 < (~data.with_boxes()).sum() < 40
    sides = data.xywh[~data.crowd][:, 2:].max(axis=1)
    assert np.quantile(sides, 0.99) / np.quantile(sides, 0.01) >= 4
    shapes_of_images = {tuple(size) for size in data.sizes.tolist()}
    assert any(h > w for h, w in shapes_of_images)
    assert any(h < w for h, w in shapes_of_images)
    occluded = data.area / (data.xywh[:, 2] * data.xywh[:, 3])
    assert occluded.min() < 0.4  # less of the box is filled than by any whole shape


def test_writing_twice_gives_the_same_files(tmp_path: Path):
    for name in ("a", "b"):
        shapes.write(tmp_path / name, train=3, val=2)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
