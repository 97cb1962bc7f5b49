"""Online hard example mining: the proposals of the largest classification loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fasterrcnn import recipes
from fasterrcnn.models import boxes
from fasterrcnn.models.boxes import Proposals
from fasterrcnn.models.build import build

SHAPES = recipes.fasterrcnn_r10_fpn_shapes()


@pytest.mark.parametrize("stages", [1, 3])
def test_the_hardest_of_each_kind_are_sampled(stages: int):
    torch.manual_seed(0)
    heads = dict(sampler="ohem", stages=stages, batch_size_per_image=8, positive_fraction=0.25)
    model = build(recipes.change(SHAPES, roi_heads=heads), 3).train()
    with torch.no_grad():  # a fresh predictor's losses are all alike
        for layer in model.roi_heads.box_predictor.modules():
            if hasattr(layer, "weight") and layer.weight.shape[0] == 3:
                layer.weight.normal_(std=0.5)
    gt = torch.tensor([[10.0, 10, 60, 60], [70, 20, 100, 90]])
    targets = [{"boxes": gt, "labels": torch.tensor([1, 2])}]
    padded = model.transform([torch.randint(0, 255, (3, 100, 120), dtype=torch.uint8)], targets)
    features = model.features(padded)
    near = padded.gt_boxes[0, :2].repeat(5, 1) + torch.rand(10, 4) * 6
    far = torch.rand(20, 4) * 30 + torch.tensor([0.0, 0.0, 31.0, 31.0])
    box = torch.cat([near, far])[None]
    proposals = Proposals(box, torch.ones(1, 30, dtype=torch.bool))
    box_heads = model.roi_heads
    if stages > 1:
        sampled, _ = box_heads.rois_of(0, padded, proposals, features)
        logits = box_heads.head_of(0, features, torch.cat([box, padded.gt_boxes[:, :2]], 1))[0][0]
    else:
        sampled = box_heads.sample(padded, proposals, features)
        logits = box_heads.head(features, torch.cat([box, padded.gt_boxes[:, :2]], 1))[0][0]
    candidates = torch.cat([box[0], padded.gt_boxes[0, :2]])
    iou = boxes.iou(padded.gt_boxes[:, :2], candidates[None])[0]
    positive = iou.max(0).values >= 0.5
    labels = padded.gt_labels[0][iou.max(0).indices] * positive
    loss = functional.cross_entropy(logits, labels, reduction="none")
    assert positive.sum() > 2
    for wanted, count in ((True, 2), (False, 6)):
        hardest = candidates[loss.masked_fill(positive != wanted, -1).topk(count).indices]
        mine = sampled.rois[0][sampled.valid[0] & (sampled.positive[0] == wanted)]
        assert {*map(tuple, mine.tolist())} == {*map(tuple, hardest.tolist())}


def test_nothing_random_is_drawn():
    """And a step is trained on what was sampled."""
    model = build(recipes.change(SHAPES, roi_heads=dict(sampler="ohem")), 3).train()
    targets = [{"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1])}]
    padded = model.transform([torch.zeros(3, 100, 120, dtype=torch.uint8)], targets)
    features = model.features(padded)
    proposals = model.rpn.proposals(padded, features, training=True)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses, _ = model.roi_heads.losses(padded, features, proposals)
        found.append([float(loss.detach()) for loss in losses.values()])
    assert found[0] == found[1]
    sum(losses.values()).backward()
    assert all(p.grad.any() for p in model.roi_heads.box_head.parameters())
