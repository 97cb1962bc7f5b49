"""The padded shapes that a run plans with."""

from __future__ import annotations

from pathlib import Path

from fasterrcnn import recipes
from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine.run_data import RunData
from fasterrcnn.image_sizes import bucket_of


def test_jittered_images_are_all_in_one_bucket(shapes_folder: Path):
    train = formats.read(shapes_folder, "train", "auto", (), Problems())
    data = RunData(train, None, None, None)
    recipe = recipes.fasterrcnn_r10_fpn_shapes()
    plain = [bucket_of(int(h), int(w), recipe.input) for h, w in train.sizes]
    assert data.buckets(recipe) == plain
    assert len(set(plain)) > 1
    for moving in (dict(iou_crop=True), dict(zoom_out=True), dict(photometric=True)):
        assert data.buckets(recipes.change(recipe, augment=moving)) == plain
    jittered = recipes.change(recipe, augment=dict(jitter=True))
    assert data.buckets(jittered) == [0] * len(train)
