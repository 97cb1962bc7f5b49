"""Cascade R-CNN: each convention computed once more, stage by stage."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fasterrcnn import recipes
from fasterrcnn.models import boxes
from fasterrcnn.models.boxes import Proposals
from fasterrcnn.models.build import build
from fasterrcnn.models.transform import PaddedImages

SMALL = dict(
    input=dict(min_size=96, max_size=160),
    backbone=dict(name="resnet10", fpn_channels=8, norm="batch"),
    roi_heads=dict(representation_size=16, batch_size_per_image=12, score_thresh=0.0),
)
DETECTRON2 = recipes.change(recipes.get("cascade_rcnn_r50_fpn_1x_detectron2"), **SMALL)
MMDETECTION = recipes.change(recipes.get("cascade_rcnn_r50_fpn_1x_mmdetection"), **SMALL)


def heads_of(recipe: recipes.Recipe):
    """Box heads of 3 classes whose predictions are not all alike, features, two images."""
    torch.manual_seed(0)
    heads = build(recipe, 4).roi_heads
    cascade = recipe.roi_heads.stages > 1
    for predictor in heads.box_predictor if cascade else [heads.box_predictor]:
        nn.init.normal_(predictor.cls_score.weight, std=2.0)
        nn.init.normal_(predictor.bbox_pred.weight, std=4.0)
    features = [torch.randn(2, 8, 128 // s, 128 // s) for s in (4, 8, 16, 32, 64)]
    sizes = torch.tensor([[128.0, 128.0], [100.0, 90.0]])
    gt = torch.tensor([[[10.0, 10, 60, 60], [40, 50, 110, 100]], [[20, 20, 70, 80], [0, 0, 0, 0]]])
    labels = torch.tensor([[1, 3], [2, 0]])
    pixels = torch.zeros(2, 3, 128, 128)
    return heads, features, PaddedImages(pixels, sizes, sizes, gt, labels, labels > 0)


def some_rois(count: int = 10) -> Proposals:
    torch.manual_seed(1)
    corner = torch.rand(2, count, 2) * 60
    rois = torch.cat([corner, corner + 5 + torch.rand(2, count, 2) * 50], dim=-1)
    valid = torch.ones(2, count, dtype=torch.bool)
    valid[1, -3:] = False
    return Proposals(rois, valid)


@pytest.mark.parametrize("recipe", [DETECTRON2, MMDETECTION], ids=lambda recipe: recipe.name)
def test_scores_are_averaged_and_boxes_clipped_after_every_stage(recipe: recipes.Recipe):
    heads, features, images = heads_of(recipe)
    rois = some_rois().boxes
    with torch.no_grad():
        scores, box = heads.predict(features, rois, images.sizes)
        logits, inside = [], rois
        for stage in range(3):
            pooled = heads.box_head[stage](heads.pool(features, inside))
            of_stage, deltas = heads.box_predictor[stage](pooled)
            logits.append(of_stage.view(2, -1, 4))
            weights = recipe.roi_heads.stage_reg_weights[4 * stage : 4 * stage + 4]
            deltas = deltas.view(2, -1, 4) / torch.tensor(weights)
            center = (inside[..., :2] + inside[..., 2:]) / 2
            side = inside[..., 2:] - inside[..., :2]
            center, side = center + deltas[..., :2] * side, side * deltas[..., 2:].exp()
            outside = torch.cat([center - side / 2, center + side / 2], dim=-1)
            limit = images.sizes.flip(1).repeat(1, 2)[:, None]
            inside = outside.clamp(min=0).minimum(limit)
            assert not inside.equal(outside)
    torch.testing.assert_close(box[:, :, 0], inside, rtol=1e-4, atol=1e-3)
    mean_of_scores = sum(of_stage.softmax(-1) for of_stage in logits) / 3
    scores_of_mean = (sum(logits) / 3).softmax(-1)
    assert (mean_of_scores - scores_of_mean).abs().max() > 0.05
    expected = scores_of_mean if recipe is MMDETECTION else mean_of_scores
    torch.testing.assert_close(scores, expected[..., 1:], rtol=1e-4, atol=1e-4)


def staged(recipe: recipes.Recipe):
    """The losses of a training step, and what each stage was trained on."""
    heads, features, images = heads_of(recipe)
    seen, real = [], heads.rois_of

    def rois_of(stage, images, proposals, features):
        seen.append((proposals, *real(stage, images, proposals, features)))
        return seen[-1][1:]

    heads.rois_of = rois_of
    losses, diagnostics = heads.losses(images, features, some_rois())
    return heads, features, images, seen, losses, diagnostics


def test_detectron2_samples_once_and_trains_later_stages_on_all_boxes():
    heads, features, images, seen, losses, diagnostics = staged(DETECTRON2)
    assert [len(proposals.boxes[0]) for proposals, *_ in seen] == [10, 12, 12]
    for stage in (1, 2):
        proposals, rois, _ = seen[stage]
        _, before, _ = seen[stage - 1]
        assert rois.rois is proposals.boxes
        assert proposals.valid.equal(before.valid & boxes.has_area(proposals.boxes))
        iou = boxes.iou(images.gt_boxes, rois.rois).masked_fill(~images.gt_valid[..., None], 0)
        threshold = DETECTRON2.roi_heads.stage_iou_thresh[stage]
        assert rois.positive.equal((iou.amax(1) >= threshold) & proposals.valid)
        logits, _ = heads.head_of(stage, features, rois.rois)
        entropy = functional.cross_entropy(logits[rois.valid], rois.labels[rois.valid])
        torch.testing.assert_close(losses[f"loss_classifier_stage{stage}"], entropy)
    assert diagnostics["roi_positives_stage2"] == diagnostics["roi_positives"]


def test_mmdetection_samples_in_every_stage_and_weighs_the_losses():
    heads, features, images, seen, losses, _ = staged(MMDETECTION)
    for stage in (1, 2):
        proposals, rois, is_gt = seen[stage]
        _, before, was_gt = seen[stage - 1]
        assert was_gt.any()
        assert proposals.valid.equal(before.valid & ~was_gt)  # then the sampler adds them
        for i in range(2):
            added = rois.rois[i][is_gt[i] & rois.valid[i]]
            assert all((gt == added).all(1).any() for gt in images.gt_boxes[i][images.gt_valid[i]])
        logits, _ = heads.head_of(stage, features, rois.rois)
        entropy = functional.cross_entropy(logits[rois.valid], rois.labels[rois.valid])
        weight = MMDETECTION.roi_heads.stage_loss_weights[stage]
        torch.testing.assert_close(losses[f"loss_classifier_stage{stage}"], weight * entropy)


def test_the_gradient_into_the_features_is_the_mean_of_the_stages():
    """Of the heads it is not changed."""
    found = []
    for gradients in ("mean", "sum"):
        recipe = recipes.change(DETECTRON2, roi_heads=dict(stage_gradients=gradients))
        heads, features, images = heads_of(recipe)
        features = [f.requires_grad_() for f in features]
        sum(heads.losses(images, features, some_rois())[0].values()).backward()
        found.append((features[0].grad, heads.box_head[2].fc6.weight.grad))
    torch.testing.assert_close(3 * found[0][0], found[1][0])
    assert found[0][1].abs().max() > 0
    torch.testing.assert_close(found[0][1], found[1][1])


def test_boxes_of_a_plain_head_can_be_class_agnostic():
    recipe = recipes.change(recipes.fasterrcnn_r50_fpn_1x(), **SMALL)
    agnostic = recipes.change(recipe, roi_heads=dict(class_agnostic=True))
    torch.manual_seed(0)
    heads = build(agnostic, 4).roi_heads
    assert heads.box_predictor.bbox_pred.weight.shape == (4, 16)
    _, features, images = heads_of(DETECTRON2)
    rois = some_rois()
    scores, box = heads.predict(features, rois.boxes, images.sizes)
    assert (scores.shape, box.shape) == ((2, 10, 3), (2, 10, 1, 4))
    assert heads.detect(images, features, rois).valid.any()
    heads.losses(images, features, rois)[0]["loss_box_reg"].backward()
    assert heads.box_predictor.bbox_pred.bias.grad.abs().max() > 0


def test_anchors_that_end_on_the_border_are_left_out():
    """MMDetection's `allowed_border` 0: x2 < w, not x2 <= w."""
    from tests.models.test_conventions import padded_of, pyramid, rpn_of

    padded, features = padded_of((64, 64), [[10.0, 20.0, 60.0, 60.0]], (64, 64)), pyramid((64, 64))
    usable = {}
    for edge in (True, False):
        rpn = rpn_of(border_anchors=False, edge_anchors=edge, round_anchors=False,
                     anchor_strides="fixed")  # fmt: skip
        shapes = tuple(tuple(f.shape[2:]) for f in features)
        anchors = torch.cat(rpn.anchors(padded.pixels, shapes))[None]
        usable[edge] = rpn._usable(padded, shapes, anchors)[0]
    inside = (anchors[0, :, :2] >= 0).all(1)
    assert usable[True].equal(inside & (anchors[0, :, 2:] <= 64).all(1))
    assert usable[False].equal(inside & (anchors[0, :, 2:] < 64).all(1))
    assert usable[True].sum() > usable[False].sum() > 0
