"""From decoded images on the device to the network's padded input.

Life of a batch, step 4. Shapes: N images, G ground-truth boxes (padded).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fasterrcnn import recipes, seeds
from fasterrcnn.data.sampler import resized, smallest_bucket
from fasterrcnn.models import boxes, resize
from fasterrcnn.models.boxes import Proposals

_RESIZE = {"opencv": resize.opencv, "pillow": resize.pillow}


class Padded(NamedTuple):
    """Images in one padded tensor, with their ground truth."""

    pixels: Tensor  # float32 (N, 3, H, W), normalised, zero where padded, channels last
    sizes: Tensor  # float32 (N, 2): H, W of each image in it (px)
    originals: Tensor  # float32 (N, 2): H, W of each image as given (px)
    boxes: Tensor  # float32 (N, G, 4): x1 y1 x2 y2 in pixels of the tensor; zero where padded
    labels: Tensor  # int64 (N, G) in 1..K; 0 where padded
    proposals: Proposals | None = None  # stored ones, where the targets have them


class Transform(nn.Module):
    """Normalise, resize and pad; by default as torchvision's GeneralizedRCNNTransform."""

    def __init__(self, recipe: recipes.Input) -> None:
        super().__init__()
        self.recipe = recipe
        for name, values in (("mean", recipe.image_mean), ("std", recipe.image_std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> Padded:
        """uint8 ``(3, H, W)`` RGB images; ``boxes`` ``(G, 4)`` px and ``labels`` ``(G,)`` of each,
        or nothing. Stored ``proposals`` ``(P, 4)`` are in px of an image of ``proposal_size``.

        In training padded to a bucket's shape (`data.sampler.buckets`), so that few shapes occur;
        otherwise to the least multiple of `size_divisible`, so that a lone image is not changed by
        a batch.
        """
        recipe, old = self.recipe, [tuple(image.shape[-2:]) for image in images]
        short = self._short_side()
        new = [resized(h, w, recipe, short) for h, w in old]
        shape = len(images), 3, *self._shape(new)
        pixels = self.mean.new_zeros(shape).contiguous(memory_format=torch.channels_last)
        for row, image, size in zip(pixels, images, new, strict=True):
            row[:, : size[0], : size[1]] = self._normal(image, size)
        targets = targets or []
        has_proposals = "proposals" in (targets or [{}])[0]
        stored = [target["proposal_size"] for target in targets] if has_proposals else old
        sizes, before, of_proposals = torch.tensor([new, old, stored], dtype=torch.float32).to(
            pixels.device, non_blocking=True
        )
        truth = _pad(targets, sizes / before)
        proposals = _pad_proposals(targets, sizes / of_proposals) if has_proposals else None
        return Padded(pixels, sizes, before, *truth, proposals)

    def _short_side(self) -> int:
        """In training drawn by torch's seed, which is set for every micro-batch; on the host."""
        sides = self.recipe.train_min_sizes
        if not self.training or not sides:
            return self.recipe.min_size
        if self.recipe.train_sampling == "range":
            sides = range(sides[0], sides[1] + 1)
        return sides[int(seeds.fraction(torch.initial_seed(), "short side") * len(sides))]

    def _shape(self, new: list[tuple[int, int]]) -> tuple[int, int]:
        if self.training:
            shapes = [smallest_bucket(h, w, self.recipe) for h, w in new]
        else:
            step = self.recipe.size_divisible
            shapes = [tuple(math.ceil(side / step) * step for side in size) for size in new]
        return max(h for h, _ in shapes), max(w for _, w in shapes)

    def _normal(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """float32 ``(3, *size)`` in the network's channel order."""
        recipe = self.recipe
        if recipe.channel_order == "bgr":
            image = image.flip(0)
        if recipe.resize != "float":
            image = _RESIZE[recipe.resize](image, size)
        image = (image.float() / recipe.pixel_scale - self.mean) / self.std
        if recipe.resize == "float":
            image = functional.interpolate(image[None], size=size, mode="bilinear")[0]
        return image


def _pad(targets: list[dict[str, Tensor]], scale: Tensor) -> tuple[Tensor, Tensor]:
    """Ground truth, boxes times `scale` ``(N, 2)`` of (y, x); at least one row per image."""
    most = max((len(target["labels"]) for target in targets), default=0)
    most = max(8, math.ceil(most / 8) * 8)  # few shapes
    box = scale.new_zeros(len(targets), most, 4)
    labels = torch.zeros((len(targets), most), dtype=torch.int64, device=scale.device)
    for i, target in enumerate(targets):
        count = len(target["labels"])
        box[i, :count] = target["boxes"]
        labels[i, :count] = target["labels"]
    return boxes.rescale(box, scale[: len(targets)]), labels


def _pad_proposals(targets: list[dict[str, Tensor]], scale: Tensor) -> Proposals:
    """Stored proposals times `scale` ``(N, 2)`` of (y, x); of equal sizes the same bits."""
    most = max(1, *(len(target["proposals"]) for target in targets))
    box = scale.new_zeros(len(targets), most, 4)
    real = torch.zeros((len(targets), most), dtype=torch.bool, device=scale.device)
    for i, target in enumerate(targets):
        count = len(target["proposals"])
        box[i, :count] = target["proposals"]
        real[i, :count] = True
    return Proposals(boxes.rescale(box, scale), real)
