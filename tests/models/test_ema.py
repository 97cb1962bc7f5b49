"""Averaged weights: the formula, and standing still when a step was skipped."""

import torch
from torch import nn

from fasterrcnn.models.ema import Ema


def test_average_follows_unless_the_step_was_skipped():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = Ema(model, 0.9)
    start = ema.model[0].weight.clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    model[1].running_mean.fill_(5.0)
    ema.update(model, torch.tensor(False))
    assert ema.model[0].weight.equal(start)
    ema.update(model, torch.tensor(True))
    assert torch.allclose(ema.model[0].weight, start + 0.1)
    assert ema.model[1].running_mean.tolist() == [5, 5]
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert not ema.model.training
