"""Group norm as detectors have it.

Wu and He, "Group Normalization", arXiv 1803.08494: no statistics over images, so it trains alike
with any number of images per GPU.
"""

from __future__ import annotations

from torch import nn

GROUPS = 32


class GroupNorm(nn.GroupNorm):
    """Group norm of 32 groups, made like a batch norm: of a number of channels, a multiple of
    32."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(GROUPS, channels, eps)


NORMS: dict[str, type[nn.Module] | None] = {  # of pyramid and box head, by their names in recipes
    "none": None, "batch": nn.BatchNorm2d, "group": GroupNorm,
}  # fmt: skip
