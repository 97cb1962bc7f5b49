"""Which split is meant."""

from pathlib import Path

import pytest

from fasterrcnn.data import split_names
from fasterrcnn.errors import UsageError


@pytest.mark.parametrize(
    ("split", "names", "chosen"),
    [
        ("train", ["train", "val"], "train"),
        ("val", ["train", "valid"], "valid"),
        ("val", ["Train", "Validation"], "Validation"),
        ("validation", ["train", "val"], "val"),
        ("train", ["training", "dev"], "training"),
        ("test", ["train", "Test"], "Test"),
        ("val", ["val", "valid"], "val"),
        ("north", ["north", "train"], "north"),
        ("train", [], ""),
        ("training", [], ""),
    ],
)
def test_choose(split: str, names: list[str], chosen: str):
    assert split_names.choose(Path("data"), split, names) == chosen


@pytest.mark.parametrize(
    ("split", "names", "message"),
    [
        ("val", ["train", "test"], r"^data: no split val; found: test, train \(--train-split, "),
        ("train", ["trainval", "test"], "found: test, trainval"),
        ("val", ["valid", "validation"], "^data: split val can be valid or validation; say which"),
        ("val", [], "^data: has no split val: everything in it is one set; add --val-fraction 0.1"),
        ("test", [], "to hold out a tenth of it, or --val-split none$"),
    ],
)
def test_no_choice(split: str, names: list[str], message: str):
    with pytest.raises(UsageError, match=message):
        split_names.choose(Path("data"), split, names)


@pytest.mark.parametrize(
    ("names", "are"),
    [
        ({"train"}, True),
        ({"train", "valid", "extra"}, True),
        ({"bus", "car", "train"}, False),  # classes
        ({"north", "south"}, False),
        ({"", "train"}, False),
        (set(), False),
    ],
)
def test_folders_that_are_splits(names: set[str], are: bool):
    assert split_names.are_splits(names) == are


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Train2017", "train"), ("training_set", "train"), ("VALID", "val"),
        ("val-2", "val"), ("test", "test"), ("trains", None), ("valve", None), ("dev", "val"),
        ("trainval", "trainval"), ("contest", None),
        ("images", None), ("", None),
    ],
)  # fmt: skip
def test_what_is_named_after_a_split(name: str, split: str | None):
    assert split_names.split_in(name) == split
