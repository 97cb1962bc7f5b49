"""The model card states what it is given, and no place of the machine."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard

from fasterrcnn import recipes
from fasterrcnn.reports import model_card

RECIPE = recipes.fasterrcnn_r50_fpn_1x()
RESULTS = {
    "step": 9, "split": "val", "images": 5, "data_path": "/home/me/coco: tiny", "AP": 0.25,
    "AP_large": None, "AR_100": 0.5, "validation_loss": 1.5, "per_class": {"cat": {"AP": 0.25}},
}  # fmt: skip


@pytest.mark.parametrize("name", ["run", 'a: "b" #c', "é"])
def test_measured_metrics_are_in_the_model_index(name: str):
    card = model_card.render(name, RECIPE, ["cat"], 9, RESULTS, {"license": "mit"})
    data = ModelCard(card).data
    assert data.model_name == name
    found = {(r.metric_type, r.metric_value, r.dataset_name) for r in data.eval_results}
    assert found == {("AP", 0.25, "coco: tiny"), ("AR_100", 0.5, "coco: tiny")}
    assert data.license == "mit"
    assert "/home/me" not in card
    assert "| AR_100 | 0.5000 |" in card
    assert "5 images" in card
    assert "1 class: cat" in card
    assert "9 steps of 16 images by the recipe `fasterrcnn_r50_fpn_1x`" in card


def test_an_imported_detector_was_not_trained_here():
    card = model_card.render("x", RECIPE, ["cat", "dog"], 0, None, {})
    assert "Imported from `imagenet`; not trained" in card
    assert "Not measured." in card
    assert "model-index" not in yaml.safe_load(card.split("---")[1])
