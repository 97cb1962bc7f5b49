"""Data of other tools is answered with one line that says how to convert it."""

import json
from pathlib import Path

import pytest

from fasterrcnn.data import formats, other_tools
from fasterrcnn.errors import UsageError
from tests.data import make

LABELME = {
    "version": "5.0.1",
    "flags": {},
    "shapes": [{"label": "cat", "points": [[1, 2], [3, 4]], "shape_type": "rectangle"}],
    "imagePath": "a.jpg",
    "imageData": "x" * 2**17,
}
REGION = {"shape_attributes": {"name": "rect", "x": 1, "y": 2}, "region_attributes": {}}
VIA = {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": [REGION], "file_attributes": {}}}
STUDIO = [{"id": 1, "annotations": [{"result": [{"from_name": "label", "value": {}}]}]}]
FILES = {
    "a.json": (LABELME, "a.json: LabelMe json files, .* labelme2voc.py .* labelme2coco"),
    "train/a.json": (LABELME, "LabelMe json files"),
    "sorted.json": (dict(sorted(LABELME.items())), "LabelMe json files"),
    "via_region_data.json": (VIA, r"\(VIA\), .* Export Annotations \(COCO format\)"),
    "via_project.json": ({"_via_settings": {}, "_via_img_metadata": VIA}, "COCO format"),
    "empty_via.json": ({"a.jpg1": VIA["a.jpg123"] | {"regions": []}}, "COCO format"),
    "project-1.json": (STUDIO, "Label Studio's own json, .* export as COCO"),
}


@pytest.mark.parametrize("name", FILES)
def test_json_of_other_tools(tmp_path: Path, name: str):
    content, message = FILES[name]
    make.image(tmp_path / name.replace("json", "jpg"), 40, 60)
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message) as error:
        formats.recognize(tmp_path)
    assert str(error.value).startswith(f"--data-path: {tmp_path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "filename,file_size,file_attributes,region_count,region_shape_attributes,",
            "VIA",
        ),
        ("file_name,objects\na.jpg,[1 2 3 4]\n", "write metadata.jsonl"),
    ],
)
def test_csv_of_other_tools(tmp_path: Path, content: str, message: str):
    (tmp_path / "metadata.csv").write_text(content)
    assert message in str(other_tools.advice(tmp_path))


def test_what_is_unknown(tmp_path: Path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").mkdir()
    (tmp_path / "c.json").write_bytes(b"\xff\0")
    assert other_tools.advice(tmp_path) is None
