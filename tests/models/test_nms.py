"""NMS of many lists against torchvision's, one list and group at a time."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import nms

from fasterrcnn.models.nms import nms_lists


def expected(box, group, valid, threshold):
    keep = torch.zeros_like(valid)
    for m in range(len(box)):
        for g in group[m].unique():
            rows = torch.nonzero(valid[m] & (group[m] == g)).squeeze(1)
            scores = torch.linspace(1, 0, len(rows))
            keep[m, rows[nms(box[m, rows], scores, threshold)]] = True
    return keep


def chain(count: int) -> torch.Tensor:
    """Every box suppresses the next only: every second one survives."""
    x = torch.arange(count) * 3.0
    return torch.stack([x, torch.zeros(count), x + 10, torch.full((count,), 10.0)], dim=1)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_random_lists(threshold: float):
    torch.manual_seed(0)
    corner = torch.rand(6, 300, 2) * 60
    box = torch.cat([corner, corner + 5 + torch.rand(6, 300, 2) * 30], dim=-1)
    box[1] = (box[1] / 10).round() * 10  # ties
    box[2] = box[2, :1]  # all the same
    group = torch.randint(0, 4, (6, 300))
    valid = torch.rand(6, 300) < 0.8
    valid[3] = False
    keep = nms_lists(box, group, valid, threshold)
    assert keep.equal(expected(box, group, valid, threshold))
    assert keep[2].sum() == 4
    assert not keep[3].any()


def test_a_long_chain():
    keep = nms_lists(
        chain(200)[None], torch.zeros(1, 200, dtype=torch.long), torch.ones(1, 200, dtype=bool), 0.5
    )
    assert keep[0].equal(torch.arange(200) % 2 == 0)


def test_an_empty_list():
    empty = torch.zeros(2, 0, 4)
    keep = nms_lists(empty, torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, dtype=bool), 0.5)
    assert keep.shape == (2, 0)


def test_the_operator_is_registered_correctly():
    box, group = chain(20)[None], torch.zeros(1, 20, dtype=torch.long)
    torch.library.opcheck(nms_lists, (box, group, torch.ones(1, 20, dtype=bool), 0.5))
