"""Which files are looked at, how closely, how often, and what is said about the bad ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasterrcnn.data import image_check, images
from fasterrcnn.data.annotations import Annotations, Classes, Strings
from fasterrcnn.data.builder import Builder
from fasterrcnn.data.images import Header, Seen
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError
from tests.data import make


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Annotations:
    """Files that were written long ago: whole, truncated, without an end mark, empty, no image."""
    names = ["good.jpg", "cut.jpg", "endless.jpg", "cut.png", "good.bmp", "empty.tif", "page.jpg"]
    noise = np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)
    for name in names:
        path = tmp_path / name
        Image.fromarray(noise).save(path)
        if "cut" in name:
            path.write_bytes(path.read_bytes()[:-300])
        if "endless" in name:
            path.write_bytes(path.read_bytes()[:-2])
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "empty.tif").write_bytes(b"")
    for name in names:
        os.utime(tmp_path / name, (10**9, 10**9))
    found = make.annotations_of([[(1, 1, 9, 9)]] * len(names))
    files = Strings(names)
    return Annotations(**{**vars(found), "folder": tmp_path, "files": files})


@pytest.fixture
def looked_at(monkeypatch) -> list[str]:
    """Names of the files whose pixels are decoded."""
    names: list[str] = []
    decode = images.decode

    def watch(path, **options):
        names.append(Path(path).name)
        return decode(path, **options)

    monkeypatch.setattr(images, "decode", watch)
    return names


def headers(paths: Iterable[Path | str], problems: Problems | None = None) -> list[Header | str]:
    return [verdict.header for verdict in image_check.read_headers(paths, problems)]


def test_headers_come_from_the_files_once(data: Annotations, monkeypatch):
    paths = [data.path(i) for i in range(len(data))]
    good = Header(40, 60, 1)
    empty, page = "empty file", "not an image"
    expected = [good, good, good, good, good, empty, page]
    assert headers(paths) == expected
    assert headers(map(Path, paths)) == expected
    monkeypatch.setattr(images, "inspect", None)  # would fail if it were called
    assert headers(paths) == expected
    Path(paths[4]).touch()
    with pytest.raises(TypeError):
        image_check.read_headers(paths)


def test_the_limit_of_pixels_is_not_part_of_what_is_kept(data: Annotations):
    paths = [data.path(0)]
    try:
        for limit, ok in ((2399, False), (2400, True), (2399, False)):
            images.limit_pixels(limit)
            (header,) = headers(paths)
            assert isinstance(header, Header) == ok
    finally:
        images.limit_pixels(images.MAX_PIXELS)


def test_headers_of_replaced_images_are_those_from_before(data: Annotations, monkeypatch):
    problems = Problems()
    problems.kept = {data.path(6): Header(1, 2, 3)}
    monkeypatch.chdir(data.folder)
    found = headers(["page.jpg", "good.jpg"], problems)
    assert found == [Header(1, 2, 3), Header(40, 60, 1)]


def test_every_image_is_decoded_once(data: Annotations, looked_at: list[str]):
    first = image_check.find_damaged(data, Problems(), "all")
    assert sorted(first) == [1, 3, 5, 6]
    assert "truncated" in first[1] and "truncated" in first[3]
    assert sorted(looked_at) == ["cut.jpg", "cut.png", "endless.jpg", "good.bmp", "good.jpg"]
    looked_at.clear()
    assert image_check.find_damaged(data, Problems(), "all") == first
    assert looked_at == []


def test_only_images_without_an_end_mark_are_decoded_of_large_splits(
    data: Annotations, looked_at: list[str], monkeypatch
):
    monkeypatch.setattr(image_check, "MANY", len(data) - 1)
    assert sorted(image_check.find_damaged(data, Problems(), None)) == [1, 3, 5, 6]
    assert sorted(looked_at) == ["cut.jpg", "cut.png", "endless.jpg"]
    looked_at.clear()
    assert sorted(image_check.find_damaged(data, Problems(), "headers")) == [1, 3, 5, 6]
    assert looked_at == []
    image_check.find_damaged(data, Problems(skip=True), None)  # skipping implies all
    assert sorted(looked_at) == ["good.bmp", "good.jpg"]


def test_files_that_are_known_to_be_good_are_not_asked_about_again(tmp_path: Path, monkeypatch):
    """Neither their time nor the cache; what the header pass knows of damage is no less certain."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for name in ("good.jpg", "endless.jpg", "cut.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
    path = tmp_path / "endless.jpg"
    path.write_bytes(path.read_bytes()[:-2])
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    for path in tmp_path.iterdir():
        os.utime(path, (10**9, 10**9))
    image_check.look_again(str(cut))
    builder = Builder(tmp_path, Problems(), lambda where: (where, ""))
    for id, name in enumerate(("good.jpg", "endless.jpg", "cut.jpg")):
        builder.add_image(id, name, None, "images.txt", name)
    data = builder.build(Classes.of(["thing"]))
    assert data.seen.tolist() == [Seen.END, Seen.HEADER, Seen.NOTHING]
    asked: list[str] = []
    key_of = image_check.key_of
    monkeypatch.setattr(
        image_check, "key_of", lambda file: asked.append(Path(file).name) or key_of(file)
    )
    assert sorted(image_check.find_damaged(data, Problems(), "headers")) == [2]
    assert sorted(asked) == ["cut.jpg", "endless.jpg"]
    asked.clear()
    assert sorted(image_check.find_damaged(data, Problems(), "all")) == [2]
    assert len(asked) == 3


