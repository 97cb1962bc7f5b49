"""Detections on real images at the recipe's own size equal torchvision's, a thousand per image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from fasterrcnn import recipes
from fasterrcnn.data import formats, images
from fasterrcnn.data.problems import Problems
from fasterrcnn.models.build import build, split
from tests.models.stock import feed_padded, randomise_norms, stock

RECIPE = recipes.change(recipes.fasterrcnn_r50_fpn_1x(), roi_heads=dict(detections_per_img=1000))
NEAR = 1e-4  # of a threshold: a near tie


def pair() -> tuple[nn.Module, nn.Module]:
    """Both detectors with the same weights, whose class scores are far apart."""
    torch.manual_seed(0)
    ours, theirs = build(RECIPE, 91).eval(), stock(RECIPE, 91).eval()
    randomise_norms(ours)
    nn.init.normal_(ours.rpn.head.cls_logits.weight, std=0.1)
    nn.init.normal_(ours.rpn.head.bbox_pred.weight, std=0.05)
    nn.init.normal_(ours.roi_heads.box_predictor.cls_score.weight, std=0.5)
    nn.init.normal_(ours.roi_heads.box_predictor.bbox_pred.weight, std=0.2)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def matched(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
    """Bool per detection of `a`: has it one in `b` of its label, score and box?"""
    same = a["labels"][:, None] == b["labels"]
    same &= (a["scores"][:, None] - b["scores"]).abs() < 1e-4
    same &= (a["boxes"][:, None] - b["boxes"]).abs().amax(dim=-1) < 0.05
    return same.any(dim=1)


def is_near_tie(a: dict[str, Tensor], b: dict[str, Tensor], i: int) -> bool:
    """Detection i of `a`, missing in `b`: does a threshold decide it that rounding can cross?"""
    score = float(a["scores"][i])
    lowest = [float(d["scores"].min()) for d in (a, b) if len(d["scores"]) == 1000]
    if any(abs(score - least) < NEAR for least in [*lowest, RECIPE.roi_heads.score_thresh]):
        return True
    rivals = (b["labels"] == a["labels"][i]) & (b["scores"] > score - NEAR)
    overlaps = box_iou(a["boxes"][i : i + 1], b["boxes"][rivals])
    return bool((overlaps > RECIPE.roi_heads.nms_thresh - 1e-3).any())


@pytest.mark.slow
@torch.no_grad()
def test_a_thousand_detections_of_every_real_image(coco_tiny: Path, capsys):
    ours, theirs = pair()
    data = formats.read(coco_tiny, "val", "auto", (), Problems(skip=True))
    counts, missing, worst = [], [], {"scores": 0.0, "boxes": 0.0}
    for i in range(len(data)):
        image = images.decode(data.path(i), apply_orientation=bool(data.rotate[i]))
        padded = ours.transform([image])
        (a,) = split(ours.detect(padded, ours.features(padded)))
        feed_padded(theirs, padded)
        (b,) = theirs([image / 255])
        scale = (padded.sizes / padded.originals).flip(-1).repeat(1, 2)
        a["boxes"] = a["boxes"] * scale  # both in pixels of the padded tensor
        b["boxes"] = b["boxes"] * scale
        for one, other in ((a, b), (b, a)):
            for k in (~matched(one, other)).nonzero().flatten().tolist():
                missing.append((i, k, is_near_tie(one, other, k)))
        counts.append(len(b["scores"]))
        if a["labels"].equal(b["labels"]):
            for key in worst:
                worst[key] = max(worst[key], float((a[key] - b[key]).abs().max()))
    with capsys.disabled():
        print(f"\n{sum(counts)} detections of {len(counts)} images, {np.median(counts):.0f} of the "
              f"middle one; unmatched {missing}; in the same order: {worst}")  # fmt: skip
    assert np.median(counts) > 300
    assert len(missing) <= 2 * sum(counts) / 1000
    assert all(tie for *_, tie in missing)
