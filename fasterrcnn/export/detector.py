"""An exported file called like the detector that it was made of."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fasterrcnn.export import onnx_file, program_file
from fasterrcnn.export.program import Call
from fasterrcnn.models.boxes import Detections, rescale
from fasterrcnn.models.build import Detector, Scalars
from fasterrcnn.models.transform import PaddedImages, Transform
from fasterrcnn.recipes import Recipe

FILES = {".onnx": onnx_file, ".pt2": program_file}  # by suffix: modules with `write` and `read`


class ExportedDetector(Detector):
    """The network of a file, on the CPU in float32, behind the transform of `recipe`.

    It detects; there are no losses.
    """

    def __init__(self, call: Call, recipe: Recipe) -> None:
        super().__init__()
        self._call = call
        self.transform = Transform(recipe.input)
        # A proposal network's file holds all proposals, whatever their score.
        self.lowest = 0.0 if recipe.detector == "rpn" else recipe.roi_heads.score_thresh
        self.score_thresh = self.lowest
        super().eval()

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
        with torch.no_grad():
            found = self._call(images.pixels.cpu(), images.sizes.cpu())
        box, scores, labels = (part.to(images.pixels.device) for part in found)
        valid = (labels > 0) & (scores >= self.score_thresh)
        return Detections(rescale(box, images.original_sizes / images.sizes), scores, labels, valid)


def read(path: Path) -> tuple[Call, str]:
    """What the file at `path` computes, and its metadata. Raises CheckpointError or UsageError."""
    return FILES[path.suffix].read(path)
