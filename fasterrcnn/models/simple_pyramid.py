"""ViTDet's simple feature pyramid: all levels from the one map of a plain vision transformer.

Life of a batch, step 5. Li et al., "Exploring Plain Vision Transformer Backbones for Object
Detection" (2022, arXiv 2203.16527), section 3; layers as Detectron2's `SimpleFeaturePyramid`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class MapNorm(nn.LayerNorm):
    """Layer norm over the channels of ``(N, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, C, H, W)``."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """From a map of stride 16 to levels of strides 4, 8, 16, 32 and 64."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()

        def twice(inside: int) -> nn.Module:
            return nn.ConvTranspose2d(inside, inside // 2, kernel_size=2, stride=2)

        scales: tuple[tuple[list[nn.Module], int], ...] = (
            ([twice(channels), MapNorm(channels // 2), nn.GELU(), twice(channels // 2)],
             channels // 4),
            ([twice(channels)], channels // 2),
            ([], channels),
            ([nn.MaxPool2d(kernel_size=2, stride=2)], channels),
        )  # fmt: skip
        self.levels = nn.ModuleList(
            nn.Sequential(
                *layers,
                nn.Conv2d(inside, out_channels, kernel_size=1, bias=False),
                MapNorm(out_channels),
                nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
                MapNorm(out_channels),
            )
            for layers, inside in scales
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """``(N, C, H / 16, W / 16)`` -> the levels, finest first."""
        found = [level(x) for level in self.levels]
        return [*found, functional.max_pool2d(found[-1], kernel_size=1, stride=2)]
