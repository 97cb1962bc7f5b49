"""Augments a training image and its boxes, by torchvision.transforms.v2.

Life of a batch, step 3. The classes are those of the presets "ssd" and "lsj" in pytorch/vision
references/detection/presets.py, with their defaults; the fields are `recipes.Augment`. What comes
out can have any size: the device resizes it to fit the padded shape that was planned for the image
as it was, so that the micro-batches stay those of `sampler.Plan`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from fasterrcnn.image_sizes import planned_shape, resized, training_sizes
from fasterrcnn.recipes import Input, Recipe

FILL = (123, 117, 104)  # RGB around an image that was made smaller: ImageNet's mean
_LEAST_CROPPED = 4  # px: 0.3 times less rounds to 0, by which v2.RandomIoUCrop divides

Sample = dict[str, torch.Tensor]  # "image", "boxes" and "labels", as v2's transforms take them


def of(recipe: Recipe) -> Augmentation | None:
    """The augmentation of a recipe, None if it has none besides flips."""
    wanted = recipe.augment.photometric or recipe.augment.moves_boxes
    return Augmentation(recipe) if wanted else None


class Augmentation:
    """What ``recipe.augment`` does to a training image, as a pure function of a key."""

    def __init__(self, recipe: Recipe) -> None:
        self.config = recipe.augment
        self.sizes = training_sizes(recipe)
        self.fill = _fill(recipe.input)

    def planned(self, height: int, width: int) -> tuple[int, int] | None:
        """The padded shape for an image of this size before augmentation (H, W; px); None if
        augmentation keeps sizes."""
        if not self.config.moves_boxes:
            return None
        return planned_shape(int(height), int(width), self.sizes)

    def __call__(
        self, image: torch.Tensor, boxes: np.ndarray, labels: np.ndarray, key: int
    ) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Augment an image, uint8 or float32 ``(H, W, C)``, with boxes float32 ``(G, 4)`` x1 y1 x2
        y2 (px) and labels int64 ``(G,)``; the same as they are afterwards, of other H, W and G.

        Boxes are clipped to what is left of the image, and dropped below 1 px; all of them can be.
        Equal keys give equal bits, whatever the number of threads. Torch's global generator is left
        as it was.
        """
        height, width, _ = image.shape
        sample: Sample = {
            "image": tv_tensors.Image(image.permute(2, 0, 1)),
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes),
                format=tv_tensors.BoundingBoxFormat.XYXY,
                canvas_size=(height, width),
            ),
            "labels": torch.from_numpy(labels),
        }
        with _drawing_from(key):
            for step in self._steps(height, width):
                sample = step(sample)
        pixels, left = (sample[name].as_subclass(torch.Tensor) for name in ("image", "boxes"))
        return pixels.permute(1, 2, 0), left.numpy(), sample["labels"].numpy()

    def _steps(self, height: int, width: int) -> list[Callable[[Sample], Sample]]:
        """What is done to an image of this size, in order.

        Zooming out and distorting colors take memory and time in proportion to the pixels, so they
        never see more of them than are trained on.
        """
        config, steps = self.config, list[Callable[[Sample], Sample]]()
        shrink = partial(self._shrunk, planned=self.planned(height, width))
        if config.zoom_out:
            steps.append(v2.RandomApply([shrink, v2.RandomZoomOut(fill=self.fill, p=1.0)], p=0.5))
        if config.iou_crop:
            steps.append(_iou_crop)
        if config.jitter:
            side = config.jitter_size
            steps += [_ScaleJitter((side, side)), partial(_fixed_size, side=side, fill=self.fill)]
        if config.moves_boxes:
            steps.append(v2.SanitizeBoundingBoxes())  # crop and pad have clipped to the image
        if config.photometric:
            steps += [shrink, _distort]
        return steps

    def _shrunk(self, sample: Sample, planned: tuple[int, int] | None) -> Sample:
        """The sample at the size at which it is trained on, if it is larger."""
        height, width = sample["image"].shape[-2:]
        size = resized(height, width, self.sizes, limit=planned)
        return v2.Resize(size)(sample) if size < (height, width) else sample


def _fill(config: Input) -> tuple[int, ...]:
    """The pixels around an image that was made smaller; of other channels than three their mean."""
    if config.in_channels == 3:
        return FILL
    mean = config.image_mean[:: -1 if config.channel_order == "bgr" else 1]
    return tuple(round(value * config.pixel_scale) for value in mean)


def _iou_crop(sample: Sample) -> Sample:
    """Crop around the center of a box; an image without one, or of a few pixels, stays whole."""
    if len(sample["boxes"]) == 0 or min(sample["image"].shape[-2:]) < _LEAST_CROPPED:
        return sample
    return v2.RandomIoUCrop()(sample)


def _distort(sample: Sample) -> Sample:
    """Distort colors. v2 takes floating-point pixels to be 0..1, and clips them to that."""
    image, distort = sample["image"], v2.RandomPhotometricDistort()
    if not image.is_floating_point():
        return distort(sample)
    changed = distort({**sample, "image": tv_tensors.wrap(image / 255, like=image)})
    return {**changed, "image": tv_tensors.wrap(changed["image"] * 255, like=image)}


class _ScaleJitter(v2.ScaleJitter):
    """v2's, whose sides round down to 0 in a very long image."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = super().make_params(flat_inputs)["size"]
        return {"size": (max(1, height), max(1, width))}


def _fixed_size(sample: Sample, side: int, fill: tuple[int, ...]) -> Sample:
    """Crop at random what exceeds a square, pad right and below what is missing, as FixedSizeCrop
    of torchvision's references does."""
    height, width = sample["image"].shape[-2:]
    crop = v2.RandomCrop((min(height, side), min(width, side)))
    pad = v2.Pad([0, 0, max(0, side - width), max(0, side - height)], fill=fill)
    return pad(crop(sample))


@contextmanager
def _drawing_from(key: int) -> Iterator[None]:
    """Inside, torch's global CPU generator, which v2 draws from, is seeded by `key`, and there is
    one thread, as in a loader worker: sums over an image depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key)  # torch.manual_seed would seed GPUs too
            yield
    finally:
        torch.set_num_threads(threads)
