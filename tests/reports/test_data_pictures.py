"""Pictures show what is trained on, and first of all where something was found."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn import recipes
from fasterrcnn.data import statistics
from fasterrcnn.data.annotations import Annotations, Strings
from fasterrcnn.data.duplicates import Duplicates, Member
from fasterrcnn.data.problems import Problem
from fasterrcnn.models.transform import Transform
from fasterrcnn.recipes import Input, Recipe
from fasterrcnn.reports import data_pictures, page_pictures
from tests.data.make import annotations_of
from tests.reports.test_data_report import report


def one_image(folder: Path) -> Annotations:
    """400 x 400 px: white where the box is, 100, 50, 200 x 100 px, else green."""
    pixels = np.full((400, 400, 3), (0, 128, 0), np.uint8)
    pixels[50:150, 100:300] = 255
    Image.fromarray(pixels).save(folder / "a.png")
    data = annotations_of([[(100, 50, 200, 100)]])
    return replace(data, folder=folder, files=Strings(["a.png"]))


def pixels_of(picture: page_pictures.Picture) -> np.ndarray:
    data = base64.b64decode(picture.uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def recipe(**changes: object) -> Recipe:
    base = recipes.get("fasterrcnn_r50_fpn_1x")
    return recipes.change(base, input=dict(min_size=200, max_size=320) | changes)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_an_image_is_shown_as_it_is_trained_on(tmp_path: Path, flip: float, order: str):
    """Half as large, padded to the smallest bucket, 224 x 256 px, in the color that is 0 for the
    network; with the flip the box is where it was, since it is in the middle."""
    config = recipe(flip=flip, channel_order=order, pixel_scale=255.0)
    splits = {"train": one_image(tmp_path)}
    pictures, failures = data_pictures.make(
        [("train", 0)], {("train", 0): ["odd"]}, splits, config, threads=1
    )
    assert failures == []
    (picture,) = pictures
    assert (picture.file, picture.split, picture.marks) == ("a.png", "train", ["odd"])
    assert (picture.width, picture.height) == (256, 224)
    assert picture.boxes == [page_pictures.Drawn(50.0, 25.0, 100.0, 50.0, 1)]
    assert picture.counts() == [(1, 1)]
    shown = pixels_of(picture)
    assert shown.shape == (224, 256, 3)
    assert shown[50, 100] == pytest.approx([255] * 3, abs=6)
    assert shown[150, 100] == pytest.approx([0, 128, 0], abs=6)
    mean = [124, 116, 104] if order == "rgb" else [104, 116, 124]
    assert shown[215, 215] == pytest.approx(mean, abs=6)


def test_boxes_are_flipped_with_the_image(tmp_path: Path):
    data = one_image(tmp_path)
    data = replace(data, xywh=np.array([[0.0, 50, 100, 100]]))
    flipped, _ = data_pictures.make([("train", 0)], {}, {"train": data}, recipe(flip=1.0), 1)
    assert flipped[0].boxes == [page_pictures.Drawn(150.0, 25.0, 50.0, 50.0, 1)]
    plain, _ = data_pictures.make([("val", 0)], {}, {"val": data}, recipe(flip=1.0), 1)
    assert plain[0].boxes == [page_pictures.Drawn(0.0, 25.0, 50.0, 50.0, 1)]  # only training flips


@pytest.mark.parametrize("scale", [255.0, 1.0])
def test_normalization_is_undone(scale: float):
    """Of 8-bit values and of values of 0 to 1."""
    factor = 255 / scale
    mean, std = tuple(0.4 * factor for _ in range(3)), tuple(0.2 * factor for _ in range(3))
    config = Input(pixel_scale=scale, image_mean=mean, image_std=std, min_size=32, max_size=32)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    padded = Transform(config)([image])
    assert torch.equal(data_pictures._pixels(padded.pixels[0], config).permute(2, 0, 1), image)


def test_files_that_cannot_be_decoded_are_named(tmp_path: Path):
    data = one_image(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    pictures, failures = data_pictures.make([("train", 0)], {}, {"train": data}, recipe(), 1)
    assert pictures == []
    assert len(failures) == 1 and str(tmp_path / "a.png") in failures[0]
    assert data_pictures.crops([statistics.box(data, 0)], "train", data) == []


def test_a_crop_shows_a_box_and_what_is_around_it(tmp_path: Path):
    """300 px around 200 x 100 px from 100, 50: x from 50 to 350, y from 0 (cut) to 250."""
    data = one_image(tmp_path)
    (crop,) = data_pictures.crops([statistics.box(data, 0)], "train", data)
    assert (crop.width, crop.height) == (300, 250)
    assert crop.boxes == [page_pictures.Drawn(50.0, 50.0, 200.0, 100.0, 1)]
    assert crop.note == "thing, 200 x 100 px"


def test_small_boxes_are_enlarged(tmp_path: Path):
    data = replace(one_image(tmp_path), xywh=np.array([[200.0, 200, 4, 2]]))
    (crop,) = data_pictures.crops([statistics.box(data, 0)], "train", data)
    assert (crop.width, crop.height) == (64, 64)
    assert pixels_of(crop).shape == (256, 256, 3)
    assert crop.boxes == [page_pictures.Drawn(30.0, 31.0, 4.0, 2.0, 1)]


def test_marks_say_what_was_found_about_an_image():
    data = annotations_of([[(0, 0, 9, 9)], [], [(390, 0, 20, 20)], [(0, 0, 9, 9)], [(0, 0, 9, 9)]])
    data = replace(data, files=Strings(["a/x.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]))
    found = replace(
        report(train=data),
        odd={"train": [statistics.box(data, 0, "odd")]},
        duplicates=Duplicates([[Member("train", 2, ""), Member("train", 3, "")]], [], []),
        problems=[
            Problem("/labels/a/x.txt", "line 3", "", "wrong", "stop"),
            Problem("x.json", "/annotations/4/bbox (annotation 9, image 4)", "", "wrong", "stop"),
            Problem("/labels/b.txt", "line 3", "", "no area", "dropped"),  # a note
        ],
    )
    assert data_pictures.marks(found, {"train": data}) == {
        ("train", 0): ["box odd", data_pictures.FAULT],
        ("train", 1): [data_pictures.NO_BOX],
        ("train", 2): ["box clipped", data_pictures.TWICE],
        ("train", 3): [data_pictures.TWICE],
        ("train", 4): [data_pictures.FAULT],
    }


def test_images_with_findings_come_on_top_of_the_sample():
    splits = {"train": annotations_of([[]] * 10), "val": annotations_of([[]] * 10)}
    found = {("train", 0): ["a"], ("val", 9): ["b"]}
    chosen, count = data_pictures.choose(found, splits, 4)
    assert chosen == [
        ("train", 0), ("train", 2), ("train", 7), ("val", 2), ("val", 7), ("val", 9)
    ]  # fmt: skip
    assert count == 2


def test_a_frequent_finding_leaves_room_for_a_rare_one():
    splits = {"train": annotations_of([[]] * 100)}
    found = {("train", i): ["frequent"] for i in range(99)} | {("train", 99): ["rare"]}
    chosen, count = data_pictures.choose(found, splits, 10)
    assert ("train", 99) in chosen
    assert len(chosen) == 10 + 10 - 1  # one is in both samples
    assert count == len(chosen)


def test_no_images_are_wanted():
    assert data_pictures.choose({("train", 0): ["a"]}, {"train": annotations_of([[]])}, 0) == (
        [],
        0,
    )


def test_augmentation_is_seen_in_the_training_split_only(tmp_path: Path):
    """Of a seed with which the image is zoomed out."""
    splits = dict.fromkeys(("train", "val"), one_image(tmp_path))
    config = recipes.change(recipe(flip=0.0), augment=dict(zoom_out=True), seed=1)
    (train, val), failures = data_pictures.make([("train", 0), ("val", 0)], {}, splits, config, 2)
    assert failures == []
    assert val.boxes == [page_pictures.Drawn(50.0, 25.0, 100.0, 50.0, 1)]
    (box,) = train.boxes
    assert box.width < 60
    assert (train.width, train.height) == (256, 224)
    shown = pixels_of(train)
    middle = shown[round(box.y + box.height / 2), round(box.x + box.width / 2)]
    assert middle == pytest.approx([255] * 3, abs=12)
