"""COCO json: what is read, and one line for everything that can be wrong with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError, UsageError
from tests.data import make

NAN, INF = float("nan"), float("inf")
BOX = ("annotations", 1, "bbox")


def read(root: Path, *, skip: bool = False, classes: tuple[str, ...] = ()):
    problems = Problems(skip)
    return formats.read(root, "train", "auto", classes, problems), problems


def test_boxes_labels_and_ids(tmp_path: Path):
    make.coco(tmp_path)
    data, problems = read(tmp_path)
    assert list(data.ids) == ["1", "2"]
    assert list(data.files) == ["a.png", "b.png"]
    assert data.classes.names == ("cat", "dog")  # in the order of the ids 3, 7
    assert data.classes.category_ids == (3, 7)
    assert data.classes.num_classes == 3
    assert data.labels.tolist() == [1, 2, 1]
    assert data.crowd.tolist() == [False, False, True]
    assert data.area.tolist() == [150, 56, 81]
    boxes, labels = data.training_boxes(1)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[5.5, 6, 12.5, 14]]  # the crowd box is not trained on
    assert labels.tolist() == [2]
    assert problems.found == []


def test_real_annotations_agree_with_pycocotools(coco_tiny: Path):
    from pycocotools.coco import COCO

    gt = COCO(coco_tiny / "annotations" / "instances_val2017.json")
    data = formats.read(coco_tiny, "val", "auto", (), Problems())
    assert list(data.ids) == [str(i) for i in sorted(gt.imgs)]
    assert data.classes.category_ids == tuple(gt.getCatIds())
    assert len(data.classes.names) == 80
    for i, id in enumerate(map(int, data.ids)):
        rows = slice(data.first[i], data.first[i + 1])
        expected = gt.loadAnns(gt.getAnnIds(imgIds=id))
        assert data.xywh[rows].tolist() == [a["bbox"] for a in expected]
        assert data.area[rows].tolist() == [a["area"] for a in expected]
        assert data.crowd[rows].tolist() == [bool(a["iscrowd"]) for a in expected]
        categories = [data.classes.category_ids[label - 1] for label in data.labels[rows]]
        assert categories == [a["category_id"] for a in expected]
        assert data.sizes[i].tolist() == [gt.imgs[id]["height"], gt.imgs[id]["width"]]


@pytest.mark.parametrize("ids", [(0, 1), (10**12, 5), (7, 10**9), ("x", "y"), (3, "3b")])
def test_any_ids_just_work(tmp_path: Path, ids: tuple):
    text = json.dumps(make.CONTENT)
    content = json.loads(text)
    for k, id in enumerate(ids):
        content["images"][k]["id"] = id
        for annotation, old in zip(content["annotations"], (1, 2, 2), strict=True):
            if old == k + 1:
                annotation["image_id"] = id
    for annotation in content["annotations"]:
        annotation["id"] -= 1  # from 0
        annotation["category_id"] -= 3
    for category in content["categories"]:
        category["id"] -= 3  # from 0
    make.coco(tmp_path, content)
    data, _ = read(tmp_path)
    assert sorted(data.ids) == sorted(map(str, ids))
    assert sorted(data.labels.tolist()) == [1, 1, 2]
    assert data.classes.category_ids == (0, 4)


def test_subset_of_classes_by_name(tmp_path: Path):
    make.coco(tmp_path)
    data, _ = read(tmp_path, classes=("dog",))
    assert data.classes.names == ("dog",)
    assert data.labels.tolist() == [1]
    assert data.with_boxes().tolist() == [False, True]
    with pytest.raises(UsageError, match="--classes: bird: not in the data; choose from cat, dog"):
        read(tmp_path, classes=("bird",))


def test_odd_boxes_are_noted_and_training_goes_on(tmp_path: Path):
    boxes = [[5, 5, 0, 3], [100, 5, 5, 5], [55, 35, 20, 20], [0, 0, 60.01, 40.01]]
    content = json.loads(json.dumps(make.CONTENT))
    content["annotations"] = [
        {"id": i, "image_id": 1, "category_id": 3, "bbox": box} for i, box in enumerate(boxes)
    ]
    make.coco(tmp_path, content)
    data, problems = read(tmp_path)
    assert problems.counts() == {
        "box of zero width or height: dropped": 1,
        "box outside the image: dropped": 1,
        "box partly outside the image: clipped": 1,
    }
    assert data.training_boxes(0)[0].tolist() == [[55, 35, 60, 40], [0, 0, 60, 40]]
    assert len(data.xywh) == 4  # evaluation sees the file's own boxes
    assert data.area.tolist() == [0, 25, 400, 60.01 * 40.01]  # no area in the file: w * h
    problems.write(tmp_path / "problems.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert [line["field"].split(" ")[0] for line in lines] == [
        "/annotations/0/bbox",
        "/annotations/1/bbox",
        "/annotations/2/bbox",
    ]


def test_images_without_sizes_are_measured(tmp_path: Path):
    content = json.loads(json.dumps(make.CONTENT))
    for image in content["images"]:
        del image["height"], image["width"]
    make.coco(tmp_path, content)
    assert read(tmp_path)[0].sizes.tolist() == [[40, 60], [60, 40]]


@pytest.mark.parametrize(("size", "rotate"), [((40, 60), False), ((60, 40), True)])
def test_sizes_tell_whether_exif_orientation_counts(tmp_path: Path, size: tuple, rotate: bool):
    content = make.changed(("images", 0, "height"), size[0])
    content["images"][0]["width"] = size[1]
    make.coco(tmp_path, content)
    from PIL import Image

    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "train2017" / "a.png", exif=exif)
    data, _ = read(tmp_path)
    assert data.rotate.tolist() == [rotate, False]


# Rows: where CONTENT is changed, to what, the field the one line must point at, its phrase.
MALFORMED: list[tuple[tuple, Any, str, str]] = [
    ((*BOX, 2), NAN, "/annotations/1/bbox/2", "finite number"),
    ((*BOX, 0), INF, "/annotations/1/bbox/0", "finite number"),
    ((*BOX, 3), -8, "/annotations/1/bbox/3", "must not be negative"),
    ((*BOX, 1), None, "/annotations/1/bbox/1", "finite number"),
    ((*BOX, 1), "six", "/annotations/1/bbox/1", "finite number"),
    ((*BOX, 1), True, "/annotations/1/bbox/1", "finite number"),
    ((*BOX, 2), 1e308, "/annotations/1/bbox/2", "finite number"),
    (BOX, [1, 2, 3], "/annotations/1/bbox", "four numbers"),
    (BOX, [1, 2, 3, 4, 5], "/annotations/1/bbox", "four numbers"),
    (BOX, {"x": 1}, "/annotations/1/bbox", "four numbers"),
    (BOX, ..., "/annotations/1/bbox", "four numbers"),
    (("annotations", 1), [], "/annotations/1", "must be an object"),
    (("annotations", 1, "area"), NAN, "/annotations/1/area", "finite number"),
    (("annotations", 1, "area"), "5_6", "/annotations/1/area", "finite number"),
    (("annotations", 1, "area"), -1, "/annotations/1/area", "not negative"),
    (("annotations", 1, "iscrowd"), 2, "/annotations/1/iscrowd", "0 or 1"),
    (("annotations", 1, "iscrowd"), 10**20, "/annotations/1/iscrowd", "0 or 1"),
    (("annotations", 1, "category_id"), 99, "/annotations/1/category_id", "no category"),
    (("annotations", 1, "category_id"), "dog", "/annotations/1/category_id", "no category"),
    (("annotations", 1, "image_id"), 99, "/annotations/1/image_id", "no usable image"),
    (("annotations", 1, "image_id"), 2.5, "/annotations/1/image_id", "no usable image"),
    (("annotations", 1, "image_id"), [2], "/annotations/1/image_id", "no usable image"),
    (("images", 1, "width"), 41, "/images/1", "b.png has height 60, width 40"),
    (("images", 1, "width"), -40, "/images/1/width", "positive integer"),
    (("images", 1, "height"), "tall", "/images/1/height", "positive integer"),
    (("images", 1, "height"), 60.5, "/images/1/height", "positive integer"),
    (("images", 1, "file_name"), "../secret.png", "/images/1/file_name", "leaves the image"),
    (("images", 1, "file_name"), "/etc/passwd", "/images/1/file_name", "leaves the image folder"),
    (("images", 1, "file_name"), "C:\\c.png", "/images/1/file_name", "leaves the image folder"),
    (("images", 1, "file_name"), "", "/images/1/file_name", "must be a file name"),
    (("images", 1, "file_name"), 5, "/images/1/file_name", "must be a file name"),
    (("images", 1), {"id": 2, "coco_url": "http://[x"}, "/images/1/file_name", "a file name"),
    (("images", 1, "height"), "6_0", "/images/1/height", "positive integer"),
    (("images", 1, "file_name"), "c.png", "image 2", "missing"),
    (("images", "append"), "a.png", "/images/2", "must be an object"),
    (("images", "append"), {"id": None, "file_name": "a.png"}, "/images/2/id", "an integer"),
    # From here on nothing can be skipped.
    (("categories", 1, "id"), 7, "/categories/1/id", "also the id of dog"),
    (("categories", 1, "id"), "three", "/categories/1/id", "must be an integer"),
    (("categories", 1, "name"), "dog", "/categories/1/name", "the name of two categories"),
    (("categories", 1, "name"), ..., "/categories/1/name", "must be a name"),
    (("categories",), [], "/categories", "no category"),
    (("categories",), ..., "/categories", "must be a list"),
    (("annotations",), {}, "/annotations", "must be a list"),
    (("images",), None, "/images", "must be a list"),
]
SKIPPABLE = MALFORMED[: [row[0][0] for row in MALFORMED].index("categories")]


def write(root: Path, place: tuple, value: Any, *, plain: bool) -> None:
    """CONTENT with one value changed; `plain`: in a file that only json reads, not msgspec."""
    content = make.changed(place, value)
    make.coco(root, {**content, "info": NAN} if plain else content)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("place", "value", "field", "what"), MALFORMED)
def test_a_malformed_file_is_one_line_with_the_right_pointer(
    tmp_path: Path, place: tuple, value: Any, field: str, what: str, plain: bool
):
    write(tmp_path, place, value, plain=plain)
    with pytest.raises(DataError) as error:
        read(tmp_path)
    (line,) = str(error.value).splitlines()
    assert f": {field}" in line
    assert what in line
    assert error.value.code == 3
    assert str(tmp_path) in line


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("place", "value", "field", "what"), SKIPPABLE)
def test_skipping_drops_exactly_what_is_bad(
    tmp_path: Path, place: tuple, value: Any, field: str, what: str, plain: bool
):
    write(tmp_path, place, value, plain=plain)
    data, problems = read(tmp_path, skip=True)
    assert [p.action for p in problems.found] == ["dropped"]
    if place[0] == "annotations":
        assert list(data.ids) == ["1", "2"]
        assert sorted(data.labels.tolist()) == [1, 1]  # the dog is gone
    elif place[1] == 1:
        assert list(data.ids) == ["1"]
        assert data.labels.tolist() == [1]
    else:  # a third image too many
        assert list(data.ids) == ["1", "2"]
        assert sorted(data.labels.tolist()) == [1, 1, 2]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (b"", "line 1 column 1: not json"),
        (b"{", "line 1 column 2: not json"),
        (b'{"images": [}', "line 1 column 13: not json"),
        (b"[]", "/: list: must be an object"),
        (b"null", "/: NoneType: must be an object"),
        (b'{"images": "\xff"}', "byte 12: not UTF-8"),
        (b"[" * 200000, "nested too deeply"),
        (b'{"images": ' + b"1" * 5000 + b"}", "not json"),
    ],
)
def test_files_that_are_not_annotation_files(tmp_path: Path, text: bytes, where: str):
    make.coco(tmp_path, text)
    with pytest.raises(DataError, match=where) as error:
        read(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_a_byte_order_mark_is_no_problem(tmp_path: Path):
    make.coco(tmp_path, b"\xef\xbb\xbf" + json.dumps(make.CONTENT).encode())
    assert len(read(tmp_path)[0]) == 2


def test_many_faults_are_listed_up_to_twenty_then_counted(tmp_path: Path):
    content = json.loads(json.dumps(make.CONTENT))
    content["annotations"] += [
        {"id": i, "image_id": 1, "category_id": 3, "bbox": [0, 0, -1, 1]} for i in range(10, 60)
    ]
    make.coco(tmp_path, content)
    with pytest.raises(DataError) as error:
        read(tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[-1].startswith("30 more")


def test_of_images_with_one_id_none_is_used(tmp_path: Path):
    content = make.changed(("images", "append"), {"id": 2, "file_name": "c.png"})
    make.coco(tmp_path, content)
    make.image(tmp_path / "train2017" / "c.png", 20, 20)
    with pytest.raises(DataError, match="/images/2/id: 2: another image has this id too"):
        read(tmp_path)
    data, _ = read(tmp_path, skip=True)
    assert list(data.ids) == ["1"]
    assert data.xywh.tolist() == [[1, 2, 10, 20]]


def test_of_images_with_one_file_none_is_used(tmp_path: Path):
    content = make.changed(("images", "append"), {"id": 3, "file_name": "./b.png"})
    make.coco(tmp_path, content)
    with pytest.raises(DataError, match=r"/images/1/file_name: b\.png: two images have this file"):
        read(tmp_path)
    assert list(read(tmp_path, skip=True)[0].ids) == ["1"]


def test_repeated_annotation_ids_lose_nothing(tmp_path: Path):
    make.coco(tmp_path, make.changed(("annotations", 1, "id"), 1))
    data, problems = read(tmp_path, skip=True)
    assert sorted(data.labels.tolist()) == [1, 1, 2]
    assert problems.found == []


# Values that can mean one thing only; the data is as if they were written the usual way.
READABLE: list[tuple[tuple, Any]] = [
    (("images", 1, "height"), 60.0),
    (("images", 1, "height"), "60"),
    (("images", 1, "width"), 0),
    (("images", 1, "width"), None),
    (("images", 1, "id"), "2"),
    (("annotations", 1, "image_id"), "2"),
    (("annotations", 1, "image_id"), 2.0),
    (("annotations", 1, "category_id"), "7"),
    (("annotations", 1, "category_id"), 7.0),
    (("categories", 0, "id"), "7"),
    (("annotations", 1, "iscrowd"), None),
    (("annotations", 1, "iscrowd"), False),
    (("annotations", 1, "iscrowd"), "0"),
    (("annotations", 1, "iscrowd"), ...),
    (("annotations", 1, "area"), "56"),
    (("annotations", 1, "area"), ...),
    (("annotations", 1, "area"), None),
    (("annotations", 1, "id"), "a3f0-77"),
    (("annotations", 1, "id"), 2**63),
    (("annotations", 1, "id"), None),
    (("annotations", 1, "id"), [2]),
    (BOX, ["5.5", "6", "7", "8"]),
    (("annotations", 1, "segmentation"), {"counts": "x", "size": None}),
]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("place", "value"), READABLE)
def test_what_can_mean_one_thing_only_is_read(
    tmp_path: Path, place: tuple, value: Any, plain: bool
):
    """`plain`: NaN in a field that nobody reads, so that msgspec refuses the file."""
    content = make.changed(place, value)
    make.coco(tmp_path, {"info": NAN, **content} if plain else content)
    data, problems = read(tmp_path)
    assert problems.found == []
    assert data.sizes.tolist() == [[40, 60], [60, 40]]
    rows = sorted(zip(data.labels.tolist(), data.xywh.tolist(), data.crowd.tolist(), strict=True))
    assert rows == [(1, [0, 0, 9, 9], True), (1, [1, 2, 10, 20], False), (2, [5.5, 6, 7, 8], False)]
    assert sorted(data.area.tolist()) == [56, 81, 150]


@pytest.mark.parametrize("missing", [..., None, []])
@pytest.mark.parametrize(
    "segmentation",
    [
        [[5.5, 6, 12.5, 6, 12.5, 14, 5.5, 14]],
        [[5.5, 6, 7, 6, 7, 8], [8, 9, 12.5, 14, 8, 14]],
        [5.5, 6, 12.5, 6, 12.5, 14],
    ],
)
def test_a_missing_box_is_that_of_the_segmentation(
    tmp_path: Path, missing: Any, segmentation: list
):
    content = make.changed(BOX, missing)
    content["annotations"][1]["segmentation"] = segmentation
    make.coco(tmp_path, content)
    data, problems = read(tmp_path)
    assert data.xywh[data.labels == 2].tolist() == [[5.5, 6, 7, 8]]
    assert problems.counts() == {"no bbox: the box of the segmentation: used": 1}
    assert problems.found[0].field.startswith("/annotations/1/segmentation (annotation 2, image 2)")


def test_a_missing_box_is_that_of_a_run_length_encoded_mask(tmp_path: Path):
    from pycocotools import mask

    pixels = np.zeros((60, 40), np.uint8, order="F")
    pixels[6:14, 5:12] = 1
    encoded = mask.encode(pixels)
    flat = pixels.T.ravel()
    ends = [*np.flatnonzero(np.diff(flat)) + 1, len(flat)]
    counts = np.diff([0, *ends]).tolist()
    for form in (encoded["counts"].decode(), counts):
        content = make.changed(BOX, ...)
        content["annotations"][1]["segmentation"] = {"size": [60, 40], "counts": form}
        make.coco(tmp_path, content)
        data, _ = read(tmp_path)
        assert data.xywh[data.labels == 2].tolist() == [[5, 6, 7, 8]]


NO_MASKS = [
    {"size": [0, 40], "counts": "0"},
    {"size": [0, 0], "counts": [0]},
    {"size": [60, 0], "counts": [0, 9]},
    {"size": [-60, 40], "counts": [0, 9]},
    {"size": [2**40, 40], "counts": [0, 9]},
    {"size": [2**32, 40], "counts": "1"},
    {"size": [60, True], "counts": [0, 9]},
    {"size": [60], "counts": [0, 9]},
    {"size": [60, 40, 1], "counts": [0, 9]},
    {"size": [60, 40], "counts": [0, 2401]},
    {"size": [60, 40], "counts": [0, -9]},
    {"size": [60, 40], "counts": []},
    {"size": [60, 40], "counts": "0oooooo0"},
    {"size": [60, 40], "counts": "oooooooo"},  # cut off: the last number does not end
    {"size": [60, 40], "counts": "\u00e9"},
    {"size": [60, 40]},
]


@pytest.mark.parametrize("segmentation", NO_MASKS, ids=range(len(NO_MASKS)))
def test_a_mask_that_is_none_is_one_line(tmp_path: Path, segmentation: dict):
    """With such, pycocotools can end the process."""
    content = make.changed(BOX, ...)
    content["annotations"][1]["segmentation"] = segmentation
    make.coco(tmp_path, content)
    what = r"/annotations/1/bbox \(annotation 2, image 2\): null: must be four numbers"
    with pytest.raises(DataError, match=what):
        read(tmp_path)


def test_the_row_of_a_group_is_no_class(tmp_path: Path):
    content = make.changed(("categories",), [
        {"id": 0, "name": "dog", "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": "pets"},
        {"id": 7, "name": "dog", "supercategory": "dog"},
        {"id": 8, "name": "pets", "supercategory": "none"},
    ])  # fmt: skip
    make.coco(tmp_path, content)
    data, problems = read(tmp_path)
    assert data.classes.names == ("cat", "dog")
    assert data.classes.category_ids == (3, 7)
    assert sorted(data.labels.tolist()) == [1, 1, 2]
    assert problems.counts() == {"category that only groups others: left out": 2}


def test_a_class_that_is_its_own_group_stays(tmp_path: Path):
    content = make.changed(("categories", "append"), {
        "id": 9, "name": "person", "supercategory": "person"
    })  # fmt: skip
    content["categories"] += [  # "none" stands for no group
        {"id": 10, "name": "none", "supercategory": "none"},
        {"id": 11, "name": "bird", "supercategory": "none"},
    ]
    make.coco(tmp_path, content)
    assert read(tmp_path)[0].classes.names == ("cat", "dog", "person", "none", "bird")


@pytest.mark.parametrize(
    ("boxes", "what"),
    [
        ([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]], "boxes are fractions"),
        ([[30, 20, 50, 39], [10, 20, 60, 40]], "fit as corners x1 y1 x2 y2"),
    ],
)
def test_boxes_in_another_unit_or_order_stop_the_run(tmp_path: Path, boxes: list, what: str):
    content = make.changed(("annotations",), [
        {"id": k, "image_id": 1, "category_id": 3, "bbox": box} for k, box in enumerate(boxes)
    ])  # fmt: skip
    make.coco(tmp_path, content)
    with pytest.raises(DataError, match=what):
        read(tmp_path, skip=True)


def test_boxes_that_only_cross_the_border_do_not_stop_the_run(tmp_path: Path):
    content = make.changed(("annotations", 0, "bbox"), [20, 20, 45, 25])
    make.coco(tmp_path, content)
    data, problems = read(tmp_path)
    assert problems.counts() == {"box partly outside the image: clipped": 1}
    assert [20, 20, 60, 40] in data.training_boxes(0)[0].tolist()


@pytest.mark.parametrize(
    "place", [("images", 1, "file_name"), ("images", 1, "id"), ("categories", 1, "name")]
)
def test_half_of_a_surrogate_pair_is_one_line(tmp_path: Path, place: tuple):
    make.coco(tmp_path, make.changed(place, "\ud800"))  # json.dumps writes it as an escape
    with pytest.raises(DataError) as error:
        read(tmp_path)
    for line in str(error.value).splitlines():
        line.encode()
