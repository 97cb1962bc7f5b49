"""What is found at what a user types, and how it is named."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image

from fasterrcnn.data import sources
from fasterrcnn.errors import UsageError
from fasterrcnn.reports.picture_files import save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files by name only: nothing here opens them."""
    for name in ("a/x.png", "a/y.JPG", "a/sub/z.webp", "b/x.png", "b/clip.mp4", "b/notes.txt",
                 "a/._x.png", "[1].png", "empty/notes.md"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(*given: object) -> list[str]:
    return [source.name for source in sources.find(map(str, given)).sources.values()]


def test_files_folders_and_globs(folder: Path):
    assert names(folder / "a") == ["sub/z.webp", "x.png", "y.JPG"]
    assert names(folder / "b" / "x.png", folder / "a" / "y.JPG") == ["x.png", "y.JPG"]
    assert names(folder / "a" / "*") == ["z.webp", "x.png", "y.JPG"]
    assert names(folder / "a" / "**") == ["z.webp", "x.png", "y.JPG"]
    assert names(folder / "b" / "*") == ["clip.mp4", "x.png"]
    assert names(folder / "[1].png") == ["[1].png"], "a file of that name is no glob"
    assert names(folder / "a" / "._x.png", folder / "a" / "x.png") == ["._x.png", "x.png"]


def test_what_is_given_twice_is_taken_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    assert names("a/x.png", folder / "a", "a/../a/y.JPG") == ["x.png", "sub/z.webp", "y.JPG"]


def test_equal_names_keep_their_folders(folder: Path):
    assert names(folder / "a" / "x.png", folder / "b" / "x.png") == ["a/x.png", "b/x.png"]
    assert names(folder / "a", folder / "b" / "*") == [
        "a/sub/z.webp", "a/x.png", "a/y.JPG", "b/clip.mp4", "b/x.png"
    ]  # fmt: skip


def test_lists_name_paths_from_the_current_folder_or_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    list_file = folder / "a" / "list.txt"
    list_file.write_text(f"x.png\n\n{folder}/b/clip.mp4\r\ngone.png\nsub\n", encoding="utf-8")
    found = sources.find([str(list_file)])
    assert [source.name for source in found.sources.values()] == ["x.png", "clip.mp4", "z.webp"]
    assert found.problems == [f"{list_file}: line 4: gone.png: missing"]
    monkeypatch.chdir(folder / "b")
    assert next(iter(sources.find([str(list_file)]).sources)) == str(folder / "b" / "x.png")
    monkeypatch.setattr(sys, "stdin", io.StringIO("notes.txt\nx.png\n"))
    assert names("-") == ["notes.txt", "x.png"], "a list in a list is taken for an image"


def test_a_list_that_is_none(tmp_path: Path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"x\.txt: not a list of paths"):
        names(tmp_path / "x.txt")


def test_a_folder_without_images_does_not_lose_the_rest(folder: Path):
    found = sources.find([str(folder / "empty"), str(folder / "b" / "x.png")])
    assert len(found.sources) == 1
    assert found.problems[0].startswith(f"{folder}/empty: no image in this folder (.jpg ")
    with pytest.raises(UsageError, match="empty: no image in this folder"):
        names(folder / "empty")


@pytest.mark.parametrize("given", ["gone.png", "gone/*.png", "b/*.txt", "nul\0l.png"])
def test_what_is_not_there(folder: Path, given: str):
    with pytest.raises(UsageError, match="no such image, folder, list or video"):
        names(f"{folder}/{given}", folder / "a")


def test_videos_cameras_and_streams(folder: Path):
    video = next(iter(sources.find([str(folder / "b" / "clip.mp4")]).sources.values()))
    assert video.is_video and video.is_file
    url = "rtsp://user:secret@camera.local:554/one"
    stream = next(iter(sources.find([url]).sources.values()))
    assert (stream.path, stream.name) == (url, "camera.local/one"), "no password in results"
    assert stream.is_video and not stream.is_file
    device = next(iter(sources.find(["/dev/null"]).sources.values()))
    assert device.is_video and not device.is_file
    assert device.name == "null"


def test_pictures_of_an_earlier_run_are_left_out_where_they_were_written(folder: Path):
    save(Image.new("RGB", (4, 4)), folder / "a" / "drawn.jpg")
    left = sources.find([str(folder / "a")], folder / "a")
    assert (len(left.sources), left.pictures) == (3, 1)
    assert len(sources.find([str(folder / "a" / "*")], folder / "a").sources) == 3
    elsewhere = sources.find([str(folder / "a")], folder / "out")
    assert (len(elsewhere.sources), elsewhere.pictures) == (4, 0)
    asked_for = sources.find([str(folder / "a" / "drawn.jpg")], folder / "a")
    assert len(asked_for.sources) == 1


def test_no_source_is_replaced(folder: Path):
    found = sources.find([str(folder / "a")]).sources.values()
    sources.check_not_replaced(found, folder / "out", ["x.png"])
    sources.check_not_replaced(found, folder / "a", ["x.jpg"])
    (folder / "link").symlink_to(folder / "a")
    for place in (folder / "a", folder / "link"):
        with pytest.raises(UsageError, match=r"x\.png is one of the images; give another folder"):
            sources.check_not_replaced(found, place, ["new.png", "x.png"])
    sources.check_not_replaced(found, folder / "b", ["x.png"])  # is there, but no source


def test_names_of_many_files_are_compared_in_one_pass(monkeypatch: pytest.MonkeyPatch):
    """40,000 took 330 s when each name was compared with all."""
    compared = []

    class Name(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return str.__eq__(self, other)

    many = {f"/d/{k}.png": sources.Source(f"/d/{k}.png", Name(f"{k}.png")) for k in range(2000)}
    assert sources._with_different_names(many) == many
    assert len(compared) < 10 * len(many)
