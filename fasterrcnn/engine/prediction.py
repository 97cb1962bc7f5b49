"""Detect in a stream of images: batches of equal padded size, results in the order of the stream.

Images of equal padded size share a batch, as in evaluation, so that each keeps its own padding and
its detections do not depend on the others. An image waits for others of its shape only for a while:
what is in memory at a time is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from fasterrcnn.data.frames import Frame
from fasterrcnn.data.windows import InFile
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.image_sizes import padded, resized
from fasterrcnn.models import views
from fasterrcnn.models.build import Detector, split
from fasterrcnn.models.transfer import to_host
from fasterrcnn.models.views import Detections, Views, crop_of
from fasterrcnn.recipes import Recipe

_WINDOW = 8  # batches between the first and the last image in memory
_BYTES = 2**30  # of images in memory, beyond a batch


def detect(
    model: Detector,
    frames: Iterable[Frame],
    recipe: Recipe,
    runtime: Runtime,
    images_per_gpu: int,
    also: Views | None = None,
) -> Iterator[tuple[Frame, Detections | None]]:
    """Each frame with its detections on the CPU, in px of the image; None if it has no image.

    `also`: what of an image is detected in besides its whole, or in place of it.
    """
    done: dict[int, tuple[Frame, Detections | None]] = {}
    first = 0  # not returned yet
    for batch in batches(frames, recipe, images_per_gpu):
        images = [frame.image for _, frame in batch if not isinstance(frame.image, str)]
        found: list[Detections] | list[None] = [None] * len(batch)
        if images:
            found = _detect(model, images, recipe, runtime, images_per_gpu, also)
        done |= {k: (frame, f) for (k, frame), f in zip(batch, found, strict=True)}
        while first in done:
            yield done.pop(first)
            first += 1


def batches(
    frames: Iterable[Frame], recipe: Recipe, images_per_gpu: int
) -> Iterator[list[tuple[int, Frame]]]:
    """Frames with their positions, in batches of equal padded size; one without image alone."""
    groups: dict[tuple[int, int], list[tuple[int, Frame]]] = {}
    ends = {}  # bytes of the stream up to each frame that waits
    end = 0
    for k, frame in enumerate(frames):
        if isinstance(frame.image, str):
            yield [(k, frame)]
            continue
        height, width = frame.image.shape[-2:]
        shape = padded(resized(height, width, recipe.input), recipe.input)
        groups.setdefault(shape, []).append((k, frame))
        end += frame.image.nbytes
        ends[k] = end
        if len(groups[shape]) == images_per_gpu:
            yield groups.pop(shape)
        while groups:
            oldest = min(groups, key=lambda shape: groups[shape][0][0])
            start = groups[oldest][0][0]
            if k - start < _WINDOW * images_per_gpu and end - ends[start] < _BYTES:
                break
            yield groups.pop(oldest)
    yield from groups.values()


def _detect(
    model: Detector,
    images: Sequence[Tensor | InFile],
    recipe: Recipe,
    runtime: Runtime,
    images_per_gpu: int,
    also: Views | None,
) -> list[Detections]:
    """The detections in the images of one batch, on the CPU."""
    found: Sequence[Detections | None] = [None] * len(images)
    with runtime.inference(recipe.amp):
        if also is None or also.whole:
            decoded = [image for image in images if isinstance(image, Tensor)]
            assert len(decoded) == len(images)  # images stay in files only where tiles are wanted
            batch = model.transform([image.to(runtime.device) for image in decoded])
            plain = split(to_host(model.detect(batch, model.features(batch))))
            if also is None:
                return plain
            found = plain
        heads = recipe.roi_heads
        return [
            views.detect(model, image.shape[-2:], crop_of(image), also, heads, images_per_gpu, one)
            for image, one in zip(images, found, strict=True)
        ]
