"""From decoded images on the device to the network's padded input, and boxes back again.

Life of a batch, step 4.
"""

from __future__ import annotations

import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform


class Transform(GeneralizedRCNNTransform):
    """torchvision's transform for uint8 images: normalise, resize, pad to a multiple of 32."""

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 ``(3, H, W)`` -> float32, (pixel / 255 - mean) / std."""
        return super().normalize(image.float() / 255)
