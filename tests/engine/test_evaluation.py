"""Evaluation: every image once, exact padding, results that do not depend on how it is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.data import formats, loader
from fasterrcnn.data.annotations import Federated, Lists
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.sampler import MicroBatch
from fasterrcnn.engine import evaluation, runtime
from fasterrcnn.metrics import coco, lvis, proposals
from fasterrcnn.models.build import ProposalNetwork, build
from fasterrcnn.models.views import Views
from fasterrcnn.reports import tables
from tests.data import make

RECIPE = recipes.fasterrcnn_r10_fpn_shapes()


@pytest.fixture(scope="module")
def data(shapes_folder: Path):
    return formats.read(shapes_folder, "val", "auto", (), Problems())


@pytest.fixture(scope="module")
def model(data):
    torch.manual_seed(0)
    model = build(RECIPE, data.classes.num_classes)
    model.roi_heads.score_thresh = 0.0  # an untrained model finds little
    return model.train()


def evaluate(model, data, **changes):
    settings = {"images_per_gpu": 2, "workers": 0} | changes
    return evaluation.evaluate(model, data, RECIPE, runtime.start("cpu"), **settings)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_image_once_on_any_number_of_ranks(data, ranks: int):
    seen = []
    for rank in range(ranks):
        for batch in evaluation.micro_batches(data, RECIPE.input, 3, rank, ranks):
            assert len(batch.images) <= 3
            seen.extend(batch.images)
    assert sorted(seen) == list(range(len(data)))


def test_images_of_a_batch_keep_their_own_padding(data, model):
    model.eval()
    for batch in evaluation.micro_batches(data, RECIPE.input, 8, 0, 1):
        loaded = loader.Images(data)[batch]
        together = model.transform(loaded.images()).pixels
        for image in loaded.images():
            assert model.transform([image]).pixels.shape[2:] == together.shape[2:]
    model.train()


def test_views_change_detections_and_no_losses(data, model):
    plain, detections = evaluate(model, data)
    results, others = evaluate(model, data, also=Views(slice=80, flip=True))
    assert detections.shape != others.shape or np.abs(detections - others).max() > 1
    losses = [name for name in plain if "loss" in name]
    assert len(losses) == 5
    assert [results[name] for name in losses] == [plain[name] for name in losses]


def test_batch_size_and_workers_do_not_change_the_result(data, model):
    base, detections = evaluate(model, data)
    assert len(detections) > 100
    for changes in ({"images_per_gpu": 1}, {"images_per_gpu": 8}, {"workers": 2}):
        results, others = evaluate(model, data, **changes)
        order, other = (np.lexsort((d[:, 5], d[:, 6], d[:, 0])) for d in (detections, others))
        assert np.abs(detections[order] - others[other]).max() < 1e-2
        assert results["AP"] == pytest.approx(base["AP"], abs=1e-3)
        for name in (name for name in base if "loss" in name):
            assert results[name] == pytest.approx(base[name], rel=1e-5)


def test_the_mode_and_the_statistics_of_the_model_are_left_alone(data, model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    evaluate(model, data)
    assert model.training
    assert all(m.training for m in model.modules())
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_validation_losses_are_those_of_training_with_fixed_norms(data, model):
    """The forward pass of training with norms put into evaluation mode by hand."""
    batch = loader.Images(data)[MicroBatch(0, 0, 0, (0,))]
    model.eval()
    detections, (losses,), _ = evaluation.detect_with_losses(
        model, batch.images(), batch.targets(), [1]
    )
    assert not any(m.training for m in model.modules())
    assert len(detections) == 1
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    model.transform.eval()  # exact padding
    torch.manual_seed(1)
    with torch.no_grad():
        expected = model(batch.images(), batch.targets())
    model.train()
    for name in expected:
        assert float(losses[name].detach()) == pytest.approx(float(expected[name]), rel=1e-5)


def test_the_recall_of_the_proposals_is_that_of_the_rpn_alone(data):
    """The same weights as a network that only proposes, whose detections are its proposals."""
    recipe = recipes.change(RECIPE, rpn=dict(post_nms_top_n_test=200))
    torch.manual_seed(0)
    whole = build(recipe, data.classes.num_classes)
    alone = ProposalNetwork(whole.transform, whole.backbone, whole.rpn)
    (results, _), (expected, rows) = (
        evaluation.evaluate(model, data, some, runtime.start("cpu"), images_per_gpu=2, workers=0)
        for model, some in ((whole, recipe), (alone, replace(recipe, detector="rpn")))
    )
    counts = (100, 200)
    assert results["proposals"] == proposals.by_name(proposals.recall(data, rows, counts), counts)
    assert results["proposals"]["AR_200"] == expected["AR_300"] > 0
    assert "proposals" not in expected
    line = tables.metrics(results).splitlines()[2]
    assert line.startswith(f"proposals: AR_100 {100 * expected['AR_100']:.1f}  AR_200 ")


def test_detections_without_any(data, model):
    model.roi_heads.score_thresh = 1.1
    results, detections = evaluate(model, data)
    model.roi_heads.score_thresh = 0.0
    assert detections.shape == (0, 7)
    assert results["AP"] == 0
    assert np.isfinite(results["validation_loss"])


def test_table(data):
    results = dict.fromkeys(coco.NAMES, 0.1234) | {"AP_large": None, "validation_loss": 1.5}
    results["per_class"] = {"cat": {"AP": 0.5, "AP50": 1.0}, "yak": {"AP": None, "AP50": None}}
    text = tables.metrics(results)
    assert "AP 12.3" in text
    assert "AP_large -" in text
    assert "cat  AP  50.0  AP50 100.0" in text
    assert "yak" not in text
    assert "(classes without a box in this split: 1)" in text
    assert "mAP" not in text


def test_table_of_voc():
    results = dict.fromkeys(coco.NAMES, 0.1234) | {"mAP_07": 0.712, "mAP_10": 0.738}
    values = {"AP": 0.5, "AP50": 1.0, "AP_07": 0.25, "AP_10": 0.125}
    text = tables.metrics(results | {"validation_loss": 1.5, "per_class": {"cat": values}})
    assert "mAP_07 71.2  mAP_10 73.8" in text
    assert "cat  AP  50.0  AP50 100.0  AP_07  25.0  AP_10  12.5" in text


def test_table_of_lvis():
    results = dict.fromkeys(lvis.NAMES, 0.1234) | {"AP_rare": 0.05, "validation_loss": 1.5}
    classes = {f"thing {k}": {"AP": 0.5, "AP50": 1.0} for k in range(101)}
    text = tables.metrics(results | {"per_class": classes})
    assert text.splitlines()[0] == (
        "AP 12.3  AP50 12.3  AP75 12.3  AP_small 12.3  AP_medium 12.3  AP_large 12.3  "
        "AP_rare 5.0  AP_common 12.3  AP_frequent 12.3"
    )
    assert text.splitlines()[1] == "AR_300 12.3  AR_small 12.3  AR_medium 12.3  AR_large 12.3"
    assert text.splitlines()[3:] == ["  (AP of 101 classes: in results.json)"]
    del classes["thing 0"]
    assert len(tables.metrics(results | {"per_class": classes}).splitlines()) == 3 + 100


def federated_data():
    """Two images with a thing each; whether the second shows more things is not known."""
    federated = Federated(Lists.of([[], []]), Lists.of([[], [1]]), ("r",))
    return replace(make.annotations_of([[(0, 0, 10, 10)]] * 2), federated=federated)


def test_a_federated_data_set_has_the_metric_of_lvis():
    """COCO's counts the detection on the second image that may be right."""
    found = np.array([
        [1, 50, 50, 10, 10, 0.9, 1.0], [0, 0, 0, 10, 10, 0.8, 1.0], [1, 0, 0, 10, 10, 0.8, 1.0]
    ])  # fmt: skip
    results = evaluation.detector_metrics(federated_data(), found)
    assert results["AP"] == results["AP_rare"] == pytest.approx(1)
    assert "AR_100" not in results
    results = evaluation.detector_metrics(replace(federated_data(), federated=None), found)
    assert results["AP"] == pytest.approx(2 / 3)
    assert "AP_rare" not in results


