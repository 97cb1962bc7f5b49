"""Pixels without data: found by value or by tag, not measured, filled with the mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn import nodata, recipes
from fasterrcnn.data import channels, image_check, images, nodata_tags
from fasterrcnn.data.annotations import Annotations, Classes
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from fasterrcnn.models.transform import Transform
from fasterrcnn.pixel_format import AS_STORED, DRAWN, PixelFormat
from fasterrcnn.recipes import Input

RANDOM = np.random.default_rng(0)
H, W = 20, 30


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tiff(path: Path, array: np.ndarray, tag: str | None = None) -> Path:
    """A GeoTIFF, as far as its nodata goes; ``(H, W)`` or uint8 ``(H, W, 3)``."""
    Image.fromarray(array).save(path, tiffinfo={} if tag is None else {nodata_tags.TAG: tag})
    return path


def split(folder: Path, *arrays: np.ndarray, tags: tuple[str | None, ...]) -> Annotations:
    folder.mkdir()
    builder = Builder(folder, Problems(), lambda where: (where, ""))
    for id, (array, tag) in enumerate(zip(arrays, tags, strict=True)):
        name = tiff(folder / f"{id}.tif", array, tag).name
        builder.add_image(id, name, None, "images.txt", name)
    return builder.build(Classes.of(["thing"]))


def noise(kind: type = np.float32) -> np.ndarray:
    """``(H, W)`` around 2000; the first ten rows are -9999, or 0 without a sign."""
    values = RANDOM.normal(2000, 150, (H, W)).astype(kind)
    values[:10] = 0 if kind == np.uint16 else -9999
    return values


def test_what_a_recipe_may_say():
    for number in (0.0, -9999.0, 0.1, -3.4028234663852886e38):
        assert nodata.value(nodata.as_text(number)) == number
    assert nodata.as_text(-9999) == "-9999"
    assert [nodata.value(name) for name in nodata.NAMES] == [None] * 3
    for text in ("nan", "inf", "nothing", "1,2", ""):
        recipe = recipes.change(recipes.get("fasterrcnn_r10_fpn_shapes"), input=dict(nodata=text))
        with pytest.raises(UsageError, match=f"^--input.nodata: {text}: .*(number|GDAL_NODATA)"):
            recipes.check(recipe)


@pytest.mark.parametrize(("tag", "stated"), [
    ("-9999", "-9999"), ("0 ", "0"), ("nan", "nan"), ("-3.4028234663852886e+38",
    "-3.4028234663852886e+38"), ("none", ""), ("", ""),
])  # fmt: skip
def test_the_tag_is_read_from_the_header(tmp_path: Path, tag: str, stated: str):
    for array in (np.zeros((H, W), np.float32), np.zeros((H, W, 3), np.uint8)):
        path = tiff(tmp_path / "x.tif", array, tag)
        assert images.inspect(path).header.nodata == stated
        assert images.inspect(tiff(path, array)).header.nodata == ""


def test_eight_bit_images_without_nodata_keep_their_bits(tmp_path: Path):
    array = RANDOM.integers(0, 255, (H, W, 3), dtype=np.uint8)
    for tag in (None, "0"):  # a run that began before nodata was read has "dataset"
        path = tiff(tmp_path / "x.tif", array, tag)
        pixels = images.decode(path, apply_orientation=False, pixel_format=Input().pixel_format)
        assert pixels.dtype == torch.uint8
        assert np.array_equal(pixels.permute(1, 2, 0), array)


def test_each_band_becomes_zero_for_itself(tmp_path: Path):
    array = RANDOM.integers(1, 255, (H, W, 3), dtype=np.uint8)
    array[:5, :, 0] = 0
    array[15:, :, 2] = 0
    path = tiff(tmp_path / "x.tif", array)
    for order in ("rgb", "bgr"):
        config = Input(nodata="0", min_size=H, max_size=W, channel_order=order)
        pixels = images.decode(path, apply_orientation=False, pixel_format=config.pixel_format)
        made = Transform(config).eval()([pixels]).pixels[0, :, :H, :W]
        red, blue = (made[0], made[2]) if order == "rgb" else (made[2], made[0])
        assert red[:5].abs().max() < 1e-5 and blue[15:].abs().max() < 1e-5
        plain = Transform(config).eval()([torch.from_numpy(array).permute(2, 0, 1)]).pixels[0]
        assert made[1].equal(plain[1, :H, :W]) and red[5:].abs().min() > 1e-5


def test_it_is_not_measured(tmp_path: Path):
    arrays = [noise(), noise(), np.full((H, W), -9999, np.float32)]
    data = split(tmp_path / "a", *arrays, tags=("-9999",) * 3)
    wanted = Input(channels=1, image_mean=(), image_std=())
    found, lines = channels.resolve([data], wanted)
    assert found.nodata == "-9999" and "--input.nodata -9999, as the training" in lines[0]
    values = np.concatenate([array[10:].ravel() for array in arrays[:2]]).astype(np.float64)
    low, high = map(float, found.value_range.split(","))
    assert (low, high) == pytest.approx(np.percentile(values, [0.1, 99.9]), rel=1e-5)
    scaled = (values - low) / (high - low)
    assert found.image_mean == pytest.approx((scaled.mean(),), rel=1e-4)
    assert found.image_std == pytest.approx((scaled.std(),), rel=1e-4)
    read = channels.of_run(data, found)
    pixels = images.decode(read.path(0), apply_orientation=False, pixel_format=read.pixel_format)
    assert (pixels[0, :10] == found.image_mean[0] * 255).all()
    again, _ = channels.resolve([data], wanted, found)
    assert again == found
    every, _ = channels.resolve([data], Input(channels=1, nodata="none"))
    assert every.value_range.startswith("-9999,")


def test_files_that_differ_keep_their_own(tmp_path: Path):
    data = split(tmp_path / "a", noise(np.uint16), noise(np.uint16), tags=("0", None))
    found, (line, *_) = channels.resolve([data], Input())
    assert found.nodata == "file" and "GDAL_NODATA: 0, in 1 of 2 training images" in line
    read = channels.of_run(data, found)
    first, second = (
        images.decode(read.path(i), apply_orientation=False, pixel_format=read.pixel_format)
        for i in range(2)
    )
    assert first[0, :10].eq(0.485 * 255).all() and not second[0, :10].eq(0.485 * 255).any()
    assert channels.resolve([data], Input(), Input())[0].nodata == "dataset"  # an older run
    assert channels.resolve([data], Input(), Input(nodata="none"))[0].nodata == "file"
    none = split(tmp_path / "b", noise(np.uint16), tags=(None,))
    assert channels.resolve([none], Input())[0].nodata == "dataset"
    assert channels.resolve([none], Input(nodata="7"))[0].nodata == "7"


def test_nan_is_nodata_only_where_the_file_says_so(tmp_path: Path):
    array = noise()
    array[:10] = np.nan
    tagged, plain = tiff(tmp_path / "a.tif", array, "nan"), tiff(tmp_path / "b.tif", array)
    pixels = images.decode(tagged, apply_orientation=False, pixel_format=AS_STORED)
    assert pixels[0, :10].isnan().all() and pixels[0, 10:].isfinite().all()
    drawn = images.decode(tagged, apply_orientation=False, pixel_format=DRAWN)
    assert (drawn[0, :10] == 0).all() and drawn.isfinite().all()
    with pytest.raises(ValueError, match="300 of its pixels are NaN or infinite"):
        images.decode(plain, apply_orientation=False, pixel_format=AS_STORED)
    data = split(tmp_path / "a", array, tags=("nan",))
    assert image_check.check(data, Problems(), "all") is data
    assert channels.resolve([data], Input())[0].nodata == "file"


def test_images_without_any_data(tmp_path: Path):
    data = split(tmp_path / "a", np.full((H, W), -9999, np.float32), tags=("-9999",))
    with pytest.raises(DataError, match="no pixel of the training images holds data"):
        channels.resolve([data], Input())
    wanted = Input(value_range="image", image_mean=(0.5,) * 3)
    pixels = images.decode(
        data.path(0),
        apply_orientation=False,
        pixel_format=channels.resolve([data], wanted)[0].pixel_format,
    )
    assert (pixels == 127.5).all()


def test_an_array_has_the_value_of_the_run():
    pixels = torch.tensor([[[5.0], [9.0]]])
    wanted = PixelFormat("0,10", 1, nodata="9", fill=(20.0,))
    assert images.of_array(pixels, 16, wanted).flatten().tolist() == [127.5, 20.0]
