"""A detector as one program of torch.export: every N, H and W in one graph, no Python inside.

What is outside: resizing, normalizing and padding (`models.transform`). Shapes: N images, D places
for detections.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fasterrcnn.errors import UsageError
from fasterrcnn.image_sizes import STRIDE
from fasterrcnn.models.any_backbone import AnyBackbone, PlainBackbone
from fasterrcnn.models.backbones import MobileNetFPN
from fasterrcnn.models.build import Detector, FastRCNN
from fasterrcnn.models.transform import PaddedImages

INPUTS = ("image", "sizes")
OUTPUTS = ("boxes", "scores", "labels")
SMALLEST = 64  # px: torch.export sees a level of one cell as another program
Call = Callable[[Tensor, Tensor], tuple[Tensor, ...]]  # what `Program.forward` is


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
    Raises UsageError for a detector that is no such program.
    """
    if isinstance(detector, FastRCNN):
        raise UsageError("--checkpoint: takes stored proposals, an exported file has none")
    backbone = detector.backbone
    if isinstance(backbone, (AnyBackbone, PlainBackbone)) and backbone.body.has_layer_norm:
        raise UsageError(
            "--checkpoint: this backbone has layer norms, and torch.export ties such networks to "
            "one size of images; exported are networks of convolutions and batch norms"
        )
    step = detector.transform.config.size_divisible
    if isinstance(detector.backbone, MobileNetFPN) or step % STRIDE:
        raise UsageError(
            "--checkpoint: this detector pools odd and even numbers of cells, of which "
            "torch.export takes only one kind; exported are those padded to multiples of "
            f"{STRIDE} px"
        )
    n, h, w = Dim("n"), Dim("h", min=3), Dim("w", min=3)
    shape = {0: n, 2: step * h, 3: step * w}
    example = torch.zeros(2, 3, 8 * step, 10 * step), torch.full((2, 2), 8.0 * step)
    with torch.no_grad():
        return torch.export.export(
            Program(detector).eval(), example, dynamic_shapes=(shape, {0: n}), strict=False
        )
