"""An exported file called like the detector that it was made of."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fasterrcnn.data.pixel_values import as_stored
from fasterrcnn.export import onnx_file, program_file
from fasterrcnn.export.program import File
from fasterrcnn.models.boxes import Detections, rescale
from fasterrcnn.models.build import Detector, Scalars
from fasterrcnn.models.transform import PaddedImages, Transform, without_targets
from fasterrcnn.recipes import Input, Recipe

FILES = {".onnx": onnx_file, ".pt2": program_file}  # by suffix: modules with `write` and `read`


class AsDecoded(Transform):
    """Makes a batch of images with values as stored, for a file that prepares them itself."""

    def __init__(self, config: Input, decoded: torch.dtype) -> None:
        super().__init__(config)
        self.decoded = decoded

    def forward(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        planned: tuple[int, int] | None = None,
    ) -> PaddedImages:
        """Images ``(C, H, W)``, padded with zeros to the largest."""
        shapes = [image.shape[-2:] for image in images]
        height, width = (max(side) for side in zip(*shapes, strict=True))
        pixels = self.mean.new_zeros((len(images), len(self.mean), height, width))
        for row, image, (h, w) in zip(pixels, images, shapes, strict=True):
            row[:, :h, :w] = as_stored(image, self.config.pixel_format, self.decoded)
        sizes = torch.tensor(shapes, dtype=torch.float32, device=pixels.device)
        return without_targets(pixels, sizes, sizes)


class ExportedDetector(Detector):
    """The network of a file, on the CPU in float32, behind the transform of `recipe`, unless the
    file has that inside.

    It detects; there are no losses.
    """

    def __init__(self, file: File, recipe: Recipe) -> None:
        super().__init__()
        self._call, self.decoded = file.call, file.decoded
        self.transform = (
            AsDecoded(recipe.input, file.decoded) if file.decoded else Transform(recipe.input)
        )
        # A proposal network's file holds all proposals, whatever their score.
        self.lowest = 0.0 if recipe.detector == "rpn" else recipe.roi_heads.score_thresh
        self.score_thresh = self.lowest
        super().eval()

    @property
    def prepares(self) -> bool:
        """Whether the file prepares images itself."""
        return self.decoded is not None

    def train(self, mode: bool = True) -> ExportedDetector:
        """It has no mode: evaluation restores the one that was."""
        nn.Module.train(self, False)
        return self

    def features(self, images: PaddedImages) -> list[Tensor]:
        """None: the file computes them inside."""
        return []

    def losses(self, images: PaddedImages, features: list[Tensor]) -> tuple[Scalars, Scalars]:
        """None."""
        return {}, {}

    def detect(self, images: PaddedImages, features: list[Tensor]) -> Detections:
        """The detections of the file, from `score_thresh` on, in px of the images as given."""
        pixels, sizes = images.pixels.cpu(), images.sizes.cpu()
        with torch.no_grad():
            found = self._one_by_one(pixels, sizes) if self.prepares else self._call(pixels, sizes)
        box, scores, labels = (part.to(images.pixels.device) for part in found)
        valid = (labels > 0) & (scores >= self.score_thresh)
        return Detections(rescale(box, images.original_sizes / images.sizes), scores, labels, valid)

    def _one_by_one(self, pixels: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Of images without their padding: the file takes a batch of one size only."""
        found = [
            self._call(image[None, :, :h, :w].to(self.decoded))
            for image, (h, w) in zip(pixels, sizes.int().tolist(), strict=True)
        ]
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def read(path: Path) -> File:
    """The exported file at `path`. Raises CheckpointError or UsageError."""
    return FILES[path.suffix].read(path)
