"""A detector as one program of torch.export: every N, H and W in one graph, no Python inside.

What is outside: resizing, normalizing and padding (`models.transform`). Shapes: N images, D places
for detections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fasterrcnn.errors import UsageError
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


class WholeWindows(TorchFunctionMode):
    """Max pooling whose windows end where the input ends.

    Otherwise the operator asks whether cells are left over, and torch.export takes only the sizes
    with the example's answer.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.max_pool2d:
            args = whole_windows(*args, **kwargs), *args[1:]
        return function(*args, **kwargs)


def whole_windows(
    x: Tensor, kernel_size: int, stride: int, padding: int = 0, **others: Any
) -> Tensor:
    """`x` ``(N, C, H, W)`` without the cells that no window reads; where a window reads beyond the
    end, with the last cell once more, which changes no maximum."""
    for axis in (2, 3):
        size = x.shape[axis]
        beyond = size + 2 * padding - kernel_size
        if not any(statically_known_true(beyond % stride == rest) for rest in range(stride)):
            cells = torch.arange(beyond // stride * stride + kernel_size - padding)
            x = x.index_select(axis, cells.clamp(max=size - 1))
    return x


def export(detector: Detector) -> ExportedProgram:
    """The program of `detector`, which is on the CPU and in evaluation mode.

    H and W may be any multiple of the recipe's `size_divisible` above 64 px.
    Raises UsageError for a detector that is no such program.
    """
    if isinstance(detector, FastRCNN):
        raise UsageError("--checkpoint: takes stored proposals, an exported file has none")
    step = detector.transform.config.size_divisible
    n, (h, w) = Dim("n"), (Dim(name, min=SMALLEST // step + 1) for name in "hw")
    shape = {0: n, 2: step * h, 3: step * w}
    cells = math.ceil(256 / step)
    example = torch.zeros(2, 3, cells * step, (cells + 2) * step), torch.full((2, 2), 256.0)
    with torch.no_grad(), WholeWindows():
        return torch.export.export(
            Program(detector).eval(), example, dynamic_shapes=(shape, {0: n}), strict=False
        )
