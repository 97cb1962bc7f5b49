"""Recognizing a format by what is there, and errors that say what to do."""

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
    with pytest.raises(DataError, match="no box of the classes zebra"):
        formats.read(tmp_path, "train", "auto", Classes(("zebra",), (1,)), Problems())


def test_xml_in_a_folder_called_labels_is_not_yolo(tmp_path: Path):
    make.image(tmp_path / "images" / "a.png", 40, 60)
    (tmp_path / "labels").mkdir()
    xml = f"<annotation><filename>a.png</filename>{test_voc.obj(1, 1, 5, 5)}</annotation>"
    (tmp_path / "labels" / "a.xml").write_text(xml)
    assert formats.recognize(tmp_path) == "voc"
    assert formats.read(tmp_path, "train", "auto", (), Problems()).xywh.tolist() == [[1, 1, 4, 4]]
