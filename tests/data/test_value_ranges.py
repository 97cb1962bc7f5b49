"""The range of values of real files: measured, kept, refused."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasterrcnn.data import channels, value_ranges
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError
from fasterrcnn.pixel_format import PixelFormat
from fasterrcnn.recipes import Input

NOISE = np.random.default_rng(0).normal(2000, 150, (8, 50, 60)).astype(np.int64)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def split(folder: Path, *arrays: np.ndarray) -> Annotations:
    folder.mkdir()
    builder = Builder(folder, Problems(), lambda where: (where, ""))
    for id, array in enumerate(arrays):
        name = f"{id}.{'tif' if array.dtype == np.float32 else 'png'}"
        Image.fromarray(array).save(folder / name)
        builder.add_image(id, name, None, "images.txt", name)
    return builder.build(Classes.of(["thing"]))


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


@pytest.mark.parametrize(("kind", "unit"), [(np.uint16, 1), (np.float32, 0.01)])
def test_it_is_measured_over_the_training_images_and_said(tmp_path: Path, kind: type, unit: float):
    stored = (NOISE * unit).astype(kind)
    train, val = split(tmp_path / "a", *stored), split(tmp_path / "b", (stored[0] * 3).astype(kind))
    text, (line,) = value_ranges.resolve([train, val], PixelFormat("dataset"))
    assert numbers(text) == pytest.approx(np.percentile(stored, [0.1, 99.9]), rel=1e-6)
    assert f"--input.value-range {text} (" in line and "8 training images" in line
    share = re.search(r"([\d.]+)% of the values lie outside", line)
    assert share and 0 < float(share[1]) < 0.3
    assert value_ranges.resolve([train, val], PixelFormat("dataset"), "1,2") == ("1,2", [])
    assert value_ranges.resolve([train, val], PixelFormat("dataset"), "dataset") == ("dataset", [])
    assert value_ranges.resolve([train, val], PixelFormat("3,4"), "1,2") == ("3,4", [])
    for other in ("image", "window", "full"):  # another run
        assert value_ranges.resolve([train, val], PixelFormat("dataset"), other)[0] == text


def test_bytes_have_none(tmp_path: Path):
    train = split(tmp_path / "a", (NOISE[0] >> 4).astype(np.uint8))
    assert value_ranges.resolve([train], PixelFormat("dataset")) == ("dataset", [])
    for name in ("dataset", "image", "full"):
        assert channels.of_run(train, Input(value_range=name)).pixel_format.value_range == name
    with pytest.raises(DataError, match=r"0\.png: 8-bit values, but the range of values is 1,2; "):
        channels.of_run(train, Input(value_range="1,2"))


def test_depths_that_do_not_go_together(tmp_path: Path):
    train = split(tmp_path / "a", NOISE[0].astype(np.uint16), NOISE[1].astype(np.uint16))
    val = split(tmp_path / "b", (NOISE[0] >> 4).astype(np.uint8))
    floats = split(tmp_path / "c", NOISE[0].astype(np.float32), NOISE[1].astype(np.uint16))
    message = r"of different depths: \S+/a/0.png \(integer\) and \S+/b/0.png \(8-bit\); convert"
    with pytest.raises(DataError, match=message):
        value_ranges.resolve([train, val], PixelFormat("dataset"))
    with pytest.raises(DataError, match=r"1\.png \(integer\) and \S+0\.tif \(floating-point\)"):
        channels.of_run(floats, Input(value_range="1,2"))
    for name in ("full", "dataset"):
        with pytest.raises(DataError, match=r"0\.tif: floating-point values, of which the run"):
            channels.of_run(floats, Input(value_range=name))
    assert value_ranges.resolve([floats, val], PixelFormat("image")) == ("image", [])
    assert (
        channels.of_run(floats, Input(value_range="image"))
        .take(np.array([1]))
        .pixel_format.value_range
        == "image"
    )


def test_constant_images_have_no_range(tmp_path: Path):
    train = split(tmp_path / "a", np.full((40, 50), 700, np.uint16))
    with pytest.raises(DataError, match="values of the training images are all 700"):
        value_ranges.resolve([train], PixelFormat("dataset"))


def test_the_histogram_counts_every_value(tmp_path: Path):
    """One far outlier is counted in the last bar and does not stretch the others."""
    stored = NOISE.astype(np.uint16)
    stored[0, 0, 0] = 60000
    train = split(tmp_path / "a", *stored)
    bars = value_ranges.histogram(train, PixelFormat("1500,2500", 1))
    assert sum(bar.boxes for bar in bars) == stored.size
    assert (bars[0].low, bars[-1].high) == (stored.min(), 3000)
    assert value_ranges.histogram(train, PixelFormat("image"))[-1].high < 4000
    constant = split(tmp_path / "b", np.full((9, 9), 700, np.uint16))
    assert sum(bar.boxes for bar in value_ranges.histogram(constant, PixelFormat("1,2", 1))) == 81
    assert value_ranges.histogram(split(tmp_path / "c", (NOISE[0] >> 4).astype(np.uint8)),
                                  PixelFormat("dataset")) == []  # fmt: skip
