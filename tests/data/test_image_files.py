"""Which files of a folder are images, and which names leave it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasterrcnn.data import image_files
from fasterrcnn.data.problems import Problems


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_are_found_by_suffix_in_every_folder_that_is_not_hidden(tmp_path: Path):
    touch(tmp_path, "b.JPG", "sub/a.png", "sub/deep/c.tif", "notes.txt", "x.json", "png")
    touch(tmp_path, "._a.jpg", ".ipynb_checkpoints/a.jpg", "sub/.thumbs/a.jpg")
    problems = Problems()
    assert image_files.images_in(tmp_path, problems) == ["b.JPG", "sub/a.png", "sub/deep/c.tif"]
    assert problems.found == []
    assert image_files.images_in(tmp_path / "none") == []


def test_an_array_is_an_image_unless_it_is_a_copy_of_one(tmp_path: Path):
    touch(tmp_path, "a.npy", "b.npy", "b.JPG", "sub/b.tif", "sub/a.npy", "c.npy", "c.txt")
    assert image_files.images_in(tmp_path) == [
        "a.npy", "b.JPG", "c.npy", "sub/a.npy", "sub/b.tif",
    ]  # fmt: skip


def test_images_of_other_formats_are_noted(tmp_path: Path):
    touch(tmp_path, "a.png", "sub/b.HEIC", "c.svg", ".d.heic")
    problems = Problems()
    assert image_files.images_in(tmp_path, problems) == ["a.png"]
    assert sorted((p.value, p.action) for p in problems.found) == [
        ("b.HEIC", "left out"),
        ("c.svg", "left out"),
    ]


def test_files_with_a_suffix(tmp_path: Path):
    touch(tmp_path, "a.xml", "sub/B.XML", ".c.xml", "d.txt")
    assert image_files.files_in(tmp_path, ".xml") == ["a.xml", "sub/B.XML"]


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path):
    touch(tmp_path, "data/sub/a.png", "disk/b.png")
    (tmp_path / "data" / "disk").symlink_to(tmp_path / "disk")
    (tmp_path / "data" / "sub" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "disk" / "self").symlink_to(tmp_path / "disk")
    assert image_files.images_in(tmp_path / "data") == ["disk/b.png", "sub/a.png"]
    assert image_files.files_in(tmp_path / "data", ".png") == ["disk/b.png", "sub/a.png"]


@pytest.mark.parametrize("name", ["a.png", "sub/a.png", "./a.png", "a..b.png", "C/a.png"])
def test_names_inside_the_folder(name: str):
    assert image_files.unsafe(name) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "not a file name"),
        ("a\0.png", "not a file name"),
        ("/etc/passwd", "leaves the image folder"),
        ("../a.png", "leaves the image folder"),
        ("sub/../../a.png", "leaves the image folder"),
        ("sub\\..\\..\\a.png", "leaves the image folder"),
        ("C:\\a.png", "leaves the image folder"),
        ("\\\\server\\a.png", "leaves the image folder"),
    ],
)
def test_names_that_leave_it(name: str, why: str):
    assert image_files.unsafe(name) == why
