"""A detector as one program of torch.export: every N, H and W in one graph, no Python inside.

What is outside: resizing, normalizing and padding (`models.transform`). Shapes: N images, D places
for detections.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fasterrcnn.models.build import Detector
from fasterrcnn.models.transform import PaddedImages

INPUTS = ("image", "sizes")
OUTPUTS = ("boxes", "scores", "labels")


class Program(nn.Module):
    """What is exported: the network from padded pixels to detections."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detections in images that were resized, normalized and padded.

        `image` float32 ``(N, 3, H, W)``, `sizes` float32 ``(N, 2)``: H, W of each image without its
        padding (px). Returns boxes ``(N, D, 4)`` x1 y1 x2 y2 in px of `image`, scores ``(N, D)``,
        labels int64 ``(N, D)`` in 1..K; in places without a detection all are 0.
        """
        n = image.shape[0]
        none = image.new_zeros((n, 8, 4)), sizes.new_zeros((n, 8)).long()
        images = PaddedImages(image, sizes, sizes, *none, none[1] > 0)
        found = self.detector.detect(images, self.detector.features(images))
        valid = found.valid
        return found.boxes * valid[..., None], found.scores * valid, found.labels * valid


def export(detector: Detector) -> ExportedProgram:
    """The program of `detector`, which is on the CPU and in evaluation mode.

    H and W may be any multiple of the recipe's `size_divisible` above 64 px.
    """
    step = detector.transform.config.size_divisible
    n, h, w = Dim("n"), Dim("h", min=3), Dim("w", min=3)
    side = 8 * step if step >= 32 else 256
    shape = {0: n, 2: step * h, 3: step * w} if step > 1 else {0: n, 2: Dim.AUTO, 3: Dim.AUTO}
    example = torch.zeros(2, 3, side, side + 2 * max(step, 32)), torch.full((2, 2), float(side))
    with torch.no_grad():
        return torch.export.export(
            Program(detector).eval(), example, dynamic_shapes=(shape, {0: n}), strict=False
        )
