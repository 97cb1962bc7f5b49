"""VOC as tools write it: folders, lists and splits; what belongs to nothing is counted."""

import codecs
from pathlib import Path

import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from tests.data import make
from tests.data.test_voc import obj

BOX = obj(1, 2, 11, 22)


def write(root: Path, *names: str, objects: str = BOX, filename: str = "") -> Path:
    """Images of 40 x 60 px, and annotation files with one cat, by their suffixes."""
    for path in (root / name for name in names):
        if path.suffix.lower() == ".xml":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"<annotation><filename>{filename}</filename>{objects}</annotation>")
        else:
            make.image(path, 40, 60)
    return root


def write_list(path: Path, content: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))


def read(root: Path, split: str = "train", *, skip: bool = False):
    problems = Problems(skip)
    return formats.read(root, split, "auto", (), problems), problems


def fails(root: Path, split: str = "train", error: type[Exception] = DataError) -> str:
    with pytest.raises(error) as failure:
        read(root, split)
    assert "\n" not in str(failure.value)
    return str(failure.value)


LAYOUTS = {
    "kaggle": ("annotations/{}.xml", "images/{}.png"),
    "upper case": ("ANNOTATIONS/{}.XML", "Images/{}.JPG"),
    "label studio": ("Annotations/{}.xml", "images/{}.jpg"),
    "fiftyone": ("labels/{}.xml", "data/{}.jpg"),
    "labelImg": ("{}.xml", "{}.jpg"),
    "beside, in images": ("images/{}.xml", "images/{}.jpg"),
    "images in no folder": ("Annotations/{}.xml", "{}.jpg"),
    "unknown image folder": ("annotations/{}.xml", "photos of may/{}.jpg"),
    "oxford pets": ("annotations/xmls/{}.xml", "images/{}.jpg"),
    "sub-folders": ("Annotations/a/{}.xml", "JPEGImages/a/{}.jpeg"),
    "only images in sub-folders": ("Annotations/{}.xml", "JPEGImages/a/b/{}.webp"),
    "supervisely's names": ("annotations/{}.jpg.xml", "images/{}.jpg"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_without_lists_are_one_set(tmp_path: Path, name: str):
    xml, image = LAYOUTS[name]
    for stem in ("img 1", "v1.5", "猫"):
        write(tmp_path, xml.format(stem), image.format(stem))
    assert formats.recognize(tmp_path) == "voc"
    data, problems = read(tmp_path)
    assert sorted(data.files) == sorted(image.format(stem) for stem in ("img 1", "v1.5", "猫"))
    assert data.xywh.tolist() == [[1, 2, 10, 20]] * 3
    assert data.classes.names == ("cat",)
    assert not problems.found
    assert make.splits(tmp_path) == []
    assert "everything in it is one set; add --val-fraction 0.1" in fails(
        tmp_path, "val", UsageError
    )


SPLITS = {
    "roboflow": ("{split}/{}.xml", "{split}/{}.jpg"),
    "supervision": ("{split}/annotations/{}.xml", "{split}/images/{}.jpg"),
    "fiftyone": ("{split}/labels/{}.xml", "{split}/data/{}.jpg"),
    "own names": ("{split}/Annotations/{}.xml", "{split}/JPEGImages/{}.jpg"),
    "folders in folders": ("annotations/{split}/{}.xml", "images/{split}/{}.jpg"),
    "tensorflow's tutorial": ("images/{split}/{}.xml", "images/{split}/{}.jpg"),
    "below data": ("data/{split}/annotations/{}.xml", "data/{split}/images/{}.jpg"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_folder_for_each_split(tmp_path: Path, name: str):
    xml, image = SPLITS[name]
    for split, stems in (("train", ("1", "2")), ("valid", ("1", "9")), ("extra", ("3",))):
        for stem in stems:  # the name 1 is in two of them
            write(tmp_path, xml.format(stem, split=split), image.format(stem, split=split))
    write(tmp_path, xml.format("2", split="train"), objects=obj(3, 4, 5, 6, name="dog"))
    assert formats.recognize(tmp_path) == "voc"
    assert make.splits(tmp_path) == ["extra", "train", "valid"]
    data, problems = read(tmp_path)
    assert sorted(data.files) == [image.format(stem, split="train") for stem in ("1", "2")]
    assert data.xywh.tolist() == [[1, 2, 10, 20], [3, 4, 2, 2]]
    assert data.classes.names == ("cat", "dog")
    val, _ = read(tmp_path, "val")
    assert sorted(val.files) == [image.format(stem, split="valid") for stem in ("1", "9")]
    assert not problems.found
    assert read(tmp_path, "extra")[0].files[0] == image.format("3", split="extra")
    message = fails(tmp_path, "test", UsageError)
    assert message.endswith("found: extra, train, valid (--train-split, --val-split)")


def test_one_folder_called_like_a_split(tmp_path: Path):
    write(tmp_path, "train/a.xml", "train/a.jpg")
    assert list(read(tmp_path)[0].files) == ["train/a.jpg"]
    assert "no split val; found: train" in fails(tmp_path, "val", UsageError)


def test_folders_of_classes_are_no_splits(tmp_path: Path):
    for name in ("bus", "car", "train"):
        write(tmp_path / "flat", f"{name}/a.xml", f"{name}/a.jpg")
        write(tmp_path / "voc", f"Annotations/{name}/{name}.xml", f"JPEGImages/{name}/{name}.jpg")
    with pytest.raises(UsageError, match=r"try --data-path .*/bus"):
        formats.recognize(tmp_path / "flat")
    assert len(read(tmp_path / "voc")[0]) == 3


LINES = {
    "ids": "img 1\nb\n",
    "CRLF, blank lines": "img 1\r\n\r\n  b  \r\n",
    "old Mac": "img 1\rb",
    "suffixes": "img 1.jpg\nb.JPG\n",
    "xml": "img 1.xml\nb.xml",
    "flags": "img 1  1\nb -1\n",
    "suffixes and flags": "img 1.jpg 1\nb.jpg 0\n",
    "paths": "JPEGImages/img 1.jpg\n./JPEGImages/b.jpg\n",
    "absolute paths": "/home/x/VOCdevkit/VOC2007/JPEGImages/img 1.jpg\nD:\\d\\JPEGImages\\b.jpg\n",
    "xml paths": "Annotations/img 1.xml\nAnnotations/b.xml\n",
    "pairs": 'JPEGImages/b.jpg Annotations/b.xml\n"img 1" 1\n',
    "quotes": '"img 1"\n"b"\n',
    "comments": "# made by a tool\nimg 1\nb\n",
    "keras": "JPEGImages/b.jpg 1,2,11,22,0\nimg 1\n",
    "twice": "img 1\nb\nimg 1\nb.jpg\n",
}


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_of_lists(tmp_path: Path, lines: str, encoding: str):
    write(tmp_path, "Annotations/img 1.xml", "Annotations/b.xml", "JPEGImages/img 1.jpg")
    write(tmp_path, "JPEGImages/b.JPG", "Annotations/c.xml", "JPEGImages/c.jpg")
    write_list(tmp_path / "ImageSets/Main/train.txt", LINES[lines], encoding)
    data, problems = read(tmp_path)
    assert sorted(data.ids) == ["b", "img 1"]
    assert sorted(data.files) == ["JPEGImages/b.JPG", "JPEGImages/img 1.jpg"]
    assert [(Path(p.file).name, p.what) for p in problems.found] == [
        ("c.xml", "annotation file in no split")
    ]


def test_names_with_dots_are_not_cut(tmp_path: Path):
    write(tmp_path, "Annotations/f.1.xml", "Annotations/f.xml", "JPEGImages/f.1.jpg")
    write(tmp_path, "JPEGImages/f.jpg")
    write_list(tmp_path / "ImageSets/Main/train.txt", "f.1\n")
    assert list(read(tmp_path)[0].files) == ["JPEGImages/f.1.jpg"]
    (tmp_path / "Annotations/f.1.xml").unlink()
    (tmp_path / "JPEGImages/f.1.jpg").unlink()
    assert "f.1.xml: file: f.1.xml: missing" in fails(tmp_path)


PLACES = ["ImageSets/Main/{}.txt", "imagesets/main/{}.txt", "ImageSets/{}.txt", "{}.txt"]


@pytest.mark.parametrize("place", PLACES)
def test_places_and_names_of_lists(tmp_path: Path, place: str):
    """CVAT's subsets are called Train and Validation; PaddleDetection's lists are in the root."""
    write(tmp_path, "Annotations/a/1.xml", "JPEGImages/a/1.jpg", "Annotations/2.xml")
    write(tmp_path, "JPEGImages/2.jpg", "Annotations/3.xml", "JPEGImages/3.jpg")
    write_list(tmp_path / place.format("Train"), "a/1\n")
    write_list(tmp_path / place.format("Validation"), "2\n3\n")
    write_list(tmp_path / "label_list.txt", "cat\n")
    write_list(tmp_path / place.format("Test"), "")
    assert make.splits(tmp_path) == ["Test", "Train", "Validation"]
    data, problems = read(tmp_path)
    assert list(data.files) == ["JPEGImages/a/1.jpg"]
    assert not problems.found
    assert list(read(tmp_path, "val")[0].ids) == ["2", "3"]
    assert "Test.txt: lists no image" in fails(tmp_path, "test")
    assert "more.txt: no such split; found: Test, Train, Validation (--train-split" in fails(
        tmp_path, "more", UsageError
    )


def test_the_list_default_is_one_set(tmp_path: Path):
    """CVAT and Datumaro write it where there are no subsets; labelmap.txt is not needed."""
    write(tmp_path, "Annotations/1.xml", "JPEGImages/1.jpg")
    write_list(tmp_path / "ImageSets/Main/default.txt", "1\n")
    write_list(tmp_path / "labelmap.txt", "# label:color_rgb:parts:actions\ncat:1,2,3::\n")
    assert make.splits(tmp_path) == []
    assert len(read(tmp_path)[0]) == len(read(tmp_path, "default")[0]) == 1
    assert "everything in it is one set" in fails(tmp_path, "val", UsageError)


def test_lists_that_are_no_text_or_empty(tmp_path: Path):
    write(tmp_path, "Annotations/1.xml", "JPEGImages/1.jpg")
    path = tmp_path / "ImageSets/Main/train.txt"
    write_list(path, "каска", "cp1251")
    assert "train.txt: byte 0: not UTF-8; save it as UTF-8" in fails(tmp_path)
    path.write_bytes(codecs.BOM_UTF16_LE + b"1")
    assert "train.txt: byte 2: not UTF-16" in fails(tmp_path)
    path.write_text("\n")
    assert "train.txt: lists no image; give another split" in fails(tmp_path)
    path.unlink()
    path.mkdir()
    assert "train.txt: not a regular file" in fails(tmp_path)


def test_a_listed_image_must_be_there(tmp_path: Path):
    write(tmp_path, "Annotations/1.xml", "Annotations/2.xml", "JPEGImages/1.jpg")
    write_list(tmp_path / "ImageSets/Main/train.txt", "1\n2\n")
    assert "JPEGImages/2.jpg: image 2: 2.jpg: missing" in fails(tmp_path)
    write(tmp_path, "elsewhere/a.xml", "elsewhere/a.jpg")
    for line in ("../elsewhere/a", f"{tmp_path}/elsewhere/a", "9" * 5000):
        write_list(tmp_path / "ImageSets/Main/train.txt", f"1\n{line}\n")
        assert ": missing; correct it" in fails(tmp_path)
        with pytest.raises(DataError, match=": missing; correct it"):
            formats.read(tmp_path, "train", "voc", (), Problems())
    assert list(read(tmp_path, skip=True)[0].ids) == ["1"]


IMAGES = {  # annotation file, its <filename>, images: the one that is meant
    "suffix of another case": ("a.xml", "a.jpg", ["a.JPG"], "a.JPG"),
    "other suffix": ("a.xml", "a.jpg", ["a.png"], "a.png"),
    "name of another case": ("IMG_1.xml", "", ["img_1.jpg"], "img_1.jpg"),
    "named only": ("1.xml", "photo.jpg", ["photo.jpg", "2.jpg"], "photo.jpg"),
    "named with a Windows path": ("1.xml", r"C:\x\photo.jpg", ["photo.jpg"], "photo.jpg"),
    "named without suffix": ("1.xml", "photo", ["photo.jpg"], "photo.jpg"),
    "named with another suffix": ("1.xml", "photo.jpg", ["photo.bmp"], "photo.bmp"),
    "named out of the folder": ("1.xml", "../../photo.jpg", ["photo.jpg"], "photo.jpg"),
    "stale name": ("a.xml", "b.jpg", ["a.jpg", "b.jpg"], "a.jpg"),
    "two, one named": ("a.xml", "a.png", ["a.jpg", "a.png"], "a.png"),
    "two": ("a.xml", "", ["a.jpg", "a.png"], None),
    "two in sub-folders": ("a.xml", "", ["x/a.jpg", "y/a.jpg"], None),
    "own sub-folder": ("y/a.xml", "", ["x/a.jpg", "y/a.jpg"], "y/a.jpg"),
    "number is no suffix": ("a.001.xml", "", ["a.jpg"], None),
}


@pytest.mark.parametrize("case", IMAGES)
def test_which_image_an_annotation_file_is_about(tmp_path: Path, case: str):
    xml, named, images, meant = IMAGES[case]
    write(tmp_path, f"Annotations/{xml}", filename=named)
    write(tmp_path, *(f"JPEGImages/{image}" for image in images))
    if meant:
        data, _ = read(tmp_path)
        assert list(data.files) == [f"JPEGImages/{meant}"]
        assert data.xywh.tolist() == [[1, 2, 10, 20]]
    elif len(images) > 1:
        assert "can be any of these images; leave one of them there" in fails(tmp_path)
    else:
        assert "none of the annotation files (1, the first is a.001.xml about" in fails(tmp_path)


def test_two_annotation_files_about_one_image(tmp_path: Path):
    write(tmp_path, "Annotations/a.xml", "Annotations/c.xml", "JPEGImages/a.jpg")
    write(tmp_path, "Annotations/b.xml", filename="a.jpg")
    write(tmp_path, "JPEGImages/c.jpg")
    with pytest.raises(DataError) as error:
        read(tmp_path)
    first, second = str(error.value).splitlines()
    assert "b.xml: filename: JPEGImages/a.jpg: a.xml is about this image too; " in first
    assert "a.xml: filename: JPEGImages/a.jpg: b.xml is about this image too; " in second
    assert list(read(tmp_path, skip=True)[0].ids) == ["c"]


def test_what_belongs_to_nothing_is_counted(tmp_path: Path):
    write(tmp_path, "Annotations/1.xml", "Annotations/2.xml", "Annotations/._1.xml")
    write(tmp_path, "JPEGImages/1.jpg", "JPEGImages/3.jpg", "JPEGImages/._1.jpg")
    write(tmp_path, "JPEGImages/.ipynb_checkpoints/1.jpg")
    (tmp_path / "JPEGImages/4.heic").touch()
    data, problems = read(tmp_path)
    assert list(data.ids) == ["1"]
    assert {(Path(p.file).name, p.what, p.action) for p in problems.found} == {
        ("2.xml", "annotation file without an image", "left out"),
        ("3.jpg", "image without an annotation file", "left out"),
        ("4.heic", ".heic is not an image format that is read; convert it", "left out"),
    }
    again = Problems()
    again.add_new(problems)
    again.add_new(problems)
    assert len(again.found) == 3


def test_files_in_any_list_are_in_a_split(tmp_path: Path):
    """hard_val is named like VOC's list of one class, so that it is no split by itself."""
    for name in "abcd":
        write(tmp_path, f"Annotations/{name}.xml", f"JPEGImages/{name}.jpg")
    for name, ids in (("train", "a\n"), ("val", "b\n"), ("hard_val", "c\n")):
        write_list(tmp_path / f"ImageSets/Main/{name}.txt", ids)
    assert make.splits(tmp_path) == ["train", "val"]
    assert [Path(p.file).name for p in read(tmp_path)[1].found] == ["d.xml"]


def test_files_outside_of_the_split_folders_are_counted(tmp_path: Path):
    for name in ("train/1", "val/2", "3"):
        write(tmp_path, f"Annotations/{name}.xml", f"JPEGImages/{name}.jpg")
    data, problems = read(tmp_path)
    assert list(data.files) == ["JPEGImages/train/1.jpg"]
    assert [Path(p.file).name for p in problems.found] == ["3.xml"]
    assert problems.counts() == {"annotation file in no split: left out": 1}


def test_no_image_at_all_is_one_line(tmp_path: Path):
    write(tmp_path, "Annotations/1.xml", "Annotations/2.xml", filename="x/1.jpg")
    write(tmp_path, "images/other.jpg")
    message = fails(tmp_path)
    assert "Annotations: none of the annotation files (2, the first is 1.xml about x/1.jpg) " in (
        message
    )
    assert message.endswith("/images; put the images there")


def test_pascals_layout_without_annotation_files(tmp_path: Path):
    write(tmp_path, "JPEGImages/1.jpg")
    (tmp_path / "Annotations").mkdir()
    assert "Annotations: no annotation file (*.xml) in this folder" in fails(
        tmp_path, error=UsageError
    )


def test_two_folders_of_annotations_are_asked_about(tmp_path: Path):
    write(tmp_path, "Annotations/1.xml", "xml/1.xml", "JPEGImages/1.jpg")
    assert "annotation files are in Annotations and xml; leave one" in fails(
        tmp_path, error=UsageError
    )


def test_a_symbolic_link_is_followed(tmp_path: Path):
    write(tmp_path / "disk", "xml/1.xml", "photos/1.jpg")
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "Annotations").symlink_to(tmp_path / "disk" / "xml")
    (tmp_path / "voc" / "JPEGImages").symlink_to(tmp_path / "disk" / "photos")
    assert list(read(tmp_path / "voc")[0].files) == ["JPEGImages/1.jpg"]


def test_other_xml_is_not_taken_for_voc(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "a.xml").write_text("<project/>")
    with pytest.raises(UsageError, match="no data set found"):
        formats.recognize(tmp_path)


def test_findings_are_said_before_their_consequence(tmp_path: Path):
    write(tmp_path, "Annotations/1.xml", "JPEGImages/1.jpg", objects=obj(1, 2, 3, 4, name=""))
    assert "1.xml: object 1/name: : must be a class name" in fails(tmp_path)
    with pytest.raises(DataError, match=r"no usable object .*; the first finding: .*1/name"):
        read(tmp_path, skip=True)


def test_fractions_are_not_taken_for_pixels(tmp_path: Path):
    write(tmp_path, "Annotations/1.xml", "JPEGImages/1.jpg", objects=obj(0.1, 0.25, 0.5, 0.75))
    assert "split train: no number is above 1: boxes are fractions" in fails(tmp_path)
