"""The bands of a set's files: what is chosen, measured, kept and refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasterrcnn.data import channels, images
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError
from fasterrcnn.pixel_format import DRAWN
from fasterrcnn.recipes import Input
from tests.data.test_tiff_files import write

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def image(*bands: int, dtype: str = "u1", spread: int = 9) -> np.ndarray:
    """Noise around a value of each band, ``(20, 30, N)``."""
    noise = RANDOM.normal(0, spread, (20, 30, len(bands)))
    return (np.array(bands) + noise).clip(0, 65000).astype(dtype)


def split(folder: Path, *arrays: np.ndarray) -> Annotations:
    """Arrays of up to 4 uint8 bands become PNG, others TIFF."""
    folder.mkdir()
    builder = Builder(folder, Problems(), lambda where: (where, ""))
    for id, array in enumerate(arrays):
        if array.dtype == np.uint8 and array.shape[2] < 5:
            name = f"{id}.png"
            Image.fromarray(array.squeeze()).save(folder / name)
        else:
            name = f"{id}.tif"
            write(folder / name, [array])
        builder.add_image(id, name, None, "images.txt", name)
    return builder.build(Classes.of(["thing"]))


def test_gray_and_rgb_are_read_as_ever_and_nothing_is_measured(tmp_path: Path):
    data = split(tmp_path / "a", image(90, 80, 70), image(50))
    assert channels.resolve([data], Input()) == (Input(), [])
    assert channels.resolve([data], Input(), Input()) == (Input(), [])


def test_mean_and_std_are_those_of_all_pixels(tmp_path: Path):
    arrays = [image(200, 90, 80, 40), image(100, 70, 60, 240), image(90, 20, 30, 40)]
    data = split(tmp_path / "a", *arrays)
    for bgr, order in (("rgb", 1), ("bgr", -1)):
        wanted = Input(channels=4, image_mean=(), image_std=(), channel_order=bgr)
        found, (line,) = channels.resolve([data], wanted)
        pixels = np.concatenate([a.reshape(-1, 4) for a in arrays]) / 255.0
        assert found.image_mean == pytest.approx(pixels.mean(axis=0)[::order], rel=1e-5)
        assert found.image_std == pytest.approx(pixels.std(axis=0)[::order], rel=1e-5)
        assert "of 3 training images" in line
    assert channels.resolve([data], wanted, replace(found, image_mean=(0.1,) * 4))[0] == replace(
        found, image_mean=(0.1,) * 4
    )
    given = replace(wanted, image_mean=(1.0, 2.0, 3.0, 4.0), image_std=(1.0, 1.0, 1.0))
    found, lines = channels.resolve([data], given)  # a std of 1 stays: nothing to measure
    assert (found.image_mean, found.image_std, lines) == ((1.0, 2.0, 3.0, 4.0), (1.0,) * 4, [])
    chosen = Input(bands=(4, 2), image_mean=(), image_std=())
    assert channels.resolve([data], chosen)[0].image_mean == pytest.approx(
        pixels.mean(axis=0)[[3, 1]], rel=1e-5
    )


def test_where_nothing_can_be_decoded_nothing_is_measured(tmp_path: Path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("cannot be decoded")

    monkeypatch.setattr(images, "decode", fail)
    for name, kind in (("a", "u1"), ("b", "u2")):
        data = split(tmp_path / name, image(1, 2, 3, 4, 5, dtype=kind))
        with pytest.raises(DataError, match="no training image can be decoded; --check-images all"):
            channels.resolve([data], Input(channels=5, image_mean=()))


def test_more_than_8_bits_are_measured_in_their_range(tmp_path: Path):
    arrays = [image(*range(1000, 6000, 1000), dtype="u2", spread=100) for _ in range(3)]
    data = split(tmp_path / "a", *arrays)
    found, (of_range, of_mean) = channels.resolve([data], Input(channels=5, image_mean=()))
    low, high = map(float, found.value_range.split(","))
    pixels = np.concatenate([a.reshape(-1, 5) for a in arrays])
    assert "--input.value-range" in of_range and "--input.image-mean" in of_mean
    scaled = (pixels - low) / (high - low)
    assert found.image_mean == pytest.approx(scaled.mean(axis=0), rel=1e-4)
    assert found.image_std == pytest.approx(scaled.std(axis=0), rel=1e-3)
    read = channels.of_run(data, found)
    assert read.pixel_format[:3] == (found.value_range, 5, ())


def test_a_second_start_decodes_nothing(tmp_path: Path, monkeypatch):
    data = split(tmp_path / "a", *(image(1000, 2000, dtype="u2", spread=90) for _ in range(3)))
    for i in range(3):
        os.utime(data.path(i), ns=(10**18, 10**18))
    wanted = Input(channels=2, image_mean=(), image_std=())
    found = channels.resolve([data], wanted)
    monkeypatch.setattr(images, "decode", None)
    assert channels.resolve([data], wanted) == found
    with pytest.raises(TypeError):
        channels.resolve([data], Input(bands=(2,), image_mean=(), image_std=()))


def test_what_is_left_out_is_said(tmp_path: Path):
    alpha = split(tmp_path / "a", image(9, 90, 80, 99), image(90, 80, 70))
    assert channels.resolve([alpha], Input()) == (Input(), [
        "note: 1 images have an alpha channel, which is left out; where all have it, "
        "--input.channels 4 takes it",
    ])  # fmt: skip
    four = split(tmp_path / "b", image(*[900, 800, 700, 60], dtype="u2"))
    found, lines = channels.resolve([four], Input(value_range="full"))
    assert found == Input(value_range="full")
    assert lines[0].startswith("note: the files have 4 bands, of which 1, 2 and 3 are used; --inp")
    ten = split(tmp_path / "c", image(*range(90, 100)), image(*range(90, 100)))
    found, lines = channels.resolve([ten], Input())
    assert found.bands == (1, 2, 3) and len(found.image_mean) == 3
    assert found.image_mean != Input().image_mean and "10 bands" in lines[0]


def test_data_yaml_is_obeyed_unless_other_channels_are_asked_for(tmp_path: Path):
    data = split(tmp_path / "a", image(*range(90, 97)), image(*range(90, 97)))
    stated = replace(data, channels=7)
    found, lines = channels.resolve([stated], Input())
    assert found.channels == 7 and len(found.image_mean) == len(found.image_std) == 7
    assert lines[0] == "data: 7 input channels, as data.yaml states"
    assert channels.resolve([stated], found, found) == (found, [])
    assert channels.resolve([stated], Input(), found)[0] == found
    assert channels.resolve([stated], Input(bands=(7, 1), image_mean=()))[0].in_channels == 2


@pytest.mark.parametrize(("wanted", "message"), [
    (dict(channels=4), r"0\.tif: 5 bands, where 4 are expected; --input\.channels 5 takes all"),
    (dict(channels=1), r"0\.tif: 5 bands, where 1 are expected"),
    (dict(bands=(1, 6)), r"0\.tif: 5 bands, and band 6 is expected; --input\.channels 5 takes"),
])  # fmt: skip
def test_bands_that_are_not_there_are_refused(tmp_path: Path, wanted: dict, message: str):
    data = split(tmp_path / "a", image(*range(90, 95)))
    with pytest.raises(DataError, match=message):
        channels.resolve([data], Input(**wanted))
    with pytest.raises(DataError, match="give images like those of the run"):
        channels.of_run(data, Input(**wanted))
    assert channels.of_run(data, None).pixel_format == DRAWN


@pytest.mark.parametrize(("others", "wanted"), [
    ((90, 80, 70), dict(channels=5)),
    ((90, 80, 70), {}),
    ((9, 8, 7, 6, 5, 4), dict(bands=(1, 2))),
])  # fmt: skip
def test_files_of_different_bands_are_named(tmp_path: Path, others: tuple, wanted: dict):
    data = split(tmp_path / "a", image(*others), image(*range(90, 95)), image(*others))
    names = sorted((f"{name} ({count})" for name, count in (
        (data.path(0), len(others)), (data.path(1), 5))), key=lambda name: name[-2])  # fmt: skip
    with pytest.raises(DataError) as raised:
        channels.resolve([data], Input(**wanted))
    assert str(raised.value) == (
        f"images with different numbers of bands: {' and '.join(names)}; convert some, or leave "
        "them out"
    )


def test_a_page_of_another_size_and_a_constant_band_are_named(tmp_path: Path):
    data = split(tmp_path / "a", image(*range(90, 95)))
    pages = np.split(image(1, 2, 3), 3, axis=2)
    write(tmp_path / "a" / "0.tif", [*pages, pages[0][:9]])
    builder = Builder(tmp_path / "a", Problems(), lambda where: (where, ""))
    builder.add_image(0, "0.tif", None, "images.txt", "0.tif")
    data = builder.build(Classes.of(["thing"]))
    with pytest.raises(DataError, match=r"its pages cannot be bands: page 4 has height 9, width 3"):
        channels.resolve([data], Input(channels=4))
    flat = image(90, 80, 70, 60, 50)
    flat[:, :, 3] = 7
    data = split(tmp_path / "b", flat, flat)
    with pytest.raises(DataError, match="band 4 has one value in all training images"):
        channels.resolve([data], Input(channels=5))
    assert channels.resolve([data], Input(bands=(5, 1), image_mean=()))[0].image_mean
