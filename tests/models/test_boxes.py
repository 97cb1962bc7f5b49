"""IoU, deltas, matching and sampling against torchvision's, on random and adversarial boxes."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image

from fasterrcnn.models import boxes

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def some_boxes(n: int, count: int, *, grid: float = 0.0) -> torch.Tensor:
    """``(n, count, 4)``; on a grid of that many px, so that ties and equal boxes abound."""
    corner, side = torch.rand(n, count, 2) * 80, 4 + torch.rand(n, count, 2) * 40
    if grid:
        corner, side = (corner / grid).floor() * grid, (side / grid).ceil() * grid
    return torch.cat([corner, corner + side], dim=-1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


@pytest.mark.parametrize("grid", [0.0, 8.0])
def test_iou_is_torchvisions(grid: float):
    gt, candidates = some_boxes(3, 7, grid=grid), some_boxes(3, 50, grid=grid)
    for own, a, b in zip(boxes.iou(gt, candidates), gt, candidates, strict=True):
        assert own.equal(box_iou(a, b))
    shared = boxes.iou(gt, candidates[:1])
    assert all(own.equal(box_iou(a, candidates[0])) for own, a in zip(shared, gt, strict=True))


def test_deltas_are_torchvisions_and_inverse():
    target, source = some_boxes(1, 50)[0], some_boxes(1, 50)[0]
    coder = BoxCoder(WEIGHTS)
    deltas = boxes.encode(target, source, WEIGHTS)
    torch.testing.assert_close(deltas, coder.encode_single(target, source), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(boxes.decode(deltas, source, WEIGHTS), target, rtol=0, atol=1e-3)
    wild = torch.randn(50, 4) * 100  # exp() is bounded
    expected = coder.decode_single(wild, source)
    torch.testing.assert_close(boxes.decode(wild, source, WEIGHTS), expected, rtol=1e-6, atol=1e-3)


def test_clip_is_torchvisions():
    found = some_boxes(2, 20) - 20
    sizes = torch.tensor([[50.0, 70.0], [90.0, 30.0]])
    for own, box, size in zip(boxes.clip(found, sizes), found, sizes, strict=True):
        assert own.equal(clip_boxes_to_image(box, tuple(size.tolist())))
    assert boxes.clip(found[:, :, None], sizes)[:, :, 0].equal(boxes.clip(found, sizes))


@pytest.mark.parametrize(
    ("positives", "negatives", "size", "fraction"),
    [(0, 500, 64, 0.5), (10, 500, 64, 0.5), (200, 500, 64, 0.25), (3, 5, 64, 0.5), (90, 2, 64, 0.5),
     (0, 0, 8, 0.5)],
)  # fmt: skip
def test_sample_has_torchvisions_counts(positives, negatives, size, fraction):
    label = torch.full((2, positives + negatives + 20), -1, dtype=torch.int8)
    label[:, :positives], label[:, positives : positives + negatives] = 1, 0
    label = label[:, torch.randperm(label.shape[1])]
    index, positive, valid = boxes.sample(label, size, fraction)
    stock = BalancedPositiveNegativeSampler(size, fraction)(list(label.float()))
    for i in range(2):
        assert positive[i].sum() == stock[0][i].sum()
        assert valid[i].sum() == stock[0][i].sum() + stock[1][i].sum()
        assert (label[i][index[i][positive[i]]] == 1).all()
        assert (label[i][index[i][valid[i] & ~positive[i]]] == 0).all()
        assert index[i][valid[i]].unique().numel() == valid[i].sum()
        assert valid[i].int().diff().max() <= 0  # filled slots first


def test_sample_is_uniform():
    """Every positive and every negative is as likely as its fellows: 4 standard deviations."""
    label = torch.tensor([1] * 20 + [0] * 60 + [-1] * 5, dtype=torch.int8).expand(4000, -1)
    index, _, valid = boxes.sample(label, 16, 0.5)
    drawn = torch.zeros(85).index_add(0, index[valid], torch.ones(int(valid.sum())))
    assert drawn[80:].sum() == 0
    for part, share in ((drawn[:20], 8 / 20), (drawn[20:80], 8 / 60)):
        deviation = (4000 * share * (1 - share)) ** 0.5
        assert ((part - 4000 * share).abs() < 4 * deviation).all()


def test_take_takes_rows():
    found = some_boxes(1, 5)
    index = torch.tensor([[4, 0], [1, 1]])
    assert boxes.take(found, index).equal(found[0][index])
