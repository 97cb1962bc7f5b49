"""Detections as polygons in the coordinates of their GeoTIFF files: GeoJSON (RFC 7946).

The RFC knows longitude and latitude only. For other systems the file names its own in the member
``crs``, of the standard before it (GeoJSON 2008), which GDAL and QGIS read.
"""

from __future__ import annotations

import json
from typing import IO, Any

from fasterrcnn.data.geo_tags import Place

_WGS84 = 4326


class GeoJsonFile:
    """A file open for writing; each detection is a feature."""

    def __init__(self, file: IO[str], places: dict[str, Place]) -> None:
        """`places`: of the images, by name, all in one coordinate system."""
        self._file, self._places = file, places
        self._is_first = True
        (epsg,) = {place.epsg for place in places.values()}
        name = {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}
        crs = (
            "" if epsg == _WGS84 else f'"crs": {json.dumps({"type": "name", "properties": name})}, '
        )
        self._file.write(f'{{"type": "FeatureCollection", {crs}"features": [')

    def add(self, row: dict[str, Any]) -> None:
        """Append a row of `detection_files.rows`."""
        self._file.write(("\n" if self._is_first else ",\n") + json.dumps(self._feature(row)))
        self._is_first = False

    def close(self) -> None:
        """End the text."""
        self._file.write("\n]}\n")

    def _feature(self, row: dict[str, Any]) -> dict[str, Any]:
        place = self._places[row["file_name"]]
        x, y, width, height = row["bbox"]
        corners = [(x, y + height), (x + width, y + height), (x + width, y), (x, y)]
        ring = [list(place.at(*corner)) for corner in (*corners, corners[0])]
        properties = {name: row[name] for name in ("file_name", "category_name", "score")}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        return {"type": "Feature", "properties": properties, "geometry": geometry}
