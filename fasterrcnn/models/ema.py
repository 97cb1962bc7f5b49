"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Ema(Generic[Module]):
    """A copy of `model` that follows it: ``average += (1 - decay) * (weight - average)``."""

    def __init__(self, model: Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, applied: Tensor) -> None:
        """Update the average in place after a step; buffers are copied. `applied`: bool scalar on
        the device, False if the step was skipped."""
        weight = (1.0 - self.decay) * applied
        for average, current in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(current, weight.to(average.dtype))
        for mine, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(buffer)
