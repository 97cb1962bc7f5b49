"""Flat arrays: strings, selection, digest."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.annotations import Strings, clip
from fasterrcnn.data.problems import Problems
from tests.data import make


def test_strings_are_one_buffer():
    items = ["a", "", "日本.jpg", "x" * 5000, "\udcff"]
    strings = Strings(items)
    assert list(strings) == items
    assert list(pickle.loads(pickle.dumps(strings))) == items
    assert len(strings) == 5


def test_nothing_in_annotations_grows_with_the_data_but_arrays(shapes_folder: Path):
    data = formats.read(shapes_folder, "train", "auto", (), Problems())
    for name, value in vars(data).items():
        if name in ("ids", "files"):
            assert all(isinstance(v, np.ndarray) for v in vars(value).values())
        elif not isinstance(value, np.ndarray):
            assert name in (
                "folder", "classes", "voc", "federated", "pixel_format", "channels", "tiles",
                "copies",
            )  # fmt: skip
            assert sys.getsizeof(value) < 1000


@pytest.mark.parametrize("chosen", ["some", "again and again"])
def test_select_and_take_keep_images_with_their_boxes(shapes_folder: Path, chosen: str):
    data = formats.read(shapes_folder, "train", "auto", (), Problems())
    if chosen == "some":
        index = np.arange(1, len(data), 3)
        found = data.select(np.arange(len(data)) % 3 == 1)
    else:
        index = np.array([3, 0, 3, len(data) - 1, 0])
        found = data.take(index)
    assert len(found) == len(index)
    for new, old in enumerate(index):
        assert found.ids[new] == data.ids[old]
        assert found.path(new) == data.path(old)
        assert found.sizes[new].tolist() == data.sizes[old].tolist()
        for part in (0, 1):
            expected = data.training_boxes(int(old))[part]
            assert found.training_boxes(new)[part].tolist() == expected.tolist()


def test_digest_sees_everything_that_training_sees(tmp_path: Path):
    digests = set()
    for place, value in [
        (("images", 0, "id"), 1),
        (("annotations", 0, "bbox", 0), 1.5),
        (("annotations", 0, "category_id"), 7),
        (("annotations", 0, "iscrowd"), 1),
        (("categories", 0, "name"), "wolf"),
    ]:
        make.coco(tmp_path, make.changed(place, value))
        digests.add(formats.read(tmp_path, "train", "auto", (), Problems()).digest())
    assert len(digests) == 5
    again = set()
    for place in (tmp_path / "here", tmp_path / "elsewhere"):
        make.coco(place)
        again.add(formats.read(place, "train", "auto", (), Problems()).digest())
    assert len(again) == 1


def test_clip():
    xywh = np.array([[-5.0, 2, 10, 10], [3, 3, 100, 1]])
    assert clip(xywh, np.array([8, 20])).tolist() == [[0, 2, 5, 8], [3, 3, 20, 4]]
