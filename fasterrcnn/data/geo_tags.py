"""Where a GeoTIFF lies: from its tags alone, so that no other package is needed.

Source: OGC GeoTIFF 1.1 (19-008r4), annexes B (tags, raster space) and C (keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fasterrcnn.data import tiff_files

_PIXEL_SCALE, _TIEPOINTS, _TRANSFORMATION, _KEYS, _ORIENTATION = 33550, 33922, 34264, 34735, 274
_MODEL_TYPE, _RASTER_TYPE, _GEODETIC, _PROJECTED = 1024, 1025, 2048, 3072  # keys
_IS_PROJECTED, _IS_GEOGRAPHIC, _IS_POINT = 1, 2, 2  # their values
_USER_DEFINED = 32767


class Place(NamedTuple):
    """Where an image lies in a coordinate system."""

    epsg: int  # EPSG's code of the system
    # of x and y (px, from the left upper corner): X = a x + b y + c, Y = d x + e y + f
    affine: tuple[float, float, float, float, float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The coordinates of a point of the image, in units of the system."""
        a, b, c, d, e, f = self.affine
        return a * x + b * y + c, d * x + e * y + f


def read(path: Path | str) -> Place:
    """Where the image of a file lies. Raises ValueError with a phrase if the file does not say."""
    try:
        with Path(path).open("rb") as file:
            is_tiff = file.read(4) in tiff_files.MAGIC
            tags = tiff_files.first_tags(file) if is_tiff else {}
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except Exception as error:  # Pillow's reader raises many kinds on damaged files
        raise ValueError(f"unreadable header ({error})") from error
    if _KEYS not in tags or not {_TRANSFORMATION, _TIEPOINTS} & tags.keys():
        raise ValueError("no georeference (GeoTIFF tags)")
    if tags.get(_ORIENTATION, 1) != 1:
        raise ValueError("is stored turned or mirrored, so that its georeference is not read")
    keys = _keys(tags[_KEYS])
    affine = _affine(tags)
    if keys.get(_RASTER_TYPE) == _IS_POINT:  # coordinates are those of the pixels' centers
        a, b, c, d, e, f = affine
        affine = a, b, c - (a + b) / 2, d, e, f - (d + e) / 2
    return Place(_epsg(keys), affine)


def _keys(directory: Sequence[int]) -> dict[int, int]:
    """The keys whose values are stored in the directory itself."""
    rows = (directory[k : k + 4] for k in range(4, len(directory) - 3, 4))
    return {key: value for key, location, _, value in rows if location == 0}


def _epsg(keys: dict[int, int]) -> int:
    kind = {_IS_PROJECTED: _PROJECTED, _IS_GEOGRAPHIC: _GEODETIC}.get(keys.get(_MODEL_TYPE, 0), 0)
    code = keys.get(kind, 0)
    if not 0 < code < _USER_DEFINED:
        raise ValueError("a coordinate system without EPSG code; gdalwarp -t_srs EPSG:N gives one")
    return code


def _affine(tags: dict[int, Any]) -> tuple[float, float, float, float, float, float]:
    if _TRANSFORMATION in tags:
        m = [float(value) for value in tags[_TRANSFORMATION]]
        if len(m) == 16:
            return m[0], m[1], m[3], m[4], m[5], m[7]
    points, scale = tags.get(_TIEPOINTS, ()), tags.get(_PIXEL_SCALE, ())
    if len(points) != 6 or len(scale) < 2:
        raise ValueError("a georeference by control points; gdalwarp makes an image north up")
    i, j, _, x, y, _ = map(float, points)
    width, height = float(scale[0]), float(scale[1])
    return width, 0.0, x - i * width, 0.0, -height, y + j * height
