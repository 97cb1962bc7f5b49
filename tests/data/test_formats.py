"""Recognizing a format by what is there, and errors that say what to do."""

import unicodedata
from pathlib import Path

import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from tests.data import make, test_cvat, test_image_folder, test_voc, test_yolo


def test_each_format_is_recognized(tmp_path: Path):
    make.coco(tmp_path / "coco")
    test_voc.write(tmp_path / "voc", test_voc.obj(1, 1, 5, 5))
    test_yolo.write(tmp_path / "yolo")
    test_cvat.write(tmp_path / "cvat" / "annotations.xml", test_cvat.image("a.png"))
    test_image_folder.write(
        tmp_path / "imagefolder" / "metadata.jsonl", test_image_folder.line("a.png")
    )
    for name in formats.READERS:
        assert formats.recognize(tmp_path / name) == name


def test_two_formats_in_one_folder_need_a_decision(tmp_path: Path):
    make.coco(tmp_path)
    test_voc.write(tmp_path, test_voc.obj(1, 1, 5, 5))
    with pytest.raises(UsageError, match="could be coco or voc; say --dataset coco"):
        formats.recognize(tmp_path)
    assert len(formats.read(tmp_path, "train", "voc", (), Problems())) == 1
    assert len(formats.read(tmp_path, "train", "coco", (), Problems())) == 2


def test_places_without_data(tmp_path: Path):
    with pytest.raises(UsageError, match="no such folder; check the path"):
        formats.recognize(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no data set found"):
        formats.recognize(tmp_path)
    make.coco(tmp_path / "sub")
    with pytest.raises(UsageError, match=r"try --data-path .*/sub"):
        formats.recognize(tmp_path)


@pytest.mark.parametrize("dataset", ["auto", *formats.READERS])
def test_a_root_that_is_no_folder_is_one_line(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file.zip").write_text("")
    for name, what in (("gone", "no such folder"), ("file.zip", "not a folder")):
        line = rf"^--data-path: \S+/{name}: {what}; check the path$"
        with pytest.raises(UsageError, match=line):
            formats.read(tmp_path / name, "train", dataset, (), Problems())
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UsageError, match=r"it may not be read; change its permissions$"):
        formats.read(tmp_path, "train", dataset, (), Problems())


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", ["coco", "voc"])
def test_missing_default_data_names_files_and_command(tmp_path: Path, name: str, there: bool):
    root = tmp_path / "datasets" / name
    if there:
        root.mkdir(parents=True)
    with pytest.raises(UsageError) as error:
        formats.recognize(root)
    assert f"get_{name}.sh" in str(error.value)
    expected = "annotations/instances_train2017.json" if name == "coco" else "ImageSets/Main"
    assert expected in str(error.value)


def test_a_models_classes_decide_labels_by_name(tmp_path: Path):
    make.coco(tmp_path)
    model = Classes(("zebra", "dog"), (1, 2))
    data = formats.read(tmp_path, "train", "auto", model, Problems())
    assert data.labels.tolist() == [2]
    assert data.classes is model
    problems = Problems()
    formats.read(tmp_path, "train", "auto", Classes(("Dog!", "cat"), (1, 2)), problems)
    (note,) = problems.found
    assert (note.field, note.value, note.action) == ("class dog", "1", "boxes left out: 1")
    assert note.what == (
        "class dog, which the model does not have (it has Dog!: rename one of them)"
    )
    problems = Problems()
    formats.read(tmp_path, "train", "auto", Classes(("dog",), (1,)), problems, known=("cat",))
    assert problems.found == []
    with pytest.raises(DataError, match="no box of the classes zebra"):
        formats.read(tmp_path, "train", "auto", Classes(("zebra",), (1,)), Problems())


@pytest.mark.parametrize("dataset", ["coco", "voc", "cvat", "imagefolder", "yolo"])
def test_accents_of_macos_are_found(tmp_path: Path, dataset: str):
    """In file names as macOS unpacks them, a letter and its accent are two characters."""
    there, named = (unicodedata.normalize(form, "\u00e9t\u00e9") for form in ("NFD", "NFC"))
    if dataset == "coco":
        make.coco(tmp_path, make.changed(("images", 0, "file_name"), f"{named}.png"))
        (tmp_path / "train2017/a.png").rename(tmp_path / f"train2017/{there}.png")
    elif dataset == "voc":
        test_voc.write(tmp_path, test_voc.obj(1, 1, 5, 5), name=there)
        (tmp_path / "ImageSets/Main/train.txt").write_text(f"{named}\n")
    elif dataset == "yolo":
        test_yolo.tree(tmp_path, {f"images/{there}.png": "", f"labels/{named}.txt": "0 1 1 1 1"})
        (tmp_path / "classes.txt").write_text("cat\n")
    else:
        make.image(tmp_path / f"{there}.png", 40, 60)
        test_cvat.write(
            tmp_path / "annotations.xml", test_cvat.image(f"{named}.png", test_cvat.box())
        )
        line = test_image_folder.line(f"{named}.png")
        test_image_folder.write(tmp_path / "metadata.jsonl", line)
    problems = Problems()
    data = formats.read(tmp_path, "train", dataset, (), problems)
    assert f"{there}.png" in {Path(file).name for file in data.files}
    assert "left out" not in {problem.action for problem in problems.found}


def test_xml_in_a_folder_called_labels_is_not_yolo(tmp_path: Path):
    make.image(tmp_path / "images" / "a.png", 40, 60)
    (tmp_path / "labels").mkdir()
    xml = f"<annotation><filename>a.png</filename>{test_voc.obj(1, 1, 5, 5)}</annotation>"
    (tmp_path / "labels" / "a.xml").write_text(xml)
    assert formats.recognize(tmp_path) == "voc"
    assert formats.read(tmp_path, "train", "auto", (), Problems()).xywh.tolist() == [[1, 1, 4, 4]]
