"""COCO layouts: which json file is which split, and where its images are."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from fasterrcnn.data import coco_files, formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from tests.data import make

TOOLS = [  # json file, folder of the images, split asked for
    ("annotations/instances_train2017.json", "train2017", "train"),  # COCO
    ("annotations/instances_train.json", "images/train", "train"),
    ("annotations/train.json", "images", "train"),
    ("annotations/instances_val2017.json", "val2017", "val2017"),
    ("annotations/instances_Train.json", "images/Train", "train"),  # CVAT with a subset
    ("annotations/instances_default.json", "images/default", "train"),  # Datumaro
    ("annotations/instances_default.json", "images", "train"),  # CVAT
    ("train/_annotations.coco.json", "train", "train"),  # Roboflow
    ("valid/_annotations.coco.json", "valid", "val"),
    ("train/annotations.json", "train/images", "train"),
    ("train/labels.json", "train/data", "train"),  # FiftyOne, a folder per split
    ("labels.json", "data", "train"),  # FiftyOne
    ("result.json", "images", "train"),  # Label Studio
    ("train.json", "train", "train"),
    ("train_coco.json", "images", "train"),
    ("val_annotations.json", "val", "val"),
    ("my_boats.json", ".", "train"),
    ("annotations/train/boats.json", "images/train", "train"),
]


def write(root: Path, json_file: str, folder: str, names: dict[str, str] | None = None) -> None:
    """`names`: file -> what the json calls it."""
    images, boxes = [], []
    for k, (file, name) in enumerate((names or {"a.png": "a.png", "b.png": "b.png"}).items()):
        make.image(root / folder / file, 40, 60)
        images.append({"id": k, "file_name": name, "height": 40, "width": 60})
        boxes.append({"id": k, "image_id": k, "category_id": 1, "bbox": [k, 2, 10, 20]})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "boat"}]}
    (root / json_file).parent.mkdir(parents=True, exist_ok=True)
    (root / json_file).write_text(json.dumps(content))


def read(root: Path, split: str = "train"):
    return formats.read(root, split, "auto", (), Problems())


@pytest.mark.parametrize(("json_file", "folder", "split"), TOOLS)
def test_layouts_of_tools(tmp_path: Path, json_file: str, folder: str, split: str):
    write(tmp_path, json_file, folder)
    data = read(tmp_path, split)
    assert [Path(data.path(i)) for i in range(2)] == [
        tmp_path / folder / n for n in ("a.png", "b.png")
    ]
    assert data.xywh.tolist() == [[0, 2, 10, 20], [1, 2, 10, 20]]


NAMES = [  # json file, folder of the images, file, what the json calls it
    ("result.json", "images", "a b.png", "images/a b.png"),
    ("result.json", "images", "a.png", "images\\a.png"),
    ("result.json", "images", "a b.png", "a%20b.png"),
    ("result.json", "images", "a%20b.png", "a%20b.png"),
    ("result.json", "images", "a.png", "./a.png"),
    ("annotations/train.json", "images", "a.png", "images/a.png"),
    ("annotations/train.json", "train", "a.png", "train/a.png"),
    ("annotations/train.json", "images/train", "a.png", "train/a.png"),
    ("annotations/train.json", "train", "a.png", "data/train/a.png"),
    ("annotations/train.json", "images", "a.png", "../images/a.png"),
    ("annotations/train.json", "images", "a.png", "/home/someone/export/a.png"),
    ("annotations/train.json", "images", "s/a.png", "C:\\export\\s\\a.png"),
    ("annotations/train.json", "images", "a.png", "/data/upload/1/a.png"),
    ("train/_annotations.coco.json", "train", "sub/a.png", "sub/a.png"),
]


@pytest.mark.parametrize(("json_file", "folder", "file", "name"), NAMES)
def test_names_as_tools_write_them(
    tmp_path: Path, json_file: str, folder: str, file: str, name: str
):
    write(tmp_path, json_file, folder, {file: name})
    data = read(tmp_path)
    assert Path(data.path(0)) == tmp_path / folder / file
    assert data.training_boxes(0)[0].tolist() == [[0, 2, 10, 22]]


def test_lvis_names_images_by_url_only(tmp_path: Path):
    write(tmp_path, "annotations/lvis_v1_train.json", "train2017", {"7.png": "x"})
    path = tmp_path / "annotations" / "lvis_v1_train.json"
    content = json.loads(path.read_text())
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/7.png"
    path.write_text(json.dumps(content))
    assert Path(read(tmp_path).path(0)) == tmp_path / "train2017" / "7.png"


def test_two_names_that_end_alike_are_not_one_file(tmp_path: Path):
    names = {"a.png": "north/a.png", "b.png": "south/a.png"}
    write(tmp_path, "annotations/train.json", "images", names)
    with pytest.raises(DataError, match="two images have this file"):
        read(tmp_path)


def test_images_in_several_folders(tmp_path: Path):
    write(tmp_path, "annotations/train.json", "images/train", {"a.png": "a.png", "b.png": "x"})
    make.image(tmp_path / "more" / "x.png", 40, 60)
    path = tmp_path / "annotations" / "train.json"
    path.write_text(path.read_text().replace('"x"', '"more/x.png"'))
    data = read(tmp_path)
    assert sorted(data.files) == ["images/train/a.png", "more/x.png"]
    assert data.folder == tmp_path


def test_without_any_image_the_places_are_named(tmp_path: Path):
    write(tmp_path, "annotations/instances_val2017.json", "elsewhere")
    with pytest.raises(DataError) as error:
        read(tmp_path, "val")
    (line,) = str(error.value).splitlines()
    assert "none of its 2 images is there, for example a.png" in line


def test_the_first_folder_that_has_a_name_is_used_for_every_image(tmp_path: Path):
    names = {"first.png": "first.png", "both.png": "both.png", "second.png": "second.png"}
    for order in (names, dict(reversed(names.items()))):
        write(tmp_path, "annotations/train.json", "images", order)
        make.image(tmp_path / "train" / "both.png", 40, 60)
        make.image(tmp_path / "train" / "first.png", 40, 60)
        used = {"train/first.png", "train/both.png", "images/second.png"}
        assert {*read(tmp_path).files} == used


@pytest.mark.parametrize(("file", "name"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_are_one_character_or_two(tmp_path: Path, file: str, name: str):
    file, name = (unicodedata.normalize(form, "Gr\u00f6\u00df/\u00e9.png") for form in (file, name))
    write(tmp_path, "annotations/train.json", "images", {file: name})
    assert Path(read(tmp_path).path(0)) == tmp_path / "images" / file


def test_a_folder_that_may_not_be_listed_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path, "train/_annotations.coco.json", "train")
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def forbid(path: str = ".") -> Any:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbid)
    assert len(read(tmp_path)) == 2


def test_of_many_json_files_a_few_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, "result.json", "images")
    for k in range(200):
        (tmp_path / f"{k}.json").write_text('{"shapes": []}')
    looked, open_file = [], Path.open

    def count(path: Path, *rest: Any, **options: Any) -> Any:
        looked.append(path)
        return open_file(path, *rest, **options)

    monkeypatch.setattr(Path, "open", count)
    assert [path.name for path in coco_files.find_all(tmp_path)] == ["result.json"]
    assert len(looked) == 50


def test_without_any_json_file_there_is_no_split(tmp_path: Path):
    with pytest.raises(UsageError, match=r"no COCO annotations found \(annotations/\*\.json\)"):
        coco_files.find(tmp_path, "train")


def test_two_files_that_fit_are_not_chosen_from(tmp_path: Path):
    write(tmp_path, "annotations/instances_train2014.json", "train2014")
    write(tmp_path, "train/_annotations.coco.json", "train")
    with pytest.raises(
        UsageError, match=r"can be annotations/\S+ or train/\S+; say which one"
    ) as e:
        read(tmp_path)
    assert e.value.code == 2
    assert len(read(tmp_path, "train2014")) == 2
    assert len(read(tmp_path, "train/_annotations.coco.json")) == 2


def test_two_years_of_coco_side_by_side(tmp_path: Path):
    write(tmp_path, "annotations/instances_train2014.json", "train2014", {"a.png": "a.png"})
    write(tmp_path, "annotations/instances_train2017.json", "train2017")
    with pytest.raises(UsageError, match=r"instances_train2014\S+ or \S+instances_train2017"):
        read(tmp_path)
    for split, count in (("train2014", 1), ("train2017", 2)):
        data = read(tmp_path, split)
        assert len(data) == count
        assert Path(data.path(0)) == tmp_path / split / "a.png"


def test_other_files_of_coco_are_other_splits(tmp_path: Path):
    write(tmp_path, "annotations/instances_train2017.json", "train2017")
    write(tmp_path, "annotations/person_keypoints_train2017.json", "train2017", {"a.png": "a.png"})
    assert len(read(tmp_path)) == 2


def test_a_split_that_is_not_there(tmp_path: Path):
    write(tmp_path, "annotations/instances_train2017.json", "train2017")
    with pytest.raises(UsageError, match=r"no split val; found: train2017 .*--val-fraction 0.1"):
        read(tmp_path, "val")


def test_one_set_without_a_name_has_no_other_split(tmp_path: Path):
    write(tmp_path, "result.json", "images")
    with pytest.raises(UsageError, match=r"one set; add --val-fraction 0.1 .* or --val-split none"):
        read(tmp_path, "val")


def test_other_json_files_are_not_annotations(tmp_path: Path):
    (tmp_path / "notes.json").write_text(json.dumps({"categories": [], "info": {}}))
    (tmp_path / ".hidden.json").write_text(json.dumps({"images": [{"file_name": ""}]}))
    assert coco_files.find_all(tmp_path) == []