def test_faults_stop_and_are_listed_together(data: Annotations):
    problems = Problems()
    with pytest.raises(DataError) as error:
        image_check.check(data, problems, None)
    lines = str(error.value).splitlines()
    assert len(lines) == len(problems.found) == 4
    assert lines[0].startswith(f"{data.folder}/cut.jpg: image 1: cut.jpg: cannot be decoded")
    assert "--bad-data skip" in lines[0]


def test_skipping_leaves_out_exactly_the_damaged(data: Annotations):
    problems = Problems(skip=True)
    left = image_check.check(data, problems, None)
    assert list(left.files) == ["good.jpg", "endless.jpg", "good.bmp"]
    assert [p.action for p in problems.found] == ["dropped"] * 4
    with pytest.raises(DataError, match="none of 1 images can be decoded"):
        image_check.check(data.take(np.array([1])), problems, None)


def test_an_interrupted_check_goes_on_where_it_stopped(
    data: Annotations, looked_at: list[str], monkeypatch
):
    monkeypatch.setattr(image_check, "_PART", 1)
    decode = image_check._decode

    def interrupted(path: str):
        if path.endswith("good.bmp"):
            raise KeyboardInterrupt
        return decode(path)

    with monkeypatch.context() as patched:
        patched.setattr(image_check, "_decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            image_check.find_damaged(data, Problems(), "all")
    looked_at.clear()
    assert sorted(image_check.find_damaged(data, Problems(), "all")) == [1, 3, 5, 6]
    assert looked_at == ["good.bmp"]


def test_what_turned_out_to_be_bad_is_known_from_then_on(
    data: Annotations, looked_at: list[str], monkeypatch
):
    """Of large splits, whose pixels are not decoded before the first step; the header stays."""
    assert 4 not in image_check.find_damaged(data, Problems(), "headers")
    path = Path(data.path(4))
    path.write_bytes(path.read_bytes()[:-300])
    os.utime(path, (10**9, 10**9))
    image_check.look_again(str(path))
    looked_at.clear()
    assert "truncated" in image_check.find_damaged(data, Problems(), "headers")[4]
    assert looked_at == []
    assert headers([path]) == [Header(40, 60, 1)]
    with monkeypatch.context() as patched:
        patched.setattr(images, "decode", out_of_memory)
        image_check.look_again(str(path))  # says nothing about the file: it is forgotten
    image_check.find_damaged(data, Problems(), "all")
    assert "good.bmp" in looked_at


def test_what_cannot_be_read_now_is_looked_at_again(data: Annotations, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(images, "decode", out_of_memory)
        assert image_check.find_damaged(data, Problems(), "all")[0] == "no memory"
    assert 0 not in image_check.find_damaged(data, Problems(), "all")


def out_of_memory(*_, **__):
    raise images.Unsettled("no memory")
