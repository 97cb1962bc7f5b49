"""VOC folders: what is read, and one line for what can be wrong."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data import formats, voc
from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from tests.data import make

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin>"
    "<ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


def obj(*box: object, name: str = "cat", difficult: int = 0) -> str:
    return OBJECT.format(*box, name=name, difficult=difficult)


def write(
    root: Path, *objects: str, size: tuple = (40, 60), name: str = "a", split: str = "train"
) -> Path:
    make.image(root / "JPEGImages" / f"{name}.png", 40, 60)
    path = root / "Annotations" / f"{name}.xml"
    path.parent.mkdir(exist_ok=True)
    sides = f"<size><height>{size[0]}</height><width>{size[1]}</width></size>" if size else ""
    path.write_text(f"<annotation><filename>x.jpg</filename>{sides}{''.join(objects)}</annotation>")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    with (lists / f"{split}.txt").open("a") as file:
        file.write(f"{name}\n")
    return path


def devkit(root: Path) -> Path:
    """VOC2007 and VOC2012 with three sets and, for each year, a list of one class."""
    for year, ids in (("2007", ("000005", "000007")), ("2012", ("2008_000008", "2011_000001"))):
        write(root / f"VOC{year}", obj(1, 2, 11, 22), name=ids[0], split="trainval")
        write(root / f"VOC{year}", obj(3, 4, 3, 4, name="dog"), name=ids[1], split="trainval")
        (root / f"VOC{year}/ImageSets/Main/cat_trainval.txt").write_text(f"{ids[0]}  1\n")
    write(root / "VOC2007", obj(5, 5, 60, 40, difficult=1), obj(2, 2, 4, 4), name="000001",
          split="test")  # fmt: skip
    return root


def read(root: Path, *, skip: bool = False, classes: tuple = (), dataset: str = "auto"):
    problems = Problems(skip)
    return formats.read(root, "train", dataset, classes, problems), problems


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


def test_a_link_to_nothing_is_one_line(tmp_path: Path):
    path = write(tmp_path, obj(1, 2, 11, 22))
    write(tmp_path, obj(1, 2, 11, 22), name="b")
    path.unlink()
    path.symlink_to(tmp_path / "gone.xml")
    for dataset in ("auto", "voc"):
        with pytest.raises(DataError, match=r"Annotations/a\.xml: file: a\.xml: missing"):
            read(tmp_path, dataset=dataset)
        assert list(read(tmp_path, dataset=dataset, skip=True)[0].ids) == ["b"]


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


# PASCAL's own: several sets, 1-based boxes.


def read_sets(root: Path, split: str):
    return formats.read(root, split, "auto", (), Problems())


SETS = {
    "07": ["000005", "000007"],
    "2012_trainval": ["2008_000008", "2011_000001"],
    "2012_cat_trainval": ["2008_000008"],
    "07+12": ["000005", "000007", "2008_000008", "2011_000001"],
    "2012_trainval+2007_test": ["000001", "2008_000008", "2011_000001"],
    "07++12": ["000001", "000005", "000007", "2008_000008", "2011_000001"],
}


@pytest.mark.parametrize("split", SETS)
def test_sets_of_a_devkit(tmp_path: Path, split: str):
    data = read_sets(devkit(tmp_path), split)
    assert list(data.ids) == SETS[split]
    for id, file in zip(data.ids, data.files, strict=True):
        assert file == f"VOC{'2012' if '_' in id else '2007'}/JPEGImages/{id}.png"
    assert data.voc
    assert data.select(np.arange(len(data)) == 0).voc


def test_declared_boxes_are_indices_of_pixels(tmp_path: Path):
    """Corners (1, 2) and (11, 22) hold 11 x 21 pixels; (3, 4) and (3, 4) is one pixel."""
    data = read_sets(devkit(tmp_path), "07")
    assert data.xywh.tolist() == [[0, 1, 11, 21], [2, 3, 1, 1]]
    assert data.area.tolist() == [231, 1]
    assert data.trainable.all()
    assert data.training_boxes(0)[0].tolist() == [[0, 1, 11, 22]]


def test_boxes_of_one_folder_are_read_as_written_unless_declared(tmp_path: Path):
    write(tmp_path, obj(1, 2, 11, 22), obj(5, 5, 9.5, 9, difficult=1))
    (data, _), (declared, _) = read(tmp_path), read(tmp_path, dataset="voc")
    assert data.xywh.tolist() == [[1, 2, 10, 20], [5, 5, 4.5, 4]]
    assert declared.xywh.tolist() == [[0, 1, 11, 21], [4, 4, 5.5, 5]]
    assert (data.voc, declared.voc) == (False, True)
    assert declared.crowd.tolist() == [False, True]


def test_a_box_that_ends_before_it_begins_is_a_fault_of_declared_files_too(tmp_path: Path):
    write(tmp_path, obj(11, 2, 10, 22))
    with pytest.raises(DataError, match="must not be less"):
        read(tmp_path, dataset="voc")


def test_being_voc_is_not_part_of_the_digest(tmp_path: Path):
    """Runs compare digests: those of before stay valid."""
    data = read_sets(devkit(tmp_path), "07")
    assert data.digest() == replace(data, voc=False).digest()


@pytest.mark.parametrize("places", [("VOC2007",), ("VOCdevkit", "VOC2007")])
def test_devkits_are_recognized(tmp_path: Path, places: tuple[str, ...]):
    write(tmp_path.joinpath(*places), obj(1, 1, 5, 5))
    root = tmp_path.joinpath(*places).parent
    assert formats.recognize(root) == "voc"
    if root != tmp_path:
        with pytest.raises(UsageError, match=r"try --data-path .*VOCdevkit$"):
            formats.recognize(tmp_path)


def test_what_is_wrong_with_sets(tmp_path: Path):
    root = devkit(tmp_path / "voc")
    there = "found: 2007_test, 2007_trainval, 2012_trainval "
    for split, message in (
        ("2012_val", f"VOC2012/ImageSets/Main/val.txt: no such split; {there}"),
        ("val", f"voc: val: no such split; {there}"),
        ("07+12_", f"voc: 12_: no such split; {there}"),
        ("07+2010_train", "voc/VOC2010: no such folder; bash datasets/get_voc.sh gets "),
        ("07+2007_cat_trainval", "image 000005 is in two of the sets"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)) as error:
            read_sets(root, split)
        assert "\n" not in str(error.value)
    write(root / "VOC2012", obj(1, 1, 5, 5), name="000007", split="more")
    with pytest.raises(UsageError, match="image 000007 is in two of the sets"):
        read_sets(root, "07+2012_more")


@pytest.mark.parametrize("text", [None, "<annotation></annotation>"])
def test_a_split_without_public_boxes(tmp_path: Path, text: str | None):
    """VOC 2012 test."""
    root = devkit(tmp_path)
    for name in ("2008_000001", "2008_000003"):
        xml = write(root / "VOC2012", name=name, split="test")
        xml.unlink() if text is None else xml.write_text(text)
    with pytest.raises(UsageError, match=r"no image has a box.* --voc-submission"):
        read_sets(root, "2012_test")
    assert not voc.has_boxes(root, "2012_test")
    assert voc.has_boxes(root, "2012_test+2007_test")
    classes = Classes(("cat", "dog"), (1, 2))
    data = formats.read_voc_images(root, "2012_test", classes, Problems())
    assert list(data.ids) == ["2008_000001", "2008_000003"]
    assert data.files[1] == "VOC2012/JPEGImages/2008_000003.png"
    assert data.sizes.tolist() == [[40, 60]] * 2
    assert data.first.tolist() == [0, 0, 0]
    assert data.voc
    (root / data.path(0)).unlink()
    with pytest.raises(DataError, match=r"image 2008_000001: .*missing"):
        formats.read_voc_images(root, "2012_test", classes, Problems())


def test_result_files(tmp_path: Path):
    """Edges 0, 1.25, 11, 22.25 are the pixels 1 to 11 and, 1-based, 2.25 to 22.25."""
    data = read_sets(devkit(tmp_path / "voc"), "07")
    rows = [[1, 0, 1.25, 11, 21, 0.75, 1], [0, 9, 9, 1, 1, 1 / 3, 1], [1, 0, 0, 1, 2, 0.5, 2]]
    files = voc.write_results(tmp_path / "sub" / "out", "trainval", data, np.array(rows))
    assert [f.name for f in files] == ["comp4_det_trainval_cat.txt", "comp4_det_trainval_dog.txt"]
    assert files[0].read_text() == (
        "000007 0.750000 1.0 2.2 11.0 22.2\n000005 0.333333 10.0 10.0 10.0 10.0\n"
    )
    assert files[1].read_text() == "000007 0.500000 1.0 1.0 1.0 2.0\n"
    for file in voc.write_results(tmp_path / "none", "test", data, np.zeros((0, 7))):
        assert file.read_text() == ""  # the server wants a file of every class


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


def test_a_listed_image_without_an_annotation_file(tmp_path: Path):
    """A fault of PASCAL's own data; other tools leave images without objects so."""
    write(tmp_path, obj(1, 1, 5, 5)).unlink()
    write(tmp_path, obj(2, 2, 5, 5), name="b")
    with pytest.raises(DataError, match=r"a.xml: file: .*missing"):
        read(tmp_path, dataset="voc")
    data, problems = read(tmp_path)
    assert np.diff(data.first).tolist() == [0, 1]
    assert problems.counts() == {"listed image without an annotation file: no boxes": 1}


def test_missing_split_names_those_that_are_there(tmp_path: Path):
    write(tmp_path, obj(1, 1, 5, 5))
    with pytest.raises(UsageError, match=r"val.txt: no such split; found: train"):
        formats.read(tmp_path, "val", "auto", (), Problems())
