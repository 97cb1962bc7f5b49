"""Images held out for validation: by name, and by nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from fasterrcnn.data.annotations import Annotations, Strings
from fasterrcnn.data.holdout import hold_out
from fasterrcnn.errors import UsageError
from tests.data import make


def named(names: list[str]) -> Annotations:
    whole = make.annotations_of([[(0, 0, k + 1, 5)] for k in range(len(names))])
    return replace(whole, files=Strings(names))


def test_about_the_fraction_is_held_out_and_nothing_lost():
    names = [f"images/{k}.jpg" for k in range(1000)]
    train, val = hold_out(named(names), 0.2, Path())
    assert sorted([*train.files, *val.files]) == sorted(names)
    assert len(val) == 214  # a fixed function of the names
    assert sorted([*train.xywh[:, 2], *val.xywh[:, 2]]) == list(range(1, 1001))


def test_the_side_of_an_image_stays_when_images_are_added_or_renumbered():
    names = [f"{k}.jpg" for k in range(100)]
    more = [f"new-{k}.jpg" for k in range(50)] + names[::-1]
    held = set(hold_out(named(names), 0.3, Path())[1].files)
    assert {name for name in hold_out(named(more), 0.3, Path())[1].files if name in names} == held


def test_roboflows_hash_decides_nothing():
    names = [f"{k}_jpg.rf.{k * 7919:032x}.jpg" for k in range(100)]
    again = [f"{k}_jpg.rf.{k * 104729:032x}.jpg" for k in range(100)]
    first, second = (hold_out(named(n), 0.3, Path())[1].files for n in (names, again))
    assert [n.split(".")[0] for n in first] == [n.split(".")[0] for n in second]


def test_the_side_is_that_of_the_path_in_the_data_set():
    """Whatever folder the reader keeps files relative to, and wherever the data set is."""
    names = [f"images/{k}.jpg" for k in range(100)]
    held = [*hold_out(named(names), 0.3, Path())[1].files]
    for root, folder, files in (
        (Path("/a/data"), "/a/data", names),
        (Path("data"), "data/images", [f"{k}.jpg" for k in range(100)]),
        (Path("data"), Path("data").absolute(), names),
        (Path("/a/b/../data"), "/a/data", [f"/a/data/{name}" for name in names]),
    ):
        data = replace(named(files), folder=Path(folder))
        found = hold_out(data, 0.3, root)[1].files
        assert [file.split("/")[-1] for file in found] == [name.split("/")[-1] for name in held]


def test_the_side_of_an_image_outside_is_that_of_its_name():
    names = [f"{k}.jpg" for k in range(100)]
    held = [*hold_out(named(names), 0.3, Path())[1].files]
    for place in ("/here/images", "/there"):
        files = hold_out(named([f"{place}/{name}" for name in names]), 0.3, Path("/data"))[1].files
        assert [file.split("/")[-1] for file in files] == held


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_an_empty_side_is_one_line(fraction: float):
    with pytest.raises(UsageError, match=r"--val-fraction: .* of 5 images; give another fraction"):
        hold_out(named([f"{k}.jpg" for k in range(5)]), fraction, Path())
