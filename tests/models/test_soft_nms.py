"""Soft-NMS against the paper's pseudo code, written out, and in a detector."""

from __future__ import annotations

import math

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.cli.inference import Inference, apply
from fasterrcnn.data.annotations import Classes
from fasterrcnn.errors import UsageError
from fasterrcnn.export import program
from fasterrcnn.models.build import build
from fasterrcnn.models.soft_nms import soft_nms

SHAPES = recipes.fasterrcnn_r10_fpn_shapes()

CLASSES = Classes(("cat", "dog"), (1, 2))


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - width * height
    return width * height / union if union else 0.0


def plain(boxes, scores, method: str, threshold: float, sigma: float, least: float) -> dict:
    """Figure 2 of the paper: index -> score, box by box."""
    left = {i: s for i, s in enumerate(scores) if s >= least}
    kept = {}
    while left:
        best = max(left, key=lambda i: left[i])
        kept[best] = left.pop(best)
        for i in left:
            u = iou(boxes[best], boxes[i])
            if method == "gaussian":
                left[i] *= math.exp(-u * u / sigma)
            elif u >= threshold:
                left[i] *= 1 - u
        left = {i: s for i, s in left.items() if s >= least}
    return kept


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("least", [0.001, 0.3])
def test_as_the_papers_pseudo_code(method: str, least: float):
    torch.manual_seed(0)
    corner, side = torch.rand(3, 25, 2) * 40, torch.rand(3, 25, 2) * 40 + 5
    boxes = torch.cat([corner, corner + side], dim=2)
    boxes[0, :3] = boxes[0, 0]  # the same box three times: IoU 1
    boxes[1, 5, 2:] = boxes[1, 5, :2]  # and one without area
    scores = torch.rand(3, 25)
    found = soft_nms(boxes, scores, method, 0.3, 0.5, least=least, most=25)
    for box, score, mine in zip(boxes.tolist(), scores.tolist(), found, strict=True):
        expected = plain(box, score, method, 0.3, 0.5, least)
        assert {*(mine >= 0).nonzero().squeeze(1).tolist()} == {*expected}
        for i, value in expected.items():
            assert mine[i] == pytest.approx(value, rel=1e-5)
    assert (found >= 0).sum() > (3 if least > 0.1 else 40)


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_no_more_boxes_than_asked_for(method: str):
    torch.manual_seed(0)
    boxes = torch.rand(2, 30, 4).sort(dim=2).values * 50
    scores = torch.rand(2, 30)
    whole = soft_nms(boxes, scores, method, 0.5, 0.5, least=1e-3, most=30)
    first = soft_nms(boxes, scores, method, 0.5, 0.5, least=1e-3, most=4)
    for every, four in zip(whole, first, strict=True):
        assert four.topk(4).values.equal(every.topk(4).values)
        assert (four >= 0).sum() == 4


@pytest.mark.parametrize("stages", [1, 3])
def test_a_detector_keeps_what_nms_leaves_out(stages: int):
    """Every detection of NMS is there with its score or less, the best with the same, and more."""
    torch.manual_seed(0)
    recipe = recipes.change(SHAPES, roi_heads=dict(stages=stages, score_thresh=0.1))
    model = build(recipe, 3).eval()
    image = [torch.randint(0, 255, (3, 100, 120), dtype=torch.uint8)]
    low = dict(score_threshold=0.2, nms_threshold=0.3, detections_per_image=300)
    apply(model, recipe, CLASSES, Inference(**low))
    (hard,) = model(image)
    _, lines = apply(model, recipe, CLASSES, Inference(**low, soft_nms="gaussian"))
    assert "roi_heads.soft_nms: none -> gaussian" in lines
    (soft,) = model(image)
    assert len(soft["scores"]) > 1
    assert (soft["scores"] >= 0.2).all()
    assert soft["scores"].equal(soft["scores"].sort(descending=True).values)
    assert soft["scores"][0] == hard["scores"][0]
    assert soft["boxes"][0].equal(hard["boxes"][0])
    apply(model, recipe, CLASSES, Inference(**low | dict(score_threshold=0.001), soft_nms="linear"))
    (every,) = model(image)
    assert len(every["scores"]) > len(hard["scores"])


def test_refusals():
    model, flip = build(SHAPES, 3).eval(), ("flip",)
    with pytest.raises(UsageError, match="--soft-nms: does not go with tiles and --tta"):
        apply(model, SHAPES, CLASSES, Inference(soft_nms="linear", tta=flip))
    tiles = recipes.change(SHAPES, roi_heads=dict(soft_nms="linear"), data=dict(tile=64))
    with pytest.raises(UsageError, match=r"--roi-heads\.soft-nms: does not go with --data\.tile"):
        recipes.check(tiles)
    soft = recipes.change(SHAPES, roi_heads=dict(soft_nms="linear"))
    with pytest.raises(UsageError, match="detects with soft-NMS, which an exported file cannot"):
        program.export(build(soft, 3).eval())
