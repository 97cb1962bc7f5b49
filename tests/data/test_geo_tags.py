"""Where GeoTIFF files lie, computed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fasterrcnn.data import geo_tags
from fasterrcnn.data.geo_tags import Place

UTM33 = (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633)
WGS84 = (1, 1, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4326)


def geotiff(
    path: Path,
    *,
    keys: tuple[int, ...] | None = UTM33,
    scale: tuple[float, ...] | None = (10.0, 20.0, 0.0),
    tie: tuple[float, ...] | None = (0, 0, 0, 500000.0, 4000000.0, 0),
    matrix: tuple[float, ...] | None = None,
    orientation: int = 1,
) -> Path:
    """An RGB image of 30 x 20 px."""
    tags = ImageFileDirectory_v2()
    for tag, kind, value in (
        (33550, 12, scale), (33922, 12, tie), (34264, 12, matrix), (34735, 3, keys),
        (274, 3, orientation),
    ):  # fmt: skip
        if value is not None:
            tags.tagtype[tag] = kind
            tags[tag] = value
    Image.new("RGB", (30, 20), (90, 80, 70)).save(path, tiffinfo=tags)
    return path


def test_a_tie_point_and_a_scale(tmp_path: Path):
    place = geo_tags.read(geotiff(tmp_path / "x.tif"))
    assert place == Place(32633, (10.0, 0.0, 500000.0, 0.0, -20.0, 4000000.0))
    assert place.at(0, 0) == (500000, 4000000) and place.at(30, 20) == (500300, 3999600)
    moved = geo_tags.read(geotiff(tmp_path / "x.tif", tie=(2, 3, 0, 500020, 3999940, 0)))
    assert moved == place


def test_coordinates_of_pixel_centers(tmp_path: Path):
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 2, 3072, 0, 1, 32633)
    place = geo_tags.read(geotiff(tmp_path / "x.tif", keys=keys))
    assert place.at(0.5, 0.5) == (500000, 4000000)


def test_a_transformation(tmp_path: Path):
    matrix = (0.0, 2.0, 0, 10.0, 3.0, 0.0, 0, 50.0, 0, 0, 0, 0, 0, 0, 0, 1)
    path = geotiff(tmp_path / "x.tif", keys=WGS84, scale=None, tie=None, matrix=matrix)
    place = geo_tags.read(path)
    assert place.epsg == 4326 and place.at(5, 7) == (24, 65)


@pytest.mark.parametrize(("changed", "phrase"), [
    (dict(keys=None), "no georeference"),
    (dict(tie=None), "no georeference"),
    (dict(scale=None), "by control points"),
    (dict(tie=(0, 0, 0, 1, 1, 0) * 2), "by control points"),
    (dict(keys=(*UTM33[:-1], 32767)), "without EPSG code"),
    (dict(keys=(1, 1, 0, 0)), "without EPSG code"),
    (dict(orientation=6), "stored turned"),
])  # fmt: skip
def test_what_does_not_say_it_is_refused(tmp_path: Path, changed: dict, phrase: str):
    with pytest.raises(ValueError, match=phrase):
        geo_tags.read(geotiff(tmp_path / "x.tif", **changed))


def test_other_files_are_refused(tmp_path: Path):
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    (tmp_path / "x.tif").write_bytes(b"II*\0\xff\xff\0\0")
    with pytest.raises(ValueError, match="no georeference"):
        geo_tags.read(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"unreadable header|no georeference"):
        geo_tags.read(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="cannot be read"):
        geo_tags.read(tmp_path / "none.tif")
