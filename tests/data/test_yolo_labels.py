"""Label files: by the last folder called images, else beside the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasterrcnn.data.yolo_labels import Labels, holds_rows
from fasterrcnn.data.yolo_paths import Finder
from tests.data.test_yolo import LINE, tree


@pytest.mark.parametrize(
    ("image", "label", "there"),
    [
        ("images/a.png", "labels/a.txt", True),
        ("images/a.b.png", "labels/a.b.txt", True),
        ("images/a.PNG", "labels/a.TXT", True),
        ("x/images/images/y/a.png", "x/images/labels/y/a.txt", True),
        ("images_1/a.png", "images_1/a.txt", True),
        ("images/images_1/a.png", "labels/images_1/a.txt", True),
        ("Images/train/a.png", "Labels/train/a.txt", True),
        ("Images/train/a.png", "labels/Train/a.txt", True),
        ("images/train/a.png", "images/train/a.txt", True),
        ("a.png", "a.txt", True),
        ("images/Gro\u0308\u00dfe.png", "labels/Gr\u00f6\u00dfe.txt", True),
        ("images/a.png", "labels/b.txt", False),
        ("images/train/a.png", "labels/a.txt", False),
    ],
)
def test_label_files(tmp_path: Path, image: str, label: str, there: bool):
    finder = Finder(tree(tmp_path, {image: "", label: LINE}))
    labels = Labels(finder, [image])
    assert labels.exists(image) is there
    assert (labels.path(image) == tmp_path / label) is there


def test_outside_the_root_the_whole_path_counts(tmp_path: Path):
    tree(tmp_path / "images", {"a.png": ""})
    tree(tmp_path, {"labels/a.txt": LINE, "root/b.png": "", "root/b.txt": LINE})
    labels = Labels(Finder(tmp_path / "root"), [f"{tmp_path}/images/a.png", "b.png"])
    assert labels.path(f"{tmp_path}/images/a.png") == tmp_path / "labels/a.txt"
    assert labels.path("b.png") == tmp_path / "root/b.txt"


def test_a_folder_above_the_root_does_not_count(tmp_path: Path):
    root = tree(tmp_path / "images" / "mine", {"a.png": "", "a.txt": LINE})
    tree(tmp_path / "labels" / "mine", {"a.txt": ""})
    assert Labels(Finder(root), ["a.png"]).path("a.png") == root / "a.txt"


def test_labels_beside_serve_where_the_folder_of_labels_has_none(tmp_path: Path):
    files = {"images/a.png": "", "images/a.txt": LINE, "labels/classes.txt": "cat\n"}
    labels = Labels(Finder(tree(tmp_path, files)), ["images/a.png"])
    assert labels.path("images/a.png") == tmp_path / "images/a.txt"
    tree(tmp_path, {"labels/a.txt": ""})
    labels = Labels(Finder(tmp_path), ["images/a.png"])
    assert labels.path("images/a.png") == tmp_path / "labels/a.txt"


def test_images_that_share_a_label_file(tmp_path: Path):
    names = ["images/a.jpg", "images/a.png", "images/b.png", "x/a.png", "images/c.jpg"]
    finder = Finder(tree(tmp_path, {**dict.fromkeys(names, ""), "labels/a.txt": LINE}))
    labels = Labels(finder, [*names, "images/c.png"])
    shared = [name for name in names if labels.is_shared(name)]
    assert shared == ["images/a.jpg", "images/a.png"]  # c has no label file


def test_label_files_without_image_beside_images(tmp_path: Path):
    files = {"a.png": "", "a.txt": "", "b.txt": LINE, "readme.txt": "x", "train.txt": "a.png\n"}
    finder = Finder(tree(tmp_path, {**files, "sub/c.txt": LINE}))
    assert list(Labels(finder, ["a.png"]).without_image()) == [tmp_path / "b.txt"]


def test_label_files_of_the_other_splits_images_have_one(tmp_path: Path):
    names = {f"images/{k}.png": "" for k in "abc"} | {f"labels/{k}.txt": LINE for k in "abcd"}
    finder = Finder(tree(tmp_path, names))
    assert list(Labels(finder, ["images/a.png"]).without_image()) == [tmp_path / "labels/d.txt"]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (LINE, True), ("", True), ("\n", True), ("0 1 2 3 4 5 6 7", True), ("0 1 2 3", False),
        ("cat\ndog\n", False), ("images/a.png\n", False), (b"\xff\xfe\xff", False),
    ],
)  # fmt: skip
def test_what_looks_like_a_label_file(tmp_path: Path, content: str | bytes, rows: bool):
    tree(tmp_path, {"a.txt": content})
    assert holds_rows(tmp_path / "a.txt") is rows
