"""From decoded images on the device to the network's padded input.

Life of a batch, step 4. Shapes: N images of C channels, G ground-truth (gt) boxes with padding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fasterrcnn import seeds
from fasterrcnn.image_sizes import padded, resized, smallest_bucket
from fasterrcnn.models import boxes, resize
from fasterrcnn.models.boxes import Proposals
from fasterrcnn.models.transfer import to_device
from fasterrcnn.recipes import Input

Sizes = list[tuple[int, int]]  # H, W (px)
_RESIZE = {"opencv": resize.opencv, "pillow": resize.pillow}


class PaddedImages(NamedTuple):
    """A batch of images in one padded tensor, with their ground truth."""

    pixels: Tensor  # float32 (N, C, H, W), normalized, zero in the padding, channels last
    sizes: Tensor  # float32 (N, 2): H, W of each resized image in `pixels` (px)
    original_sizes: Tensor  # float32 (N, 2): H, W of each image as given (px)
    gt_boxes: Tensor  # float32 (N, G, 4): x1 y1 x2 y2 in px of the resized image; zero where padded
    gt_labels: Tensor  # int64 (N, G) in 1..K; 0 where padded
    gt_valid: Tensor  # bool (N, G): False where padded
    proposals: Proposals | None = None  # stored proposals, where the targets have them
    gt_ignored: Tensor | None = None  # bool (N, G), of tiles: neither positive nor negative

    def image(self, i: int, boxes: int) -> PaddedImages:
        """Image i, which has so many `boxes`, as a batch of its own."""
        own, count = slice(i, i + 1), _padded(boxes)
        stored = self.proposals and Proposals(self.proposals.boxes[own], self.proposals.valid[own])
        return PaddedImages(
            self.pixels[own],
            self.sizes[own],
            self.original_sizes[own],
            self.gt_boxes[own, :count],
            self.gt_labels[own, :count],
            self.gt_valid[own, :count],
            stored,
            None if self.gt_ignored is None else self.gt_ignored[own, :count],
        )


def without_targets(pixels: Tensor, sizes: Tensor, original_sizes: Tensor) -> PaddedImages:
    """Padded images without ground truth."""
    n = pixels.shape[0]
    boxes, labels = pixels.new_zeros((n, 8, 4)), sizes.new_zeros((n, 8)).long()
    return PaddedImages(pixels, sizes, original_sizes, boxes, labels, labels > 0)


class Transform(nn.Module):
    """Normalize, resize and pad; by default as torchvision's GeneralizedRCNNTransform."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Input, training_sizes: Input | None = None) -> None:
        """`training_sizes`: the input whose sizes are those of training, by default `config`."""
        super().__init__()
        self.config = config
        self.training_sizes = training_sizes or config
        for name, values in (("mean", config.image_mean), ("std", config.image_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        planned: tuple[int, int] | None = None,
    ) -> PaddedImages:
        """Pad images ``(C, H, W)``, uint8 or float32, and their targets to one batch.

        A target has ``boxes`` ``(G, 4)`` in px of its image and ``labels`` ``(G,)``, of a tile also
        ``ignored``, bool ``(G,)``. Stored ``proposals`` ``(P, 4)`` are in px of an image of
        ``proposal_size``.

        In training, images are padded to a bucket's shape (`image_sizes.buckets`), so that few
        shapes occur; otherwise to the next multiple of `size_divisible`, so that the detections in
        an image do not depend on the batch it is in. Images that augmentation gave other shapes
        are made to fit `planned` (H, W; px), the bucket's shape of the images as they were.
        """
        old: Sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        short = self._short_side()
        new = [resized(h, w, self._sizes, short, planned) for h, w in old]
        shape = len(images), *self._padded_shape(new, planned), len(self.mean)
        pixels = self.mean.new_zeros(shape).permute(0, 3, 1, 2)
        for row, image, size in zip(pixels, images, new, strict=True):
            row[:, : size[0], : size[1]] = self.normalize(image[None], size)[0]
        if not targets:
            sizes, original_sizes = to_device(torch.tensor([new, old]).float(), pixels.device)
            return without_targets(pixels, sizes, original_sizes)
        return self._with_targets(pixels, new, old, targets)

    def _with_targets(
        self, pixels: Tensor, new: Sizes, old: Sizes, targets: list[dict[str, Tensor]]
    ) -> PaddedImages:
        """Pixels of images resized from `old` to `new` sizes, with their ground truth."""
        keys = [key for key in ("labels", "proposals") if key in targets[0]]
        stored = [
            target.get("proposal_size", size) for target, size in zip(targets, old, strict=True)
        ]
        # One copy to the device of all that the host knows.
        host = [new, old, stored, *(_rows(targets, key) for key in keys)]
        on_device = to_device(torch.tensor(host, dtype=torch.float32), pixels.device)
        sizes, original_sizes, stored_sizes, *all_rows = on_device
        rows = dict(zip(keys, all_rows, strict=True))
        count = _padded(max(len(target["labels"]) for target in targets))
        padded_to = partial(_pad, rows=rows["labels"], count=count)
        gt_labels = padded_to([target["labels"].long() for target in targets])
        gt_boxes = padded_to([target["boxes"].float() for target in targets])
        images = PaddedImages(
            pixels,
            sizes,
            original_sizes,
            boxes.rescale(gt_boxes, sizes / original_sizes),
            gt_labels,
            gt_valid=gt_labels > 0,
        )
        if "ignored" in targets[0]:
            ignored = padded_to([target["ignored"] for target in targets])
            images = images._replace(gt_ignored=ignored)
        if "proposals" in targets[0]:
            proposals = _pad_proposals(targets, rows["proposals"], sizes / stored_sizes)
            images = images._replace(proposals=proposals)
        return images

    @property
    def _sizes(self) -> Input:
        """The input whose sizes apply now."""
        return self.training_sizes if self.training else self.config

    def _short_side(self) -> int:
        """In multi-scale training drawn on the host, by torch's seed, set for every micro-batch."""
        sides: Sequence[int] = self._sizes.train_min_sizes
        if not self.training or not sides:
            return self._sizes.min_size
        if self._sizes.train_sampling == "range":
            sides = range(sides[0], sides[1] + 1)
        return sides[int(seeds.fraction(torch.initial_seed(), "short side") * len(sides))]

    def _padded_shape(
        self, sizes: list[tuple[int, int]], planned: tuple[int, int] | None
    ) -> tuple[int, int]:
        """H, W that hold all resized `sizes`; no more than `planned`."""
        if planned is not None:
            height, width = (max(side) for side in zip(*sizes, strict=True))
            shapes = [smallest_bucket(height, width, self.training_sizes, planned)]
        elif self.training:
            shapes = [smallest_bucket(h, w, self.training_sizes) for h, w in sizes]
        else:
            shapes = [padded(size, self.config) for size in sizes]
        return max(h for h, _ in shapes), max(w for _, w in shapes)

    def normalize(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Images ``(N, C, H, W)`` -> float32 ``(N, C, *size)``: resized to `size` (px), in the
        network's channel order, without its mean and scaled."""
        config = self.config
        if config.channel_order == "bgr":
            images = images.flip(1)
        if config.resize != "float":
            images = _resized(images, size, config.resize)
        images = (images / config.pixel_scale - self.mean) / self.std  # float32, of bytes too
        if config.resize == "float":
            images = functional.interpolate(images, size=size, mode="bilinear")
        return images


def _resized(images: Tensor, size: tuple[int, int], resize: str) -> Tensor:
    """Images resized before they are normalized. Those of more than 8 bits are not rounded."""
    if not images.is_floating_point():
        return _RESIZE[resize](images, size)
    smooth = resize == "pillow"  # whose filter widens where an image shrinks
    return functional.interpolate(images, size=size, mode="bilinear", antialias=smooth)


def _padded(boxes: int) -> int:
    """The number of gt boxes that `boxes` are padded to, a multiple of 8: few different ones."""
    return max(8, math.ceil(boxes / 8) * 8)


def _rows(targets: list[dict[str, Tensor]], key: str) -> list[tuple[int, int]]:
    """Where each image's rows begin and end when those of all images follow one another."""
    ends = list(itertools.accumulate(len(target[key]) for target in targets))
    return list(itertools.pairwise([0, *ends]))


def _pad_proposals(targets: list[dict[str, Tensor]], rows: Tensor, scale: Tensor) -> Proposals:
    """Stored proposals times `scale` ``(N, 2)`` of (y, x); where it is 1, the same bits."""
    stored = [target["proposals"] for target in targets]
    count = max(1, *map(len, stored))
    valid = torch.arange(count, device=scale.device) < rows[:, 1:] - rows[:, :1]
    return Proposals(boxes.rescale(_pad(stored, rows, count), scale), valid)


def _pad(parts: list[Tensor], rows: Tensor, count: int) -> Tensor:
    """Each image's part, then zeros: N x ``(G_i, ...)`` -> ``(N, count, ...)``.

    By one gather, not by a copy for each image. `rows` ``(N, 2)`` is `_rows` of the parts.
    """
    table = torch.cat([*parts, parts[0].new_zeros(1, *parts[0].shape[1:])])
    start, end = rows.split(1, dim=1)
    index = torch.arange(count, device=rows.device) + start
    return table[torch.where(index < end, index, len(table) - 1).long()]
