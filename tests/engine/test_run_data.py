"""The padded shapes that a run plans with, and what it says about its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fasterrcnn import recipes
from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import evaluation
from fasterrcnn.engine.bad_images import BadImages
from fasterrcnn.engine.run_data import DataSource, buckets, read_splits
from fasterrcnn.image_sizes import bucket_of
from tests.data import test_coco_federated


def test_jittered_images_are_all_in_one_bucket(shapes_folder: Path):
    train = formats.read(shapes_folder, "train", "auto", (), Problems())
    recipe = recipes.fasterrcnn_r10_fpn_shapes()
    plain = [bucket_of(int(h), int(w), recipe.input) for h, w in train.sizes]
    assert buckets(train, recipe) == plain
    assert len(set(plain)) > 1
    for moving in (dict(iou_crop=True), dict(zoom_out=True), dict(photometric=True)):
        assert buckets(train, recipes.change(recipe, augment=moving)) == plain
    jittered = recipes.change(recipe, augment=dict(jitter=True))
    assert buckets(train, jittered) == [0] * len(train)


def test_a_run_on_lvis_says_that_it_evaluates_fewer_detections(tmp_path: Path):
    test_coco_federated.write(tmp_path)
    base = recipes.fasterrcnn_r10_fpn_shapes()
    recipe = replace(base, data=replace(base.data, train_split="lvis_v1_val"))
    for split, noted in (("lvis_v1_val", True), ("none", False)):
        source = DataSource(tmp_path, "auto", split)
        bad = BadImages(tmp_path, begun=False, skip=False)
        _, val, _, _ = read_splits(source, recipe, Problems(), bad)
        lines = evaluation.notes(val, recipe)
        assert (val is not None and val.federated is not None) == noted
        assert any("--roi-heads.detections-per-img 300" in line for line in lines) == noted
