"""Detection in more than the whole image: in tiles, mirrored and at other scales, merged by NMS.

Tiles are the sliced inference of Akyon et al. (https://arxiv.org/abs/2202.06934); mirrored and
scaled images are Detectron2's test-time augmentation. Shapes: D detections, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import NamedTuple

import torch
from torch import Tensor

from fasterrcnn.models.build import FasterRCNN, split
from fasterrcnn.models.nms import nms_lists
from fasterrcnn.models.transform import Transform
from fasterrcnn.recipes import Input

Detections = dict[str, Tensor]  # boxes (D, 4) x1 y1 x2 y2 (px), labels, scores (D,), best first


class View(NamedTuple):
    """A part of an image, and how it is looked at."""

    scale: float  # times the sizes that images are resized to
    part: tuple[int, int, int, int]  # x1 y1 x2 y2 (px of the image)
    flip: bool  # left and right exchanged


@dataclass(frozen=True)
class Views:
    """What an image is looked at besides its whole as it is: every part, scale and flip of it."""

    slice: int | None = None  # side of square tiles (px of the image)
    overlap: float = 0.2  # part of a tile that it shares with the next
    flip: bool = False
    scales: tuple[float, ...] = ()  # besides 1

    @property
    def shared(self) -> int:
        """The px that neighboring tiles have in common at least."""
        return round((self.slice or 0) * self.overlap)

    def of(self, height: int, width: int) -> list[View]:
        """The views of an image, those of equal padded size next to each other."""
        parts = [(0, 0, width, height)]
        if self.slice is not None and max(height, width) > self.slice:
            parts += tiles(height, width, self.slice, self.shared)
        flips = (False, True) if self.flip else (False,)
        _whole, *others = (View(*view) for view in product((1.0, *self.scales), parts, flips))
        return others

    def describe(self) -> str:
        """One line, for the log."""
        words = [f"tiles of {self.slice} px, overlap {self.overlap:g}"] if self.slice else []
        words += ["mirrored"] if self.flip else []
        return "; ".join([*words, *(f"scale {scale:g}" for scale in self.scales)])


def tiles(height: int, width: int, side: int, shared: int) -> list[tuple[int, int, int, int]]:
    """Tiles x1 y1 x2 y2 of `side` px, or the image's where that is less, that cover an image;
    neighbors have `shared` px in common, the last ones more."""

    def starts(length: int) -> list[int]:
        last = max(0, length - side)
        return [*range(0, last, side - shared), last]

    corners = product(starts(height), starts(width))
    return [(x, y, min(x + side, width), min(y + side, height)) for y, x in corners]


def detect(
    model: FasterRCNN,
    images: list[Tensor],
    found: list[Detections],
    views: Views,
    images_per_batch: int,
) -> list[Detections]:
    """The detections `found` in whole `images`, on any device, merged with those in their views.

    Images are uint8 ``(3, H, W)`` on the device; no more than `images_per_batch` views go through
    the network at once.
    """
    merged = []
    for image, whole in zip(images, found, strict=True):
        everything = [{key: value.to(image.device) for key, value in whole.items()}]
        for batch in _batches(views.of(*image.shape[-2:]), images_per_batch):
            seen = _look(model, image, batch)
            pairs = zip(batch, seen, strict=True)
            everything += [_in_image(view, own, image, views.shared) for view, own in pairs]
        merged.append(_merge(model, everything))
    return merged


def _batches(views: list[View], size: int) -> Iterator[list[View]]:
    """The views in batches of equal padded size."""

    def shape(view: View) -> tuple[float, int, int]:
        x1, y1, x2, y2 = view.part
        return view.scale, y2 - y1, x2 - x1

    for _, group in groupby(views, shape):
        alike = [*group]
        yield from (alike[k : k + size] for k in range(0, len(alike), size))


def _look(model: FasterRCNN, image: Tensor, batch: list[View]) -> list[Detections]:
    """Detections in each view, in its own px."""
    crops = []
    for _, (x1, y1, x2, y2), flip in batch:
        crop = image[:, y1:y2, x1:x2]
        crops.append(crop.flip(-1) if flip else crop)
    config = _scaled(model.transform.config, batch[0].scale)
    padded = Transform(config).eval().to(image.device)(crops)
    return split(model.detect(padded, model.features(padded)))


def _scaled(config: Input, scale: float) -> Input:
    """The input with the sizes that images are resized to times `scale`."""
    short, long = (max(1, round(side * scale)) for side in (config.min_size, config.max_size))
    return replace(config, min_size=short, max_size=long)


def _in_image(view: View, found: Detections, image: Tensor, shared: int) -> Detections:
    """Detections in a view, in px of the image, without parts of objects that are better seen.

    That is what touches an edge inside the image and lies in the `shared` px behind which the next
    tile goes on: that tile has all of it, and more of its object.
    """
    x1, y1, x2, y2 = view.part
    box = found["boxes"]
    if view.flip:
        box = torch.stack([x2 - x1 - box[:, 2], box[:, 1], x2 - x1 - box[:, 0], box[:, 3]], dim=1)
    low, high = box.new_tensor([x1, y1]), box.new_tensor([x2, y2])
    box = box + low.repeat(2)
    cut_low = (low > 0) & (box[:, :2] < low + 1) & (box[:, 2:] <= low + shared)
    end = box.new_tensor(image.shape[:0:-1])  # W, H
    cut_high = (high < end) & (box[:, 2:] > high - 1) & (box[:, :2] >= high - shared)
    kept = ~(cut_low | cut_high).any(dim=1)
    return {key: value[kept] for key, value in {**found, "boxes": box}.items()}


def _merge(model: FasterRCNN, parts: list[Detections]) -> Detections:
    """All detections of an image after class-wise NMS, as many as the box head gives."""
    config = model.roi_heads.config
    found = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    order = found["scores"].sort(descending=True, stable=True).indices
    found = {key: value[order] for key, value in found.items()}
    box, labels = found["boxes"][None], found["labels"][None]
    valid = torch.ones_like(labels, dtype=torch.bool)
    keep = nms_lists(box, labels, valid, config.nms_thresh)[0].nonzero().squeeze(1)
    return {key: value[keep[: config.detections_per_img]] for key, value in found.items()}
