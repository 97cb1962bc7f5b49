"""What `recipes.Input.nodata` may say of pixels that hold no data."""

from __future__ import annotations

from math import isfinite

DATASET = "dataset"  # to be found out; in the recipe of a run whose files state none: as `NONE`
FILE = "file"
NONE = "none"
NAMES = (DATASET, FILE, NONE)


def value(nodata: str) -> float | None:
    """The value that stands for no data; None for one of `NAMES`. Raises ValueError with a
    phrase."""
    if nodata in NAMES:
        return None
    try:
        number = float(nodata)
    except ValueError:
        raise ValueError(f"must be a number, or {', '.join(NAMES)}") from None
    if not isfinite(number):
        raise ValueError("NaN counts as nodata only where a GeoTIFF's GDAL_NODATA says so (file)")
    return number


def as_text(number: float) -> str:
    """A number as recipes and headers have it: without a fraction of zero."""
    return repr(float(number)).removesuffix(".0")
