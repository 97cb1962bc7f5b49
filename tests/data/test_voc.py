"""VOC folders: what is read, and one line for what can be wrong."""

from pathlib import Path

import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from tests.data import make

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin>"
    "<ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


def obj(*box: object, name: str = "cat", difficult: int = 0) -> str:
    return OBJECT.format(*box, name=name, difficult=difficult)


def write(root: Path, *objects: str, size: tuple = (40, 60), name: str = "a") -> Path:
    make.image(root / "JPEGImages" / f"{name}.png", 40, 60)
    path = root / "Annotations" / f"{name}.xml"
    path.parent.mkdir(exist_ok=True)
    sides = f"<size><height>{size[0]}</height><width>{size[1]}</width></size>" if size else ""
    path.write_text(f"<annotation><filename>x.jpg</filename>{sides}{''.join(objects)}</annotation>")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    with (lists / "train.txt").open("a") as file:
        file.write(f"{name}\n")
    return path


def read(root: Path, *, skip: bool = False, classes: tuple = ()):
    problems = Problems(skip)
    return formats.read(root, "train", "auto", classes, problems), problems


def test_boxes_names_and_difficult(tmp_path: Path):
    write(tmp_path, obj(1, 2, 11, 22, name="dog"), obj(5, 5, 9.5, 9, difficult=1), obj(0, 0, 3, 3))
    data, _ = read(tmp_path)
    assert list(data.ids) == ["a"]
    assert data.files[0] == "JPEGImages/a.png"
    assert data.classes.names == ("cat", "dog")
    assert data.xywh.tolist() == [[1, 2, 10, 20], [5, 5, 4.5, 4], [0, 0, 3, 3]]
    assert data.crowd.tolist() == [False, True, False]
    assert data.training_boxes(0)[1].tolist() == [2, 1]
    assert read(tmp_path, classes=("dog",))[0].labels.tolist() == [1]


def test_real_folder(bccd_voc: Path):
    problems = Problems()
    data = formats.read(bccd_voc, "trainval", "auto", (), problems)
    assert len(data) == 292
    assert data.classes.names == ("Platelets", "RBC", "WBC")
    assert problems.counts() == {"box of zero width or height: dropped": 2}
    assert {Path(p.file).stem for p in problems.found} == {"BloodImage_00338", "BloodImage_00343"}
    test = formats.read(bccd_voc, "test", "auto", data.classes, Problems())
    assert len(test) == 72


def test_without_a_size_the_image_is_measured(tmp_path: Path):
    write(tmp_path, obj(1, 2, 11, 22), size=())
    assert read(tmp_path)[0].sizes.tolist() == [[40, 60]]


FAULTS = [
    (obj(1, 2, "x", 22), "object 1/bndbox", "four numbers"),
    (obj(1, 2, "nan", 22), "object 1/bndbox", "finite numbers"),
    (obj(11, 2, 1, 22), "object 1/bndbox", "must not be less"),
    ("<object><name>cat</name></object>", "object 1/bndbox", "four numbers"),
    (obj(1, 2, 3, 4, name=""), "object 1/name", "class name"),
]


@pytest.mark.parametrize(("text", "field", "what"), FAULTS)
def test_faulty_objects(tmp_path: Path, text: str, field: str, what: str):
    write(tmp_path, text, obj(1, 1, 5, 5))
    with pytest.raises(DataError) as error:
        read(tmp_path)
    (line,) = str(error.value).splitlines()
    assert f"a.xml: {field}: " in line
    assert what in line
    data, problems = read(tmp_path, skip=True)
    assert data.xywh.tolist() == [[1, 1, 4, 4]]
    assert len(problems.found) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda xml: xml.unlink(), "a.xml: file: .*missing"),
        (lambda xml: xml.write_text("<annotation><object>"), "a.xml: line 1 column .*not XML"),
        (lambda xml: xml.write_text("<html></html>"), "root element: html: must be annotation"),
        (lambda xml: (xml.parents[1] / "JPEGImages" / "a.png").unlink(), "image a: .*missing"),
        (
            lambda xml: make.image(xml.parents[1] / "JPEGImages" / "a.png", 41, 60),
            "height 40, width 60: JPEGImages/a.png has height 41, width 60",
        ),
    ],
)
def test_faulty_files(tmp_path: Path, change, message: str):
    xml = write(tmp_path, obj(1, 1, 5, 5))
    write(tmp_path, obj(2, 2, 5, 5), name="b")
    change(xml)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path)
    assert len(str(error.value).splitlines()) == 1
    assert list(read(tmp_path, skip=True)[0].ids) == ["b"]


def test_missing_split_names_those_that_are_there(tmp_path: Path):
    write(tmp_path, obj(1, 1, 5, 5))
    with pytest.raises(UsageError, match=r"val.txt: no such split; there is train"):
        formats.read(tmp_path, "val", "auto", (), Problems())
