"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """A copy of `model` that follows it: ``average += (1 - decay) * (weight - average)``."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, applied: Tensor) -> None:
        """After a step; `applied`: bool scalar on the device, False when the step was skipped."""
        weight = (1.0 - self.decay) * applied
        for average, current in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(current, weight.to(average.dtype))
        for average, current in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(current)
