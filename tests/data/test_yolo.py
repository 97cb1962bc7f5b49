"""YOLO folders: layouts, coordinates, one line for what can be wrong."""

from pathlib import Path

import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from tests.data import make

LINE = "1 0.5 0.5 0.25 0.5\n"


def write(root: Path, *, images: str = "images/train", text: str = LINE, config: str = "") -> None:
    make.image(root / images / "a.png", 40, 60)
    make.image(root / images / "sub" / "empty.png", 20, 20)
    labels = root / images.replace("images", "labels")
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text(text)
    if config:
        (root / "data.yaml").write_text(config)
    else:
        (root / "classes.txt").write_text("cat\ndog\n")


def read(root: Path, *, skip: bool = False, split: str = "train", classes: tuple = ()):
    problems = Problems(skip)
    return formats.read(root, split, "auto", classes, problems), problems


@pytest.mark.parametrize(
    ("images", "config"),
    [
        ("images/train", ""),
        ("train/images", ""),
        ("images/train", "names: {0: cat, 1: dog}\ntrain: images/train\n"),
        ("train/images", "names: [cat, dog]\ntrain: ../train/images\n"),
        ("stuff/images/x", "names: [cat, dog]\npath: stuff\ntrain: images/x\n"),
    ],
)
def test_layouts(tmp_path: Path, images: str, config: str):
    write(tmp_path, images=images, config=config)
    if images.startswith("stuff"):
        assert formats.recognize(tmp_path) == "yolo"
    data, _ = read(tmp_path)
    assert list(data.ids) == [f"{images}/a.png", f"{images}/sub/empty.png"]  # the relative path
    assert data.classes.names == ("cat", "dog")
    assert data.classes.category_ids == (0, 1)
    assert data.sizes.tolist() == [[40, 60], [20, 20]]
    assert data.xywh.tolist() == [[22.5, 10, 15, 20]]
    assert data.labels.tolist() == [2]
    assert data.with_boxes().tolist() == [True, False]


def test_coordinates_are_of_the_displayed_image(tmp_path: Path):
    write(tmp_path)
    from PIL import Image

    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "images/train/a.png", exif=exif)
    data, _ = read(tmp_path)
    assert data.sizes[0].tolist() == [60, 40]
    assert data.rotate.tolist() == [True, False]
    assert data.xywh.tolist() == [[15, 15, 10, 30]]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("1 0.5 0.5 0.25", "five numbers"),
        ("1 0.5 0.5 0.25 0.5 0.9", "five numbers"),
        ("dog 0.5 0.5 0.25 0.5", "five numbers"),
        ("2 0.5 0.5 0.25 0.5", "no class has the index 2"),
        ("1 30 20 15 20", "fractions between 0 and 1"),
        ("1 nan 0.5 0.25 0.5", "fractions between 0 and 1"),
    ],
)
def test_faulty_lines(tmp_path: Path, line: str, what: str):
    write(tmp_path, text=f"\n{LINE}{line}\n")
    with pytest.raises(DataError) as error:
        read(tmp_path)
    (message,) = str(error.value).splitlines()
    assert "labels/train/a.txt: line 3: " in message
    assert what in message
    data, problems = read(tmp_path, skip=True)
    assert len(data.labels) == 1
    assert len(problems.found) == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("names: [cat\n", "data.yaml: not yaml"),
        ("[]", "must be a mapping"),
        ("names: 3\n", "/names: 3: must be a list"),
        ("names: [cat, cat]\n", "not unique"),
    ],
)
def test_faulty_configs(tmp_path: Path, config: str, message: str):
    write(tmp_path, config=config)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path):
    write(tmp_path)
    with pytest.raises(UsageError, match="no images of split val"):
        read(tmp_path, split="val")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UsageError, match=r"no class names; list them in classes.txt"):
        read(tmp_path)
