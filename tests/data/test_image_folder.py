"""Hugging Face's image folders: boxes by number, splits, names, and one line for what is wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from tests.data import make

BOXES = [[1, 2, 10, 20.5], [0, 0, 60, 40]]


def line(name: str, objects: Any = ..., **more: Any) -> str:
    objects = {"bbox": BOXES, "categories": [1, 0]} if objects is ... else objects
    return json.dumps({"file_name": name, "objects": objects, **more})


def write(path: Path, *lines: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(lines).encode(encoding))


def pictures(root: Path, *names: str) -> None:
    for name in names:
        make.image(root / name, 40, 60)


def read(root: Path, split: str = "train", *, skip: bool = False):
    problems = Problems(skip)
    return formats.read(root, split, "auto", (), problems), problems


def fails(root: Path, split: str = "train", error: type[Exception] = DataError) -> str:
    with pytest.raises(error) as failure:
        read(root, split)
    assert "\n" not in str(failure.value)
    return str(failure.value)


@pytest.mark.parametrize("folder", ["", "data/", "images/"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_one_file_is_one_set(tmp_path: Path, folder: str, encoding: str):
    write(
        tmp_path / folder / "metadata.jsonl",
        line("a.png", width=60, height=40),
        line("sub\\b.png", {"bbox": [], "categories": []}),
        "",
        encoding=encoding,
    )
    pictures(tmp_path, f"{folder}a.png", f"{folder}sub/b.png", f"{folder}.c.png")
    assert formats.recognize(tmp_path) == "imagefolder"
    assert make.splits(tmp_path) == []
    data, problems = read(tmp_path)
    assert list(data.files) == list(data.ids) == [f"{folder}a.png", f"{folder}sub/b.png"]
    assert data.xywh.tolist() == BOXES
    assert data.classes.names == ("0", "1")
    assert data.classes.category_ids == (0, 1)
    assert data.labels.tolist() == [2, 1]
    assert not problems.found
    assert "everything in it is one set" in fails(tmp_path, "val", UsageError)


@pytest.mark.parametrize("folder", ["", "data/"])
def test_a_file_for_each_split(tmp_path: Path, folder: str):
    for split in ("train", "validation"):
        write(tmp_path / folder / split / "metadata.jsonl", line("a.png"))
        pictures(tmp_path, f"{folder}{split}/a.png")
    assert formats.recognize(tmp_path) == "imagefolder"
    assert make.splits(tmp_path) == ["train", "validation"]
    assert list(read(tmp_path)[0].files) == [f"{folder}train/a.png"]
    data, problems = read(tmp_path, "val")
    assert list(data.files) == [f"{folder}validation/a.png"]
    assert not problems.found
    assert "no split test; found: train, validation (--train" in fails(tmp_path, "test", UsageError)


def test_one_file_with_the_splits_as_folders(tmp_path: Path):
    write(tmp_path / "metadata.jsonl", line("train/a.png"), line("./valid/b.png"))
    pictures(tmp_path, "train/a.png", "valid/b.png", "valid/c.png")
    assert make.splits(tmp_path) == ["train", "valid"]
    data, problems = read(tmp_path, "val")
    assert list(data.files) == ["valid/b.png"]
    assert problems.counts() == {"image without a line in metadata.jsonl: left out": 1}


def test_two_files_about_one_split_are_not_chosen_from(tmp_path: Path):
    for name in ("data/train", "train", "test"):
        write(tmp_path / name / "metadata.jsonl", line("a.png"))
        pictures(tmp_path, f"{name}/a.png")
    assert formats.recognize(tmp_path) == "imagefolder"
    shown = "data/train/metadata.jsonl and train/metadata.jsonl can be about the same images"
    assert shown in fails(tmp_path, "train", UsageError)
    assert list(read(tmp_path, "test")[0].files) == ["test/a.png"]


@pytest.mark.parametrize("folder", ["", "data/", "images/"])
def test_a_file_for_all_does_not_hide_those_of_the_splits(tmp_path: Path, folder: str):
    for name in (folder, "train/", "validation/"):
        write(tmp_path / name / "metadata.jsonl", line("a.png"))
        pictures(tmp_path, f"{name}a.png")
    for split in ("train", "val"):
        assert (
            f"{folder}metadata.jsonl and train/metadata.jsonl and validation/metadata.jsonl can be "
            "about the same images; leave one file for all there, or one for each split"
        ) in fails(tmp_path, split, UsageError)


def test_a_folder_that_may_not_be_entered_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path / "train" / "metadata.jsonl", line("a.png"))
    pictures(tmp_path, "train/a.png")
    stat = Path.stat

    def forbid(path: Path, **options: bool) -> os.stat_result:
        if path.parent.name in ("data", "secret"):
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    (tmp_path / "data").mkdir()
    (tmp_path / "secret").mkdir()
    monkeypatch.setattr(Path, "stat", forbid)
    assert formats.recognize(tmp_path) == "imagefolder"


OBJECTS = {
    "numbers": ({"bbox": BOXES, "category": [7, 7]}, ("7",), (7,), [1, 1]),
    "floats": ({"bbox": BOXES, "categories": [1.0, 0.0]}, ("0", "1"), (0, 1), [2, 1]),
    "names": ({"bbox": BOXES, "label": ["dog", " cat "]}, ("cat", "dog"), (1, 2), [2, 1]),
    "one object each": (
        [{"bbox": box, "category_id": k} for k, box in enumerate(BOXES)],
        ("0", "1"), (0, 1), [1, 2]),
    "numbers as text": (
        {"bbox": [[*map(str, box)] for box in BOXES], "label": [1, 0]},
        ("0", "1"), (0, 1), [2, 1]),
    "names that are numbers": ({"bbox": BOXES, "label": ["7", "10"]}, ("10", "7"), (1, 2), [2, 1]),
    "more properties": (
        {"id": [8, 9], "area": [1, 2], "bbox": BOXES, "category": [0, 1]},
        ("0", "1"), (0, 1), [1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("case", OBJECTS)
def test_objects(tmp_path: Path, case: str):
    objects, names, ids, labels = OBJECTS[case]
    write(tmp_path / "train" / "metadata.jsonl", line("a.png", objects))
    pictures(tmp_path, "train/a.png")
    data, _ = read(tmp_path)
    assert (data.classes.names, data.classes.category_ids) == (names, ids)
    assert data.labels.tolist() == labels
    assert data.xywh.tolist() == BOXES


@pytest.mark.parametrize("objects", [None, ...])
def test_a_line_without_objects_is_an_image_without_boxes(tmp_path: Path, objects: Any):
    empty = '{"file_name": "b.png"}' if objects is ... else line("b.png", None)
    write(tmp_path / "metadata.jsonl", line("a.png"), empty)
    pictures(tmp_path, "a.png", "b.png")
    data, problems = read(tmp_path)
    assert data.first.tolist() == [0, 2, 2]
    assert problems.counts() == {"line without objects: an image without boxes": 1}


LINES = {
    '{"file_name": "a.png", ': "line 2: .*: not json (",
    '{"file_name": "a.png"} {}': "line 2: .*: not json (Extra data",
    "[" * 100_000: "line 2: .*: not json (",
    '{"file_name": "a.png", "width": ' + "9" * 5000 + "}": "line 2: .*: not json (",
    '["a.png"]': "must be a json object with a file_name",
    '{"image": "a.png"}': "must be a json object with a file_name",
    '{"file_name": 3}': "must be a json object with a file_name",
    line("../a.png"): "line 2/file_name: ../a.png: leaves the image folder",
    line("/etc/a.png"): "leaves the image folder",
    line("missing.png"): "image missing.png: missing.png: missing",
    line("a.png"): "another image has this id too",
    line("b.png", width=-1, height=40): "line 2: 40 x -1: height and width must be positive",
    line("b.png", width="wide", height=40): "height and width must be positive whole numbers",
    line("b.png", width=1e9, height=40): "height and width must be positive whole numbers",
    line("b.png", width=61, height=40): "b.png has height 40, width 60",
    line("b.png", "none"): "line 2/objects: none: must be an object with bbox and categories",
    line("b.png", {"categories": []}): "must have bbox and one of categories, category,",
    line("b.png", {"bbox": []}): "must have bbox and one of",
    line("b.png", {"bbox": [], "label": [], "category": []}): "must have bbox and one of",
    line("b.png", {"bbox": 3, "label": []}): "bbox and label must be lists",
    line("b.png", {"bbox": BOXES, "label": [1]}): "2 bbox, but 1 label",
    line("b.png", [{"bbox": [1, 1, 1, 1]}, {"label": 1}]): "must be objects of the same properties",
    line("b.png", {"bbox": [[1, 2, 3]], "label": [1]}): "line 2/objects/bbox/0: [1, 2, 3]: must be",
    line("b.png", {"bbox": [[1, 2, -3, 4]], "label": [1]}): "must be four finite numbers below 1e9",
    line("b.png", {"bbox": [[1, 2, 3, "four"]], "label": [1]}): "must be four finite numbers",
    line("b.png", {"bbox": [[1, 2, 3, True]], "label": [1]}): "must be four finite numbers",
    line("b.png", {"bbox": [[1, 2, 3, 1e300]], "label": [1]}): "must be four finite numbers",
    line("b.png", {"bbox": [[1, 2, 3, float("nan")]], "label": [1]}): "must be four finite",
    line("b.png", {"bbox": [None], "label": [1]}): "must be four finite numbers",
    line("b.png", {"bbox": BOXES[:1], "label": [1.5]}): "line 2/objects/categories/0: 1.5: categ",
    line("b.png", {"bbox": BOXES[:1], "label": [True]}): "category must be a name or a whole",
    line("b.png", {"bbox": BOXES[:1], "label": [""]}): "category must be a name or a whole",
}


@pytest.mark.parametrize("bad", LINES, ids=range(len(LINES)))
def test_faulty_lines(tmp_path: Path, bad: str):
    write(tmp_path / "metadata.jsonl", line("a.png"), bad)
    pictures(tmp_path, "a.png", "b.png")
    message = fails(tmp_path)
    assert LINES[bad].rpartition(".*")[2] in message
    if "another" not in message:  # of two lines about one image neither is used
        data, problems = read(tmp_path, skip=True)
        assert data.files[0] == "a.png"
        assert data.xywh.tolist() == BOXES
        assert [p.action for p in problems.found if p.action != "left out"] == ["dropped"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line("a.png"), line("b.png", {"bbox": BOXES, "label": ["a", "b"]})],
         "categories: a, 0: some are names and some are numbers"),
        ([line("a.png", {"bbox": [], "label": []})], "no usable box in this split"),
        ([line("a.png", {"bbox": [[0.1, 0.2, 0.3, 0.4]], "label": [1]})],
         "objects/bbox: no number is above 1: boxes are fractions of their image; multiply"),
        ([line("a.png", {"bbox": [[30, 20, 50, 40]], "label": [1]})],
         "objects/bbox: 1 of 1 boxes leave their images as x y w h, but they fit as corners"),
    ],
)  # fmt: skip
def test_faulty_files(tmp_path: Path, lines: list[str], message: str):
    write(tmp_path / "metadata.jsonl", *lines)
    pictures(tmp_path, "a.png", "b.png")
    assert message in fails(tmp_path)


def test_text_that_cannot_be_decoded(tmp_path: Path):
    write(tmp_path / "metadata.jsonl", line("a.png"), '{"file_name": "каска"}', encoding="cp1251")
    assert "metadata.jsonl: byte " in fails(tmp_path)


def test_findings_are_said_before_their_consequence(tmp_path: Path):
    write(tmp_path / "metadata.jsonl", line("a.png", {"bbox": [[1]], "label": [1]}))
    pictures(tmp_path, "a.png")
    assert "line 1/objects/bbox/0: [1]: must be four" in fails(tmp_path)
    with pytest.raises(DataError, match=r"no usable box .*; the first finding: .*bbox/0"):
        read(tmp_path, skip=True)


def test_names_of_the_card(tmp_path: Path):
    write(tmp_path / "train" / "metadata.jsonl", line("a.png"))
    pictures(tmp_path, "train/a.png")
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: objects\n    sequence:\n"
        "    - name: categories\n      dtype:\n        class_label:\n          names:\n"
        "            '0': mask\n            '1': glove\n            '2': coverall\n---\n# Data\n"
    )
    data, problems = read(tmp_path)
    assert data.classes.names == ("mask", "glove", "coverall")
    assert data.classes.category_ids == (0, 1, 2)
    assert data.labels.tolist() == [2, 1]
    assert not problems.found
    write(tmp_path / "train" / "metadata.jsonl", line("a.png", {"bbox": BOXES, "label": [1, 3]}))
    assert "categories: 3: the 3 class names of the data set's card have no such number" in fails(
        tmp_path
    )


def test_other_image_folders_are_not_taken_for_this(tmp_path: Path):
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.png", "text": "a cat"}')
    pictures(tmp_path, "a.png")
    with pytest.raises(UsageError, match="no data set found"):
        formats.recognize(tmp_path)
