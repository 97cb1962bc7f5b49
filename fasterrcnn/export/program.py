"""A detector as programs of torch.export: every N, H and W in one graph, no Python inside.

`Network` is what detects; `Preparation` scales values, resizes, normalizes and pads for it. Where
they can be, they are two programs, because torch.export takes long where the network's sizes are
formulas of an image's. Shapes: N images of C channels, D places for detections.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fasterrcnn import nodata, value_range
from fasterrcnn.data import pixel_values
from fasterrcnn.data.pixel_values import BYTE, INTEGER
from fasterrcnn.errors import UsageError
from fasterrcnn.models.any_backbone import AnyBackbone, PlainBackbone
from fasterrcnn.models.build import Detector, FasterRCNN, FastRCNN
from fasterrcnn.models.transform import Transform, without_targets
from fasterrcnn.pixel_format import PixelFormat
from fasterrcnn.recipes import Input, as_text, from_dict

INPUTS = ("image", "sizes", "original_sizes")  # of a `Network`; the last may be left out
OUTPUTS = ("boxes", "scores", "labels")
SMALLEST = 64  # px: torch.export sees a level of one cell as another program


_SAID = (  # of a recipe's input
    "value_range", "nodata", "in_channels", "bands", "channel_order", "pixel_scale", "image_mean",
    "image_std", "min_size", "max_size", "size_divisible",
)  # fmt: skip


def entries(metadata: str, decoded: torch.dtype | None = None) -> dict[str, str]:
    """What other programs have to know of the input, by name and as text, out of the json text
    `metadata`. `decoded`: as of `File`."""
    saved = json.loads(metadata).get("recipe")
    if saved is None:
        return {}
    config = from_dict(saved).input
    said = {f"input.{name}": as_text(getattr(config, name)) for name in _SAID}
    kind = str(decoded or torch.float32).removeprefix("torch.")
    return {**said, "input.preprocess": "in" if decoded else "out", "input.type": kind}


def decoded_of(program: ExportedProgram) -> torch.dtype | None:
    """`File.decoded` of a program."""
    inputs = program.graph_signature.user_inputs
    found = [node.meta["val"].dtype for node in program.graph.nodes if node.name in inputs]
    return found[0] if len(found) == 1 else None


class File(NamedTuple):
    """What is read from an exported file."""

    call: Callable[..., tuple[Tensor, ...]]  # inputs to `OUTPUTS`, on the CPU
    metadata: str  # as written
    decoded: torch.dtype | None = None  # of the decoded images that are its input; None: its input
    # is what `Preparation` makes of them


class Network(nn.Module):
    """From padded pixels to detections."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, image: Tensor, sizes: Tensor, original_sizes: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Detections in images that were resized, normalized and padded.

        `image` float32 ``(N, C, H, W)``, `sizes` and `original_sizes` float32 ``(N, 2)``: H, W of
        each image without its padding, and as it was before (px). Returns boxes ``(N, D, 4)`` x1 y1
        x2 y2 in px of the image as it was, by default of `image`; scores ``(N, D)``; labels int64
        ``(N, D)`` in 1..K. In places without a detection all are 0.
        """
        original = sizes if original_sizes is None else original_sizes
        images = without_targets(image, sizes, original)
        found = self.detector.detect(images, self.detector.features(images))
        valid = found.valid
        return found.boxes * valid[..., None], found.scores * valid, found.labels * valid


class Preparation(nn.Module):
    """From decoded images to the inputs of a `Network`: values to the scale of 8 bits as
    `data.pixel_values`, then as `models.transform.Transform`."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images of one size ``(N, C, H, W)`` with values as stored to `INPUTS`."""
        config = self.transform.config
        n, old = image.shape[0], image.shape[2:]
        image = as_scaled(image, config.pixel_format)
        new = resized(old, config)
        step = config.size_divisible
        bottom, right = ((side + step - 1) // step * step - side for side in new)
        pixels = functional.pad(self.transform.normalize(image, new), (0, right, 0, bottom))
        return pixels, _as_tensor(new).expand(n, 2), _as_tensor(old).expand(n, 2)


class Whole(nn.Module):
    """From decoded images to detections."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.preparation, self.network = Preparation(detector.transform), Network(detector)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images as of `Preparation` to detections as of `Network`, in px of these images."""
        found: tuple[Tensor, Tensor, Tensor] = self.network(*self.preparation(image))
        return found


def as_scaled(image: Tensor, wanted: PixelFormat) -> Tensor:
    """Values ``(N, C, H, W)`` as stored to pixels as images are decoded to. Of floating-point
    values none is looked at whether it is NaN."""
    values = image if image.dtype == torch.uint8 else image.float()
    depth = BYTE if image.dtype == torch.uint8 else INTEGER
    pixels = pixel_values.as_wanted(values.permute(0, 2, 3, 1), depth, wanted)
    return pixels.permute(0, 3, 1, 2)


def between_types(image: Tensor, config: Input, decoded: torch.dtype) -> Tensor:
    """An image ``(C, H, W)`` as decoded from a file whose values are of the type `decoded`: as it
    is, but for one that comes from no such file, whose values may lie between those of the type."""
    values = pixel_values.as_stored(image, config.pixel_format, decoded)
    return as_scaled(values[None], config.pixel_format)[0]


def unprepared(config: Input) -> str | None:
    """Why a file cannot prepare images of a recipe as they are decoded; None if it can."""
    asked = config.value_range
    if asked in (value_range.IMAGE, value_range.WINDOW):
        return f"--input.value-range {asked}: every image has a range of its own"
    if config.nodata == nodata.FILE:
        return "--input.nodata file: every image states its own, which is not in its pixels"
    return None


def resized(size: Sequence[int], config: Input) -> tuple[int, int]:
    """`image_sizes.resized` of a `size` (H, W; px) of symbols, which cannot be compared."""
    height, width = size
    scale = torch.sym_min(
        config.min_size / torch.sym_min(height, width),
        config.max_size / torch.sym_max(height, width),
    )
    half = 0.5 if config.rounding == "nearest" else 0.0
    new = [torch.sym_max(1, torch.sym_int(side * scale + half)) for side in size]
    return new[0], new[1]


def _as_tensor(size: Sequence[int]) -> Tensor:
    """float32 ``(2,)`` of a size of symbols."""
    return torch.cat([torch.full((1,), side, dtype=torch.float32) for side in size])


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
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    **others: Any,
) -> Tensor:
    """`x` ``(N, C, H, W)`` without the cells that no window reads; where a window reads beyond the
    end, with the last cell once more, which changes no maximum. As it is for pooling other than
    with square windows, rounded down."""
    square = all(isinstance(number, int) for number in (kernel_size, stride, padding))
    if not square or dilation != 1 or ceil_mode:
        return x
    for axis in (2, 3):
        size = x.shape[axis]
        beyond = size + 2 * padding - kernel_size
        if not any(statically_known_true(beyond % stride == rest) for rest in range(stride)):
            cells = torch.arange(beyond // stride * stride + kernel_size - padding)
            x = x.index_select(axis, cells.clamp(max=size - 1))
            x = x.contiguous(memory_format=torch.channels_last)  # as it was: the same bits follow
    return x


def export(detector: Detector, *, original_sizes: bool = False) -> ExportedProgram:
    """The network of `detector`, which is on the CPU and in evaluation mode; with the input
    `original_sizes` or without.

    H and W may be any multiple of the recipe's `size_divisible` above 64 px. Raises UsageError for
    a detector that is no such program.
    """
    _check(detector)
    step = detector.transform.config.size_divisible
    n, (h, w) = Dim("n"), (Dim(name, min=SMALLEST // step + 1) for name in "hw")
    cells = math.ceil(256 / step)
    channels = detector.transform.config.in_channels
    pixels = torch.zeros(2, channels, cells * step, (cells + 2) * step)
    size = torch.full((2, 2), 256.0)
    inputs = (pixels, size, size.clone()) if original_sizes else (pixels, size)
    shapes = ({0: n, 2: step * h, 3: step * w}, *[{0: n}] * (len(inputs) - 1))
    with torch.no_grad(), WholeWindows():
        return torch.export.export(
            Network(detector).eval(), inputs, dynamic_shapes=shapes, strict=False
        )


def _check(detector: Detector) -> None:
    """Raise UsageError for a detector that is no program."""
    if isinstance(detector, FastRCNN):
        raise UsageError("--checkpoint: takes stored proposals, an exported file has none")
    backbone = detector.backbone
    if isinstance(backbone, (AnyBackbone, PlainBackbone)) and backbone.body.has_layer_norm:
        raise UsageError(
            "--checkpoint: this backbone has layer norms, and torch.export ties such networks to "
            "one size of images; exported are networks of convolutions and batch norms"
        )
    if isinstance(detector, FasterRCNN) and detector.roi_heads.config.soft_nms != "none":
        raise UsageError("--checkpoint: detects with soft-NMS, which an exported file cannot have")


def export_preparation(transform: Transform, decoded: torch.dtype = torch.uint8) -> ExportedProgram:
    """The preparation of images of any size, from 2 x 2 px on."""
    return _of_decoded(Preparation(transform), transform, decoded)


def export_whole(detector: Detector, decoded: torch.dtype = torch.uint8) -> ExportedProgram:
    """Preparation and network in one, as `export` and `export_preparation`; it takes longer."""
    _check(detector)
    with torch.no_grad(), WholeWindows():
        return _of_decoded(Whole(detector), detector.transform, decoded)


def _of_decoded(module: nn.Module, transform: Transform, decoded: torch.dtype) -> ExportedProgram:
    shape = {0: Dim("n"), 2: Dim("h", min=2), 3: Dim("w", min=2)}
    return torch.export.export(
        module.eval(),
        (torch.zeros(2, transform.config.in_channels, 250, 320, dtype=decoded),),
        dynamic_shapes=(shape,),
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,  # sizes are formulas of H and W
    )
