"""Detections on real images at the recipe's own size equal torchvision's, a thousand per image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import box_iou

from fasterrcnn import recipes
from fasterrcnn.data import formats, images
from fasterrcnn.data.problems import Problems
from fasterrcnn.models.boxes import Proposals
from fasterrcnn.models.build import Detector, build, split
from tests.models.stock import feed_padded, randomize_norms, stock

RECIPE = recipes.change(recipes.fasterrcnn_r50_fpn_1x(), roi_heads=dict(detections_per_img=1000))
SCORE, PIXELS = 1e-4, 0.05  # equal up to these
IOU = 1e-3  # so near the threshold of NMS, rounding decides


def pair() -> tuple[Detector, FasterRCNN]:
    """Both detectors with the same weights, whose scores are far apart."""
    torch.manual_seed(0)
    ours, theirs = build(RECIPE, 91).eval(), stock(RECIPE, 91).eval()
    randomize_norms(ours)
    nn.init.normal_(ours.rpn.head.cls_logits.weight, std=0.1)
    nn.init.normal_(ours.rpn.head.bbox_pred.weight, std=0.05)
    nn.init.normal_(ours.roi_heads.box_predictor.cls_score.weight, std=0.5)
    nn.init.normal_(ours.roi_heads.box_predictor.bbox_pred.weight, std=0.2)
    ignore_flat_areas(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@torch.no_grad()
def ignore_flat_areas(detector: Detector) -> None:
    """Objectness about 0 where an image has one color, its edges included, as a trained network's.

    Thousands of anchors score the same there, and rounding alone would choose among them: half of
    the hidden directions, those such images have most of, lose their say.
    """
    cells = []
    for shade in (0, 5, 128, 255):
        padded = detector.transform([torch.full((3, 400, 400), shade, dtype=torch.uint8)])
        hidden = detector.rpn.head.conv
        cells += [hidden(level)[0].flatten(1).double() for level in detector.features(padded)]
    flat = torch.linalg.svd(torch.cat(cells, dim=1), full_matrices=False).U[:, :128]
    weight = detector.rpn.head.cls_logits.weight.flatten(1)
    weight.copy_(weight - weight.double() @ flat @ flat.T)


class Found(NamedTuple):
    """Of one image, best first: detections, or proposals (all of one label)."""

    boxes: Tensor  # (D, 4) px of the padded tensor
    scores: Tensor  # (D,)
    labels: Tensor  # (D,)

    def __getitem__(self, rows: Tensor) -> Found:
        return Found(*(part[rows] for part in (self.boxes, self.scores, self.labels)))


def missing(a: Found, b: Found) -> Tensor:
    """bool ``(D,)``: which of `a` have no equal in `b`."""
    same = a.labels[:, None] == b.labels
    same &= (a.scores[:, None] - b.scores).abs() < SCORE
    same &= (a.boxes[:, None] - b.boxes).abs().amax(dim=-1) < PIXELS
    return ~same.any(dim=1)


def unexplained(a: Found, b: Found, nms: float, most: int, cuts: list[float]) -> Tensor:
    """Rows of `a` that are missing in `b` for another reason than a near tie.

    A near tie: rounding decides whether the score reaches one of `cuts`, or which of two boxes that
    overlap by more than `nms` comes first, or whether they do. What only `b` has may suppress a
    lower box of `a`, and pushes the last ones out of a full list; it needs its own reason.
    """
    only_a, only_b = missing(a, b), missing(b, a)
    overlap = box_iou(a.boxes, b.boxes)
    lead = b.scores - a.scores[:, None]
    rival = (overlap > nms) & ((lead.abs() < SCORE) | (only_b & (lead > 0)))
    rival |= ((overlap - nms).abs() < IOU) & (lead > -SCORE)
    rival &= a.labels[:, None] == b.labels
    reason = rival.any(dim=1)
    for cut in cuts:
        reason |= (a.scores - cut).abs() < SCORE
    if len(b.scores) == most:
        reason |= a.scores < b.scores.min() + SCORE
    return (only_a & ~reason).nonzero().flatten()


def explained(
    mine: list[Found], yours: list[Found], cuts: list[float], detect: Callable[[Tensor], Found]
) -> bool:
    """Has every proposal and detection that only one side has a near tie behind it?

    Detections of a proposal that the other side does not have need no reason of their own. `cuts`:
    scores that anchors need; `detect`: detections of given proposals.
    """
    h, r = RECIPE.roi_heads, RECIPE.rpn
    for (p, d), (other_p, other_d) in ((mine, yours), (yours, mine)):
        if len(unexplained(p, other_p, r.nms_thresh, r.post_nms_top_n_test, cuts)):
            return False
        left = d[unexplained(d, other_d, h.nms_thresh, h.detections_per_img, [h.score_thresh])]
        for box in p.boxes[missing(p, other_p)]:
            left = left[missing(left, detect(box[None]))]
        if len(left.scores):
            return False
    return True


def compare(ours: Detector, theirs: FasterRCNN, image: Tensor) -> tuple[int, int, int, bool]:
    """Detections of torchvision; of both without equal; the same of proposals; all explained?"""
    padded = ours.transform([image])
    features = ours.features(padded)
    scale = (padded.sizes / padded.original_sizes).flip(-1).repeat(1, 2)

    def found(detections: dict[str, Tensor]) -> Found:
        return Found(detections["boxes"] * scale, detections["scores"], detections["labels"])

    def detect(box: Tensor) -> Found:
        of = Proposals(box[None], torch.ones(1, len(box), dtype=torch.bool))
        return found(split(ours.roi_heads.detect(padded, features, of))[0])

    best = RECIPE.rpn.pre_nms_top_n_test
    levels = [o[0].sort(descending=True).values for o in ours.rpn.dense_head(features)[0]]
    cuts = [float(level[best - 1].sigmoid()) for level in levels if len(level) > best]
    proposals = ours.rpn.proposals(padded, features, training=False)
    assert proposals.valid.all()
    same_label = proposals.valid[0].long()
    mine = [
        Found(proposals.boxes[0], proposals.scores[0], same_label),
        found(split(ours.roi_heads.detect(padded, features, proposals))[0]),
    ]
    feed_padded(theirs, padded)
    (stock_proposals, stock_scores), choose = ([], []), theirs.rpn.filter_proposals

    def filter_proposals(*arguments):
        boxes, scores = choose(*arguments)
        stock_proposals.extend(boxes)
        stock_scores.extend(scores)
        return boxes, scores

    theirs.rpn.filter_proposals = filter_proposals
    (detections,) = theirs([image / 255])
    theirs.rpn.filter_proposals = choose
    yours = [Found(stock_proposals[0], stock_scores[0], same_label), found(detections)]
    alone = [
        int(missing(a, b).sum() + missing(b, a).sum()) for a, b in zip(mine, yours, strict=True)
    ]
    return len(yours[1].scores), alone[1], alone[0], explained(mine, yours, cuts, detect)


@pytest.mark.slow
@torch.no_grad()
def test_a_thousand_detections_of_every_real_image(coco_tiny: Path, capsys):
    ours, theirs = pair()
    data = formats.read(coco_tiny, "val", "auto", (), Problems(skip=True))
    rows = []
    for i in range(len(data)):
        image = images.decode(data.path(i), apply_orientation=bool(data.rotate[i]))
        rows.append(compare(ours, theirs, image))
    found, alone, proposals, reasons = map(np.array, zip(*rows, strict=True))
    with capsys.disabled():
        print(
            f"\n{found.sum()} detections of {len(rows)} images; without equal: {alone.sum()} of "
            f"both sides, in images {np.flatnonzero(alone).tolist()}; proposals {proposals.sum()}"
        )
    assert np.median(found) > 300
    assert alone.sum() <= 2 * found.sum() / 1000
    assert reasons.all(), np.flatnonzero(~reasons)
