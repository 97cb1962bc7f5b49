"""Which images a run leaves out and which it replaces, at its start and when it is continued."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fasterrcnn.data import formats, tiles
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import bad_images
from fasterrcnn.engine.bad_images import BadImages
from fasterrcnn.errors import DataError
from tests.data import make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images, the last one turned by its EXIF orientation."""
    images = [{"id": k, "file_name": f"{k}.jpg", "height": 40, "width": 60} for k in (1, 2, 3)] + [
        {"id": 4, "file_name": "4.jpg", "height": 60, "width": 40}
    ]
    boxes = [{**make.CONTENT["annotations"][0], "id": k, "image_id": k} for k in (1, 2, 3, 4)]
    make.coco(tmp_path, {**make.CONTENT, "images": images, "annotations": boxes})
    for k in (1, 2, 3, 4):
        exif = {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}
        make.image(tmp_path / "train2017" / f"{k}.jpg", 40, 60, **(exif if k == 4 else {}))
    return tmp_path


def damage(root: Path, *ids: int) -> None:
    for id in ids:
        path = root / "train2017" / f"{id}.jpg"
        path.write_bytes(path.read_bytes()[:-30])


def read(root: Path, bad: BadImages, problems: Problems) -> Annotations:
    """As `run_data.read_splits` reads the training split."""
    problems.kept = bad.kept()
    return bad.check(formats.read(root, "train", "auto", (), problems), problems, None)


def start(root: Path, *, skip: bool = True) -> tuple[BadImages, Annotations, Problems]:
    problems = Problems(skip)
    bad = bad_images.load(root, None, skip=skip)
    return bad, read(root, bad, problems), problems


def continued(
    root: Path, before: BadImages, *, skip: bool = True
) -> tuple[BadImages, Annotations, Problems]:
    """As `start`, from a checkpoint."""
    data = json.loads(json.dumps({"bad_images": before.saved()}))
    state = dataclasses.make_dataclass("State", ["data"])(data)
    problems = Problems(skip)
    bad = bad_images.load(root, state, skip=skip)
    return bad, read(root, bad, problems), problems


def test_without_bad_images_nothing_happens(root: Path):
    bad, data, problems = start(root)
    assert list(data.ids) == ["1", "2", "3", "4"]
    assert bad.saved() == {"left_out": [], "replaced": {}}
    assert problems.found == []


def test_before_the_first_step_they_are_left_out_and_stay_so(root: Path):
    damage(root, 2)
    bad, data, problems = start(root)
    assert list(data.ids) == ["1", "3", "4"]
    assert [(p.field, p.action) for p in problems.found] == [("image 2", "dropped")]
    for repaired in (False, True):
        if repaired:
            make.image(root / "train2017" / "2.jpg", 40, 60)
        again, same, problems = continued(root, bad)
        assert same.digest() == data.digest()
        assert again.positions(same) == []
        (found,) = problems.found
        assert found.field == "image 2"
        assert found.action == ("still left out" if repaired else "dropped")


def test_what_is_left_out_does_not_depend_on_the_cache_of_verdicts(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second run knows from the first that the pixels are damaged, before it looks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    damage(root, 2)
    os.utime(root / "train2017" / "2.jpg", (10**9, 10**9))
    first, data, _ = start(root)
    second, *_ = start(root)
    assert first.saved() == second.saved() == {"left_out": ["2"], "replaced": {}}
    make.image(root / "train2017" / "2.jpg", 40, 60)
    assert continued(root, second)[1].digest() == data.digest()


@pytest.mark.parametrize("how", ["truncated", "repaired", "empty", "missing", "another size"])
def test_after_it_they_are_replaced_whatever_becomes_of_the_file(root: Path, how: str):
    bad, data, _ = start(root)
    lines = bad.replace(data, {3: "is bad"}, root / "problems.jsonl")
    assert lines == [f"data: {data.path(3)}: image 4: 4.jpg: is bad; replaced by another image"]
    assert json.loads((root / "problems.jsonl").read_text())["field"] == "image 4"
    assert bad.replace(data, {3: "is bad"}, None) == []  # it is known
    path = root / "train2017" / "4.jpg"
    if how == "truncated":
        damage(root, 4)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    elif how == "another size":
        make.image(path, 80, 80)
    again, same, problems = continued(root, bad)
    assert same.digest() == data.digest()
    assert again.positions(same) == [3]
    assert again.saved() == bad.saved()
    (found,) = problems.found
    fine = how in ("repaired", "another size")
    assert found.action == ("still replaced" if fine else "replaced by another image")


def test_a_data_set_that_was_moved(root: Path):
    bad, data, _ = start(root)
    bad.replace(data, {1: "is bad"}, None)
    (root / "train2017" / "2.jpg").unlink()
    (root / "moved").mkdir()
    for name in ("annotations", "train2017"):
        (root / name).rename(root / "moved" / name)
    again, same, _ = continued(root / "moved", bad)
    assert same.digest() == data.digest()
    assert again.positions(same) == [1]


def test_what_went_bad_between_two_commands_is_replaced(root: Path):
    bad, data, _ = start(root)
    damage(root, 3)
    again, same, problems = continued(root, bad)
    assert same.digest() == data.digest()
    assert list(again.replaced) == ["3"]
    assert problems.found[0].action == "replaced by another image"


def test_unless_bad_data_stops_the_run(root: Path):
    bad, _, _ = start(root, skip=False)
    damage(root, 3)
    with pytest.raises(DataError, match=r"3.jpg: cannot be decoded .*--bad-data skip"):
        continued(root, bad, skip=False)
    assert list(continued(root, bad)[0].replaced) == ["3"]


def test_a_checkpoint_of_an_older_version(root: Path):
    state = dataclasses.make_dataclass("State", ["data"])({"digest": "..."})
    bad = bad_images.load(root, state, skip=True)
    assert bad.begun
    assert bad.saved() == {"left_out": [], "replaced": {}}


def test_no_image_left(root: Path):
    damage(root, 1, 2, 3, 4)
    with pytest.raises(DataError, match="none of 4 training images"):
        start(root)


def test_all_tiles_of_a_damaged_file_are_replaced(root: Path):
    bad, train, _ = start(root)
    cut = tiles.cut(train, 32, 8)
    (number,) = {sum(cut.tiles.position == k) for k in range(4)}
    said = bad.replace(
        cut, bad.new(cut, [batch_with_damage(number), batch_with_damage(number + 1)]), None
    )
    assert len(said) == 1
    assert bad.replaced["2"].height == 40, "of the whole image"
    assert bad.positions(cut) == [*range(number, 2 * number)]
    assert bad.new(cut, [batch_with_damage(number + 2)]) == {}
    again, _, _ = continued(root, bad)
    assert again.positions(cut) == bad.positions(cut)


def batch_with_damage(i: int) -> Any:
    return SimpleNamespace(damaged=((i, "cannot be decoded"),))