def test_fewer_detections_than_lvis_counts_are_noted():
    (note,) = evaluation.notes(federated_data(), RECIPE)
    assert "counts 300 detections per image, this recipe gives 100" in note
    assert "--roi-heads.detections-per-img 300" in note
    heads = replace(RECIPE.roi_heads, detections_per_img=300)
    assert evaluation.notes(federated_data(), replace(RECIPE, roi_heads=heads)) == []
    assert evaluation.notes(federated_data(), replace(RECIPE, detector="rpn")) == []
    assert evaluation.notes(replace(federated_data(), federated=None), RECIPE) == []
    assert evaluation.notes(None, RECIPE) == []


def test_only_voc_has_its_own_metrics():
    """One gt box, found with an IoU of 0.6: COCO's thresholds 0.5 to 0.6 accept it, 3 of 10."""
    data = make.annotations_of([[(0, 0, 10, 10)]])
    found = np.array([[0, 0, 0, 6, 10, 0.9, 1.0]])
    results = evaluation.detector_metrics(data, found)
    assert "mAP_07" not in results
    assert results["per_class"]["thing"] == pytest.approx({"AP": 0.3, "AP50": 1})
    results = evaluation.detector_metrics(replace(data, voc=True), found)
    assert (results["mAP_07"], results["mAP_10"]) == (1, 1)
    values = {"AP": 0.3, "AP50": 1, "AP_07": 1, "AP_10": 1}
    assert results["per_class"]["thing"] == pytest.approx(values)
