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


def matched(gt, ignored, candidates) -> list[int]:
    box = torch.tensor([gt], dtype=torch.float32)
    return match(
        box,
        torch.ones(1, len(gt), dtype=torch.bool),
        torch.tensor([candidates], dtype=torch.float32),
        foreground=0.7,
        background=0.3,
        low_quality=LowQuality(),
        gt_ignored=torch.tensor([ignored]),
    ).label[0].tolist()  # fmt: skip


def test_what_is_positive_for_an_ignored_box_is_ignored():
    gt = [[0, 0, 10, 10], [50, 50, 60, 60]]
    candidates = [*gt, [50, 50, 60, 56], [50, 50, 60, 52], [80, 80, 90, 90]]
    assert matched(gt, [False, False], candidates) == [1, 1, -1, 0, 0]
    assert matched(gt, [False, True], candidates) == [1, -1, -1, 0, 0]
    assert matched(gt, [True, True], candidates) == [-1, -1, -1, 0, 0]
    poor = [[50, 50, 60, 52], [80, 80, 90, 90]]  # the best that there is
    assert matched(gt[1:], [False], poor) == [1, 0]
    assert matched(gt[1:], [True], poor) == [-1, 0]


def test_a_box_that_is_best_for_an_ignored_one_is_not_positive_for_another():
    gt = [[0, 0, 100, 10], [100, 0, 110, 4]]
    candidates = [[80, 0, 104, 10], [0, 0, 100, 10]]  # the first overlaps both, the first gt more
    assert matched(gt, [False, False], candidates)[0] == 1
    assert matched(gt, [False, True], candidates) == [-1, 1]
