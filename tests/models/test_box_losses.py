"""Losses of decoded boxes, on boxes that can be computed by hand, and in the box head."""

from __future__ import annotations

import math

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.models import box_losses
from tests.models.test_cascade import MMDETECTION, SMALL, heads_of, some_rois

BOX = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 4.0]])
GT = torch.tensor([[5.0, 0.0, 15.0, 10.0], [6.0, 0.0, 10.0, 4.0]])  # 1/3; 2 px apart


def huber(value: float) -> float:
    return value**2 / 0.4 if value < 0.2 else value - 0.1


def test_values():
    torch.testing.assert_close(
        box_losses.of("iou", BOX, GT), torch.tensor([math.log(3), -math.log(1e-6)])
    )
    torch.testing.assert_close(  # 1 - IoU + the part of the hull that neither covers
        box_losses.of("giou", BOX, GT), torch.tensor([2 / 3, 1 + 8 / 40])
    )
    sides = 2 * huber(1 - 10 / 10.001)
    expected = huber(1) + huber(1 - 10 / 10.001) + sides
    found = box_losses.of("bounded_iou", BOX, GT)[0]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("loss", ["iou", "giou", "bounded_iou"])
@pytest.mark.parametrize("stages", [1, 3])
def test_the_box_head_is_trained_by_it(loss: str, stages: int):
    base = MMDETECTION if stages == 3 else recipes.change(
        recipes.get("fasterrcnn_r50_fpn_1x_mmdetection"), **SMALL
    )  # fmt: skip
    found = {}
    for weight in (1.0, 10.0):
        recipe = recipes.change(base, roi_heads=dict(box_loss=loss, box_loss_weight=weight))
        heads, features, images = heads_of(recipe)
        torch.manual_seed(5)
        losses, _ = heads.losses(images, features, some_rois())
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in heads.parameters())
        found[weight] = next(v for k, v in losses.items() if k.startswith("loss_box_reg"))
    assert found[1.0] > 0
    torch.testing.assert_close(found[10.0], 10 * found[1.0])
