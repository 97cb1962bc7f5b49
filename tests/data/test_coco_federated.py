"""LVIS json: images by URL, what each was searched for, how frequent each class is."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fasterrcnn.data import coco_cache, coco_json, formats
from fasterrcnn.data.annotations import Annotations, Classes, Lists
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from tests.data import make

URL = "http://images.cocodataset.org"
# Labels are 1 ant, 2 bat, 3 cow. LVIS takes images of both of COCO's splits.
CONTENT: dict[str, Any] = {
    "annotations": [
        {"id": 1, "image_id": 20, "category_id": 5, "bbox": [1, 2, 10, 20], "area": 150},
        {"id": 2, "image_id": 10, "category_id": 9, "bbox": [3, 4, 5, 6], "area": 30},
    ],
    "images": [
        {
            "id": 20, "coco_url": f"{URL}/train2017/000000000020.jpg", "height": 40, "width": 60,
            "neg_category_ids": [9, 7], "not_exhaustive_category_ids": [5],
        },
        {
            "id": 10, "coco_url": f"{URL}/val2017/000000000010.jpg", "height": 60, "width": 40,
            "neg_category_ids": [], "not_exhaustive_category_ids": [9],
        },
    ],
    "categories": [
        {"id": 9, "name": "cow", "frequency": "f", "image_count": 700, "synset": "cow.n.01"},
        {"id": 5, "name": "ant", "frequency": "r", "image_count": 3, "synset": "ant.n.01"},
        {"id": 7, "name": "bat", "frequency": "c", "image_count": 40, "synset": "bat.n.01"},
    ],
}  # fmt: skip


def write(root: Path, content: Any = CONTENT, file: str = "annotations/lvis_v1_val.json") -> Path:
    make.image(root / "train2017" / "000000000020.jpg", 40, 60)
    make.image(root / "val2017" / "000000000010.jpg", 60, 40)
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(json.dumps(content))
    return root / file


def read(root: Path, *, skip: bool = False) -> tuple[Annotations, Problems]:
    problems = Problems(skip)
    return formats.read(root, "val", "auto", (), problems), problems


def shown(data: Annotations) -> list[tuple[str, list[int], list[int]]]:
    """Image id, labels known to be absent, labels whose boxes are not exhaustive."""
    assert data.federated is not None
    absent, partly = data.federated.absent, data.federated.not_exhaustive
    return [(data.ids[i], absent[i].tolist(), partly[i].tolist()) for i in range(len(data))]


def changed(*changes: tuple[tuple, Any]) -> dict[str, Any]:
    """CONTENT with the values at these places replaced, or removed if they are ..."""
    content = copy.deepcopy(CONTENT)
    for (*path, last), value in changes:
        item: Any = content
        for key in path:
            item = item[key]
        if value is ...:
            del item[last]
        else:
            item[last] = value
    return content


@pytest.mark.parametrize("file", ["annotations/lvis_v1_val.json", "lvis_v1_val.json"])
def test_what_lvis_says_is_read(tmp_path: Path, file: str):
    write(tmp_path, file=file)
    data, problems = read(tmp_path)
    assert [Path(data.path(i)) for i in range(2)] == [
        tmp_path / "val2017" / "000000000010.jpg",
        tmp_path / "train2017" / "000000000020.jpg",
    ]
    assert data.classes == Classes(("ant", "bat", "cow"), (5, 7, 9))
    assert data.labels.tolist() == [3, 1]
    assert shown(data) == [("10", [], [3]), ("20", [3, 2], [1])]
    assert data.federated is not None
    assert data.federated.frequency == ("r", "c", "f")
    assert problems.found == []


def test_images_without_file_names_show_a_coco_file_too(tmp_path: Path):
    """Where annotations come late in the file, what is in front of them must do."""
    images = [image | {"flickr_url": "x" * 2**20} for image in CONTENT["images"]]
    content = {"images": images, **{key: CONTENT[key] for key in ("annotations", "categories")}}
    write(tmp_path, content, file="lvis_v1_val.json")
    assert shown(read(tmp_path)[0]) == [("10", [], [3]), ("20", [3, 2], [1])]


def test_it_goes_where_its_images_and_classes_go(tmp_path: Path):
    write(tmp_path)
    data, _ = read(tmp_path)
    assert shown(data.select(np.array([False, True]))) == [("20", [3, 2], [1])]
    again = data.take(np.array([1, 0, 1]))
    assert shown(again) == [("20", [3, 2], [1]), ("10", [], [3]), ("20", [3, 2], [1])]
    fewer = data.with_classes(data.classes.subset(("bat", "ant")))
    assert shown(fewer) == [("10", [], []), ("20", [2], [1])]
    assert fewer.federated is not None and fewer.federated.frequency == ("r", "c")
    others = data.with_classes(Classes(("cow", "dog", "ant"), (1, 2, 3)))
    assert shown(others) == [("10", [], [1]), ("20", [1], [3])]
    assert others.federated is not None and others.federated.frequency == ("f", "", "r")
    assert shown(pickle.loads(pickle.dumps(again))) == shown(again)


def test_what_is_undecided(tmp_path: Path):
    """Image 20 has an ant and perhaps more, no bat, no cow; nothing is known about a dog."""
    write(tmp_path)
    data = read(tmp_path)[0].with_classes(Classes(("ant", "bat", "cow", "dog"), (1, 2, 3, 4)))
    assert data.federated is not None
    labels = np.array([1, 2, 3, 4, 2])
    undecided = data.federated.undecided(1, labels, np.array([1]))
    assert undecided.tolist() == [True, False, False, True, False]
    assert data.federated.undecided(0, labels, np.array([3, 2])).tolist() == [
        True, False, True, True, False
    ]  # fmt: skip


def test_lists_of_no_images():
    empty = Lists.of([])
    assert empty.first.tolist() == [0]
    assert empty.relabeled(np.array([0, 1])).take(np.array([], np.int64)).labels.tolist() == []


def test_it_is_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_cache, "_WORTH_IT", 0)
    write(tmp_path / "data", changed((("images", 0, "neg_category_ids"), ...)))
    first, found = read(tmp_path / "data")
    monkeypatch.setattr(coco_json, "parse", None)
    second, found_again = read(tmp_path / "data")
    assert shown(second) == shown(first) == [("10", [], [3]), ("20", [], [1])]
    assert second.federated is not None and second.federated.frequency == ("r", "c", "f")
    assert found_again.found == found.found and len(found.found) == 1


def test_without_the_lists_it_is_plain_coco(tmp_path: Path):
    keys = ("neg_category_ids", "not_exhaustive_category_ids")
    places = [("images", k, key) for k in (0, 1) for key in keys]
    write(tmp_path, changed(*((place, ...) for place in places)))
    data, problems = read(tmp_path)
    assert data.federated is None
    assert data.labels.tolist() == [3, 1]
    assert problems.found == []
    assert data.take(np.array([0])).with_classes(data.classes).federated is None


def test_training_does_not_depend_on_it(tmp_path: Path):
    write(tmp_path)
    before = read(tmp_path)[0].digest()
    write(tmp_path, changed((("images", 0, "neg_category_ids"), [7])))
    assert read(tmp_path)[0].digest() == before


@pytest.mark.parametrize(
    ("place", "value", "absent", "frequency", "note"),
    [
        (("images", 0, "neg_category_ids"), ..., [], "c", "image without neg_category_ids"),
        (("images", 0, "neg_category_ids"), None, [], "c", "image without neg_category_ids"),
        (("images", 0, "neg_category_ids"), [9, 99, 98], [3], "c", "that no category has"),
        (("images", 0, "neg_category_ids"), ["9", 7.0], [3, 2], "c", None),
        (("categories", 2, "frequency"), ..., [3, 2], "", "class without a frequency"),
        (("categories", 2, "frequency"), "rare", [3, 2], "", "class without a frequency"),
        (("categories", 2, "frequency"), ["c"], [3, 2], "", "class without a frequency"),
    ],
)
def test_what_is_missing_is_noted(
    tmp_path: Path, place: tuple, value: Any, absent: list, frequency: str, note: str | None
):
    write(tmp_path, changed((place, value)))
    data, problems = read(tmp_path)
    assert shown(data)[1] == ("20", absent, [1])
    assert data.federated is not None and data.federated.frequency == ("r", frequency, "f")
    assert len(problems.found) == (note is not None)
    assert all(note in p.what for p in problems.found if note)


@pytest.mark.parametrize("value", [7, "7", {"7": 1}, [7, None], [[7]], [7.5], ["bat"], [True]])
@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_a_malformed_list_is_one_line(tmp_path: Path, key: str, value: Any):
    write(tmp_path, changed((("images", 0, key), value)))
    with pytest.raises(DataError, match=f"/images/0/{key}: .*must be a list of category ids"):
        read(tmp_path)
    data, problems = read(tmp_path, skip=True)
    assert shown(data) == [("10", [], [3])]
    assert {p.action for p in problems.found} == {"dropped"}


def test_lvis_beside_coco_is_asked_for_by_name(tmp_path: Path):
    write(tmp_path)
    write(tmp_path, changed((("annotations", 0), ...)), file="annotations/instances_val2017.json")
    with pytest.raises(UsageError, match=r"instances_val2017\.json or annotations/lvis_v1_val\."):
        read(tmp_path)
    data = formats.read(tmp_path, "lvis_v1_val", "auto", (), Problems())
    assert data.labels.tolist() == [3, 1]
