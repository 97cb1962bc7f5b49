"""Paths as another machine wrote them: found where they mean one place, not where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasterrcnn.data.yolo_paths import Finder, exists
from tests.data.test_yolo import tree


@pytest.mark.parametrize(
    ("path", "found", "dropped"),
    [
        ("../train/images", "train/images", []),
        ("/content/ds/train/images", "train/images", ["content", "ds"]),
        ("/train/images", "train/images", []),
        ("C:\\ds\\train\\images", "train/images", ["C:", "ds"]),
        ("\\\\server\\share\\train", "train", ["server", "share"]),
        ("~/ds/flat", "flat", ["~", "ds"]),
        ("/x/train/mine/flat", "flat", ["x", "train", "mine"]),  # the root's own name
        ("mine/flat", "flat", ["mine"]),
        ("data/flat", "flat", ["data"]),
        ("build/x64/data/flat", "flat", ["build", "x64", "data"]),
        ("/x/train/flat", None, []),  # flat is not the training split
        ("/x/Train2017/flat", None, []),
        ("other/flat", None, []),  # relative: a slip
        ("flat", None, []),  # found as written, not moved
        ("/x/y", None, []),
        ("..", None, []),
        ("", None, []),
    ],
)
def test_find_moved(tmp_path: Path, path: str, found: str | None, dropped: list[str]):
    root = tree(tmp_path / "mine", {"train/images/a.png": "", "flat/a.png": ""})
    expected = None if found is None else (root / found, dropped)
    assert Finder(root).find_moved(path) == expected


def test_case_is_overlooked_only_where_one_name_fits(tmp_path: Path):
    finder = Finder(tree(tmp_path, {"Images/a.png": "", "one/x": "", "ONE/x": "", "One/y": ""}))
    assert finder.below(finder.root, "images/A.PNG") == tmp_path / "Images/a.png"
    assert finder.below(finder.root, "one/x") == tmp_path / "one/x"
    assert finder.below(finder.root, "oNe/x") is None
    assert finder.below(finder.root, "one/y") is None


def test_accents_are_one_character_or_two(tmp_path: Path):
    finder = Finder(tree(tmp_path, {"Gro\u0308\u00dfe/a.png": ""}))  # as macOS unpacks it
    assert finder.below(finder.root, "Gr\u00f6\u00dfe/a.png") is not None


def test_names_keep_links_inside_and_absolute_paths_outside(tmp_path: Path):
    tree(tmp_path / "else", {"a.png": ""})
    root = tree(tmp_path / "root", {"sub/b.png": ""})
    (root / "link").symlink_to(tmp_path / "else")
    (tmp_path / "alias").symlink_to(root)
    finder = Finder(tmp_path / "alias")
    assert finder.name(tmp_path / "alias/sub/../sub/b.png") == "sub/b.png"
    assert finder.name(root / "sub/b.png") == "sub/b.png"  # the same folder by its real path
    assert finder.name(tmp_path / "alias/link/a.png") == "link/a.png"
    assert finder.name(root / "link/../root/sub/b.png") == "sub/b.png"  # .. of what is linked
    assert finder.name(tmp_path / "else/a.png") == f"{tmp_path}/else/a.png"
    assert finder.name(root) == finder.name(tmp_path / "alias") == ""
    assert finder.is_inside(tmp_path)
    assert not finder.is_inside(root)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "\ud800", "nowhere"])
def test_what_cannot_be_a_path_does_not_exist(path: str):
    assert not exists(Path(path))
