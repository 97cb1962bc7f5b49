"""Detections in files for other programs: COCO's result format, a table, GeoJSON, YOLO label
files, crops.

Json and table are written as detections come, so that they need no memory and are whole whenever
the writing ends.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image
from torch import Tensor

from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.geo_tags import Place
from fasterrcnn.data.pixel_values import displayable
from fasterrcnn.data.windows import InFile
from fasterrcnn.errors import StorageError
from fasterrcnn.reports import picture_files
from fasterrcnn.reports.geojson_file import GeoJsonFile

_COLUMNS = (
    *("image_id", "file_name", "category_id", "category_name", "score"),
    *("x", "y", "width", "height"),
)


def rows(
    image_id: int | str, name: str, found: dict[str, Tensor], classes: Classes
) -> list[dict[str, Any]]:
    """Detections of one image in COCO's result format, in px of the image; `found` has ``boxes``
    ``(D, 4)`` x1 y1 x2 y2, ``labels`` in 1..K and ``scores`` ``(D,)``."""
    return [
        {
            "image_id": image_id,
            "file_name": name,
            "category_id": classes.category_ids[label - 1],
            "category_name": classes.names[label - 1],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), label, score in zip(
            found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True
        )
    ]


class Tables:
    """The files of --json, --csv and --geojson, whichever are given, open for writing."""

    def __init__(
        self,
        json_file: Path | None,
        csv_file: Path | None,
        geojson_file: Path | None = None,
        places: dict[str, Place] | None = None,
    ) -> None:
        """`places`: for GeoJSON, of all images by name. Raises StorageError, and then changes no
        file."""
        files = [("--json", json_file), ("--csv", csv_file), ("--geojson", geojson_file)]
        for flag, path in files:  # all of them, before one is emptied
            if path is not None:
                _open(flag, path, "a").close()
        self._files = ExitStack()
        self._json, self._csv, geojson = (
            None if path is None else self._files.enter_context(_open(flag, path, "w"))
            for flag, path in files
        )
        self._geojson = None if geojson is None else GeoJsonFile(geojson, places or {})
        self._is_first = True
        if self._csv is not None:
            csv.writer(self._csv).writerow(_COLUMNS)

    def add(self, found: list[dict[str, Any]]) -> None:
        """Append rows of `rows`."""
        if self._json is not None:
            for row in found:
                self._json.write(("[\n" if self._is_first else ",\n") + json.dumps(row))
                self._is_first = False
        if self._geojson is not None:
            for row in found:
                self._geojson.add(row)
        if self._csv is not None:
            for row in found:
                about = [row[name] for name in _COLUMNS[:4]]
                box = [f"{side:.2f}" for side in row["bbox"]]
                csv.writer(self._csv).writerow([*about, f"{row['score']:.4f}", *box])

    def close(self) -> None:
        """End the files."""
        if self._json is not None:
            self._json.write("[]\n" if self._is_first else "\n]\n")
        if self._geojson is not None:
            self._geojson.close()
        self._files.close()


def _open(flag: str, path: Path, mode: str) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open(mode, encoding="utf-8", newline="")
    except OSError as error:
        raise StorageError(
            f"{flag}: {path}: cannot be written ({error.strerror}); give another path"
        ) from None


def write_labels(file: Path, size: tuple[int, int], found: dict[str, Tensor]) -> None:
    """A YOLO label file: class from 0, center, width, height as fractions of the image, score.

    `size` (H, W; px). Without detections the file is empty.
    """
    height, width = size
    x1, y1, x2, y2 = (found["boxes"].double() / torch.tensor([width, height] * 2)).unbind(1)
    columns = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, found["scores"].double()]
    numbers = torch.stack(columns, dim=1).tolist()
    lines = [
        " ".join([str(label - 1), *(f"{number:.6f}" for number in row)]) + "\n"
        for label, row in zip(found["labels"].tolist(), numbers, strict=True)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines))


def write_crops(
    folder: Path, name: str, image: Tensor | InFile, found: dict[str, Tensor], names: Sequence[str]
) -> None:
    """Each detection cut out of `image` uint8 ``(3, H, W)``: ``folder/CLASS/NAME-1.jpg``."""
    height, width = image.shape[1:]
    stem = Path(name).with_suffix("")
    for number, (box, label) in enumerate(
        zip(found["boxes"].tolist(), found["labels"].tolist(), strict=True), start=1
    ):
        x1, y1 = min(int(box[0]), width - 1), min(int(box[1]), height - 1)
        x2, y2 = max(round(box[2]), x1 + 1), max(round(box[3]), y1 + 1)
        pixels = displayable(image[:, y1:y2, x1:x2]).permute(1, 2, 0).contiguous().numpy()
        kind = names[label - 1].replace("/", "_").lstrip(".") or "_"
        picture_files.save(Image.fromarray(pixels), folder / kind / f"{stem}-{number}.jpg")
