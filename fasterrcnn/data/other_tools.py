"""Recognizes data of annotation tools that is not read here, and says how to convert it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fasterrcnn.data import paths

_FEW = 20  # files that are looked at in a folder
_HEAD = 2**16  # bytes


class _Tool(NamedTuple):
    marks: tuple[tuple[bytes, ...], ...]  # what all stands in the head of a file, or what else
    what: str
    conversion: str


_JSON = (
    _Tool(
        ((b'"shapes"', b'"flags"'), (b'"shapes"', b'"imagePath"'), (b'"imageData"', b'"flags"')),
        "LabelMe json files",
        "convert them with labelme's own labelme2voc.py (examples/bbox_detection) or with the "
        "package labelme2coco, and give the folder that it writes",
    ),
    _Tool(
        ((b'"shape_attributes"',), (b'"_via_settings"',), (b'"regions"', b'"file_attributes"')),
        "annotations of the VGG Image Annotator (VIA)",
        "in VIA's menu Annotation choose Export Annotations (COCO format), and put the json file "
        "beside the images",
    ),
    _Tool(
        ((b'"annotations"', b'"result"', b'"from_name"'),),
        "Label Studio's own json",
        "export as COCO, YOLO or Pascal VOC XML with images",
    ),
)
_CSV = (
    _JSON[1]._replace(marks=((b"region_shape_attributes",),)),
    _Tool(
        ((b"file_name", b"objects"),),
        "a metadata.csv of an image folder",
        "a csv file cannot hold lists of boxes; write metadata.jsonl",
    ),
)


def advice(root: Path) -> str | None:
    """One phrase on what the data in `root` is and how to convert it; None if it is unknown."""
    folders = [root, *paths.folders_in(root)]
    for folder, (suffix, tools) in itertools.product(
        folders[:_FEW], ((".json", _JSON), (".csv", _CSV))
    ):
        for path, head in _heads(folder, suffix):
            for tool in tools:
                if any(all(mark in head for mark in marks) for marks in tool.marks):
                    return f"{path.name}: {tool.what}, which are not read; {tool.conversion}"
    return None


def _heads(folder: Path, suffix: str) -> Iterator[tuple[Path, bytes]]:
    """A few files with this suffix, and how they begin."""
    for path in itertools.islice(folder.glob(f"*{suffix}"), _FEW):
        try:
            if path.is_file():
                with path.open("rb") as file:
                    yield path, file.read(_HEAD).replace(b"\0", b"")
        except OSError:
            continue
