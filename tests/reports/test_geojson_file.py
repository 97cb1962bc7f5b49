"""Detections as polygons: closed rings in the coordinates of their images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.geo_tags import Place
from fasterrcnn.reports import detection_files

FOUND = {
    "boxes": torch.tensor([[10.0, 20.0, 30.0, 60.0]]),
    "labels": torch.tensor([1]),
    "scores": torch.tensor([0.75]),
}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_file_is_whole_and_says_its_system(tmp_path: Path, count: int):
    place = Place(32633, (10.0, 0.0, 500000.0, 0.0, -10.0, 4000000.0))
    tables = detection_files.Tables(None, None, tmp_path / "x.geojson", {"a.tif": place})
    for k in range(count):
        tables.add(detection_files.rows(k, "a.tif", FOUND, Classes.of(["tree"])))
    tables.close()
    content = json.loads((tmp_path / "x.geojson").read_text())
    assert content["type"] == "FeatureCollection" and len(content["features"]) == count
    assert content["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    for feature in content["features"]:
        assert feature == {
            "type": "Feature",
            "properties": {"file_name": "a.tif", "category_name": "tree", "score": 0.75},
            "geometry": {"type": "Polygon", "coordinates": [[
                [500100, 3999400], [500300, 3999400], [500300, 3999800], [500100, 3999800],
                [500100, 3999400],
            ]]},
        }  # fmt: skip


def test_longitude_and_latitude_need_no_name(tmp_path: Path):
    place = Place(4326, (0.1, 0.0, 5.0, 0.0, -0.1, 50.0))
    detection_files.Tables(None, None, tmp_path / "x.geojson", {"a.tif": place}).close()
    assert json.loads((tmp_path / "x.geojson").read_text()) == {
        "type": "FeatureCollection", "features": []
    }  # fmt: skip
