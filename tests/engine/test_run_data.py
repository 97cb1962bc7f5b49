"""What a run says about its data before the first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fasterrcnn import recipes
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import run_data
from tests.data import test_coco_federated

RECIPE = recipes.fasterrcnn_r10_fpn_shapes()


def test_a_run_on_lvis_says_that_it_evaluates_fewer_detections(tmp_path: Path):
    test_coco_federated.write(tmp_path)
    recipe = replace(RECIPE, data=replace(RECIPE.data, train_split="lvis_v1_val"))
    for split, noted in (("lvis_v1_val", True), ("none", False)):
        source = run_data.DataSource(tmp_path, "auto", split)
        _, val, lines = run_data.read_splits(source, recipe, Problems())
        assert (val is not None and val.federated is not None) == noted
        assert any("--roi-heads.detections-per-img 300" in line for line in lines) == noted
