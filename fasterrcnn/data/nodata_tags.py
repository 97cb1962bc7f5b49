"""The nodata value that files state, and that of a run: GDAL's tag of GeoTIFF files.

Source: GDAL, GTiff driver, TIFFTAG_GDAL_NODATA: one number as text, which holds for each band.
"""

from __future__ import annotations

from math import isfinite

from fasterrcnn import nodata
from fasterrcnn.data.annotations import Annotations

TAG = 42113


def stated(tag: object) -> str:
    """What `TAG` states, as `nodata.as_text`, "nan" and "inf" included; empty if it is no
    number."""
    try:
        return nodata.as_text(float(str(tag).strip("\0 ")))
    except ValueError:
        return ""


def resolve(train: Annotations, wanted: str, saved: str | None = None) -> tuple[str, list[str]]:
    """The nodata of a run's recipe, and lines for the log.

    `wanted`: what was asked for. `saved`: what the run that is continued has. "dataset" becomes
    what the run has; or the value that all training files state, "file" if they differ or it is no
    finite number; it stays as it is where none states any.
    """
    if wanted != nodata.DATASET:
        return wanted, []
    if saved is not None and saved != nodata.NONE:
        return saved, []
    tags = [] if train.nodata is None else train.nodata.tolist()
    if not any(tags):
        return wanted, []
    if len({*tags}) == 1 and isfinite(float(tags[0])):
        return tags[0], [
            f"data: --input.nodata {tags[0]}, as the training images state (GDAL_NODATA); "
            "--input.nodata none takes such pixels for data"
        ]
    few = sorted({tag for tag in tags if tag})[:3]
    count = sum(map(bool, tags))
    return nodata.FILE, [
        f"data: --input.nodata file: what each image states (GDAL_NODATA: {', '.join(few)}, in "
        f"{count} of {len(tags)} training images)"
    ]
