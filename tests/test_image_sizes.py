"""Sizes after resizing are torchvision's; padded shapes are few and hold every image."""

from __future__ import annotations

import pytest

from fasterrcnn.image_sizes import bucket_of, buckets, resized
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
