"""Matching against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from fasterrcnn.models import matching
from fasterrcnn.models.matching import LowQuality, match
from tests.models.test_boxes import some_boxes


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize(("fg", "bg"), [(0.7, 0.3), (0.5, 0.5)])
@pytest.mark.parametrize("grid", [0.0, 4.0, 16.0])
def test_match_is_torchvisions(grid: float, fg: float, bg: float, low_quality: bool):
    counts = (9, 1, 0, 4)
    gt, candidates = some_boxes(4, 9, grid=grid), some_boxes(4, 600, grid=grid)
    gt[3, 0] = torch.tensor([500.0, 500.0, 600.0, 600.0])  # overlaps nothing
    valid = torch.arange(9) < torch.tensor(counts)[:, None]
    label, best = match(
        gt,
        valid,
        candidates,
        foreground=fg,
        background=bg,
        low_quality=LowQuality() if low_quality else None,
    )
    matcher = Matcher(fg, bg, allow_low_quality_matches=low_quality)
    for i, count in enumerate(counts):
        if count == 0:
            assert (label[i] == 0).all()
            continue
        expected = matcher(box_iou(gt[i, :count], candidates[i]))
        between = expected == Matcher.BETWEEN_THRESHOLDS
        assert label[i].equal((expected >= 0).to(torch.int8) - between.to(torch.int8))
        assert best[i][label[i] == 1].equal(expected[expected >= 0])


def test_boxes_that_are_not_usable_are_ignored_and_fit_no_gt_box():
    gt, candidates = some_boxes(2, 5, grid=4.0), some_boxes(2, 300, grid=4.0)
    valid, usable = torch.ones(2, 5, dtype=torch.bool), torch.arange(300).expand(2, -1) % 3 > 0
    options = dict(foreground=0.7, background=0.3, low_quality=LowQuality())
    label, _ = match(gt, valid, candidates, usable, **options)
    alone, _ = match(gt, valid, candidates[:, usable[0]], **options)
    assert (label[~usable] == -1).all()
    assert label[:, usable[0]].equal(alone)


def test_the_operator_is_registered_correctly():
    gt, candidates = some_boxes(2, 3, grid=4.0), some_boxes(1, 20, grid=4.0)
    valid = torch.tensor([[True, True, False]] * 2)
    for usable, least in ((None, None), (torch.arange(20).expand(2, -1) % 2 > 0, 0.0)):
        inputs = gt, valid, candidates, usable, least
        torch.library.opcheck(matching.best_on_device, inputs)
        for one, other in zip(
            matching.best_on_device(*inputs), matching.best(*inputs), strict=True
        ):
            assert one.equal(other)
