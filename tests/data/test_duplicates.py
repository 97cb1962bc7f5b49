"""Equal images are found by content, from split to split also by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fasterrcnn.data import duplicates
from fasterrcnn.data.annotations import Annotations, Strings
from tests.data.make import annotations_of


def split(folder: Path, **files: bytes) -> Annotations:
    """Annotations of files with this content; ``__`` stands for a dot in their names."""
    names = [name.replace("__", ".") for name in files]
    folder.mkdir()
    for name, content in zip(names, files.values(), strict=True):
        (folder / name).write_bytes(content)
    data = annotations_of([[] for _ in names])
    return replace(data, folder=folder, files=Strings(names))


def names(groups: list[list[duplicates.Member]]) -> list[list[str]]:
    return [[f"{m.split}/{m.file}" for m in group] for group in groups]


def test_equal_content_in_one_split_and_in_several(tmp_path: Path):
    train = split(tmp_path / "a", a__jpg=b"11", b__jpg=b"11", c__jpg=b"22", d__jpg=b"333")
    val = split(tmp_path / "b", x__jpg=b"22", y__jpg=b"444")
    found = duplicates.find({"train": train, "val": val}, 2)
    assert names(found.within) == [["train/a.jpg", "train/b.jpg"]]
    assert names(found.across) == [["train/c.jpg", "val/x.jpg"]]
    assert found.same_name == []
    assert found.across[0][1].image == 0


def test_a_group_can_be_both(tmp_path: Path):
    train = split(tmp_path / "a", a__jpg=b"1", b__jpg=b"1")
    val = split(tmp_path / "b", c__jpg=b"1")
    found = duplicates.find({"train": train, "val": val}, 1)
    assert (
        names(found.within) == names(found.across) == [["train/a.jpg", "train/b.jpg", "val/c.jpg"]]
    )


def test_names_without_what_roboflow_adds(tmp_path: Path):
    """Two augmented copies of one photo, one of them in validation; c is the same file in both."""
    train = split(tmp_path / "a", dog_jpg__rf__0a1b__jpg=b"1", cat__jpg=b"2", c__jpg=b"3")
    val = split(tmp_path / "b", dog_jpg__rf__9f8e__jpg=b"5", cow__jpg=b"6", c__jpg=b"3")
    found = duplicates.find({"train": train, "val": val}, 1)
    assert names(found.same_name) == [["train/dog_jpg.rf.0a1b.jpg", "val/dog_jpg.rf.9f8e.jpg"]]
    assert names(found.across) == [["train/c.jpg", "val/c.jpg"]]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("train/images/dog_jpg.rf.0a1b2c.jpg", "dog_jpg.jpg"),
        ("a/b.jpg", "b.jpg"),
        ("b.rf.jpg", "b.rf.jpg"),
    ],
)
def test_original_names(file: str, name: str):
    assert duplicates.original_name(file) == name


def test_files_of_different_size_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = split(tmp_path / "a", a__jpg=b"1", b__jpg=b"22")
    monkeypatch.setattr(duplicates, "_digest", lambda file, length: pytest.fail(str(file)))
    assert duplicates.find({"train": data}, 1).within == []


def test_equal_beginnings_are_not_enough(tmp_path: Path):
    start = bytes(duplicates._BEGINNING)
    data = split(tmp_path / "a", a__jpg=start + b"1", b__jpg=start + b"2", c__jpg=start + b"1")
    found = duplicates.find({"train": data}, 2)
    assert names(found.within) == [["train/a.jpg", "train/c.jpg"]]


def test_hard_links_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = split(tmp_path / "a", a__jpg=b"1", b__jpg=b"2")
    (tmp_path / "a" / "b.jpg").unlink()
    (tmp_path / "a" / "b.jpg").hardlink_to(tmp_path / "a" / "a.jpg")
    read: list[str] = []
    digest = duplicates._digest
    monkeypatch.setattr(
        duplicates, "_digest", lambda file, length: read.append(file.path) or digest(file, length)
    )
    assert names(duplicates.find({"train": data}, 1).within) == [["train/a.jpg", "train/b.jpg"]]
    assert len(read) == 2  # its beginning, then all of it


def test_files_that_are_gone_are_equal_to_none(tmp_path: Path):
    data = split(tmp_path / "a", a__jpg=b"1", b__jpg=b"1")
    (tmp_path / "a" / "a.jpg").unlink()
    (tmp_path / "a" / "b.jpg").unlink()
    assert duplicates.find({"train": data}, 1).within == []
