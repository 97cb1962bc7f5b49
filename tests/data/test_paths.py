"""Paths and names as tools of any system write them; folders that cannot be listed."""

import os
from pathlib import Path

import pytest

from fasterrcnn.data import paths


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a/b.png", ["a", "b.png"]),
        ("./a//b.png", ["a", "b.png"]),
        ("C:\\x\\b.png", ["C:", "x", "b.png"]),
        ("/x/b.png", ["x", "b.png"]),
        ("../b.png", ["b.png"]),
        ("a/../../b/c.png", ["b", "c.png"]),
        ("..", []),
        ("", []),
    ],
)
def test_parts_never_leave_the_folder_they_are_joined_to(path: str, parts: list[str]):
    assert paths.parts(path) == parts


def test_spellings_of_one_name():
    assert paths.composed("e\u0301.PNG") == "\u00e9.PNG"
    assert paths.fold("E\u0301.PNG") == paths.fold("\u00e9.png")
    assert paths.fold("a.png") != paths.fold("\u00e1.png")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("x/dog_jpg.rf.0a1B.jpg", "x/dog_jpg.jpg"),
        ("dog.rf.jpg", "dog.rf.jpg"),
        ("dog.rf.1/a.jpg", "dog.rf.1/a.jpg"),
        ("dog.jpg", "dog.jpg"),
    ],
)
def test_the_hash_of_roboflow(file: str, name: str):
    assert paths.without_hash(file) == name


def test_what_cannot_be_looked_at_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    assert paths.folders_in(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert sorted(paths.names_in(tmp_path)) == [".hidden", "a", "b", "file", "loop"]
    assert paths.names_in("a\0b") == []
    for none in (tmp_path / "gone", tmp_path / "file"):
        assert paths.names_in(none) == paths.folders_in(none) == []
        assert not paths.is_folder(none)

    def forbid(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for module, name in ((os, "scandir"), (os, "listdir"), (Path, "stat")):
        monkeypatch.setattr(module, name, forbid)
    assert paths.names_in(tmp_path) == paths.folders_in(tmp_path) == []
    assert not paths.is_folder(tmp_path)
    assert not paths.is_file(tmp_path / "file")
