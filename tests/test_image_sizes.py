"""Sizes after resizing are torchvision's; padded shapes are few and hold every image."""

from __future__ import annotations

import pytest

from fasterrcnn import recipes
from fasterrcnn.image_sizes import (
    bucket_of,
    buckets,
    planned_shape,
    resized,
    smallest_bucket,
    training_sizes,
)
from fasterrcnn.recipes import Input


def test_buckets_of_the_recipes():
    assert buckets(Input()) == [
        (800, 1088), (800, 1216), (800, 1344), (1088, 800), (1216, 800), (1344, 800),
    ]  # fmt: skip
    assert buckets(Input(min_size=64, max_size=64)) == [(64, 64)]
    for recipe in (Input(), Input(min_size=600, max_size=1000), Input(min_size=128, max_size=160)):
        shapes = buckets(recipe)
        for height in range(20, 700, 13):
            for width in range(20, 700, 17):
                bucket = shapes[bucket_of(height, width, recipe)]
                h, w = resized(height, width, recipe)
                assert h <= bucket[0]
                assert w <= bucket[1]


@pytest.mark.parametrize(("least", "most"), [(160, 267), (800, 1333), (64, 96)])
def test_resized_is_what_torchvision_makes(least: int, most: int):
    import torch
    from torchvision.models.detection.transform import _resize_image_and_masks

    recipe = Input(min_size=least, max_size=most)
    sizes = [(480, 640), (427, 640), (500, 30), (31, 700), (333, 500), (612, 612), (1, 9)]
    sizes += [(97 + 7 * i, 640 - 5 * i) for i in range(60)]
    for height, width in sizes:
        image, _ = _resize_image_and_masks(torch.zeros(1, height, width), least, most)
        assert image.shape[1:] == resized(height, width, recipe), (height, width)


def test_a_limit_only_makes_images_smaller():
    assert resized(480, 640, Input()) == (800, 1066)
    assert resized(480, 640, Input(), limit=(800, 1088)) == (800, 1066)
    assert resized(640, 480, Input(), limit=(800, 1088)) == (800, 600)
    assert resized(640, 480, Input(), short=400, limit=(800, 1088)) == (533, 400)
    assert resized(100, 300, Input(), limit=(1088, 800)) == (266, 800)
    for rounding in ("floor", "nearest"):
        for height in range(3, 500, 7):
            for limit in buckets(Input()):
                h, w = resized(height, 211, Input(rounding=rounding), limit=limit)
                assert h <= limit[0]
                assert w <= limit[1]


def test_a_smaller_shape_outside_the_limit_is_not_taken():
    config = Input(train_min_sizes=(640, 800))
    assert smallest_bucket(800, 700, config) == (1024, 736)
    assert smallest_bucket(800, 700, config, (800, 1088)) == (800, 1088)


def test_jittered_images_have_one_shape_in_training():
    recipe = recipes.change(
        recipes.get("fasterrcnn_r50_fpn_3x_detectron2"), augment=dict(jitter=True, jitter_size=500)
    )
    sizes = training_sizes(recipe)
    assert buckets(sizes) == [(512, 512)]
    assert {planned_shape(h, w, sizes) for h in (3, 90, 4000) for w in (7, 90)} == {(512, 512)}
    assert resized(500, 500, sizes) == (500, 500)
    assert sizes.train_min_sizes == ()
    assert training_sizes(recipes.fasterrcnn_r50_fpn_1x()) == Input()
