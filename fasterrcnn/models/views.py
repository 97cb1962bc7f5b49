"""Detection in other than the whole image: in tiles, mirrored and at other scales, merged by NMS.

Tiles are the sliced inference of Akyon et al. (https://arxiv.org/abs/2202.06934); mirrored and
scaled images are Detectron2's test-time augmentation. Shapes: D detections, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fasterrcnn import tile_grid
from fasterrcnn.models.build import Detector, split
from fasterrcnn.models.nms import nms_lists
from fasterrcnn.models.transfer import to_host
from fasterrcnn.models.transform import Transform
from fasterrcnn.recipes import Input, Recipe, RoIHeads

Detections = dict[str, Tensor]  # boxes (D, 4) x1 y1 x2 y2 (px), labels, scores (D,), best first
Part = tuple[int, int, int, int]  # x1 y1 x2 y2 (px of the image)
Crop = Callable[[Part], Tensor]  # gives the pixels (C, H, W) of a part of an image, on any device


class View(NamedTuple):
    """A part of an image, and how it is looked at."""

    scale: float  # times the sizes that images are resized to
    part: Part
    flip: bool  # left and right exchanged


@dataclass(frozen=True)
class Views:
    """What an image is looked at: its whole, its tiles, and these mirrored and at other scales."""

    slice: int | None = None  # side of square tiles (px of the image)
    overlap: float = 0.2  # part of a tile that it shares with the next
    flip: bool = False
    scales: tuple[float, ...] = ()  # besides 1
    whole: bool = True  # where there are tiles, the whole image too

    @property
    def shared(self) -> int:
        """The px that neighboring tiles have in common at least."""
        return tile_grid.shared_px(self.slice or 0, self.overlap)

    @property
    def side(self) -> int:
        """The side of the tiles that are all that is looked at; 0 where the whole image is too."""
        return 0 if self.whole else self.slice or 0

    def of(self, height: int, width: int) -> list[View]:
        """The views of an image, those of equal padded size next to each other."""
        parts = [(0, 0, width, height)]
        if self.slice is not None and max(height, width) > self.slice:
            cut = tile_grid.tiles(height, width, self.slice, self.shared)
            parts = [*parts, *cut] if self.whole else cut
        return self.of_parts(parts)

    def of_parts(self, parts: Sequence[Part]) -> list[View]:
        """The views of these parts of an image; the first is the first part as it is."""
        flips = (False, True) if self.flip else (False,)
        return [View(*view) for view in product((1.0, *self.scales), parts, flips)]

    def describe(self) -> str:
        """One line, for the log."""
        words = [f"tiles of {self.slice} px, overlap {self.overlap:g}"] if self.slice else []
        words += ["mirrored"] if self.flip else []
        return "; ".join([*words, *(f"scale {scale:g}" for scale in self.scales)])


def of_recipe(recipe: Recipe) -> Views | None:
    """What a run looks at unless it is told otherwise: the tiles that it was trained on, if any."""
    data = recipe.data
    return Views(data.tile, data.tile_overlap, whole=False) if data.tile else None


class Pixels(Protocol):
    """Pixels ``(C, H, W)`` of which parts can be taken: a tensor, or what stays in a file."""

    def __getitem__(self, part: tuple[slice, slice, slice], /) -> Tensor: ...


def crop_of(pixels: Pixels, corner: tuple[int, int] = (0, 0)) -> Crop:
    """Parts of an image, which is the part at `corner` (x, y; px) of a larger one."""
    left, top = corner

    def crop(part: Part) -> Tensor:
        x1, y1, x2, y2 = part
        return pixels[:, y1 - top : y2 - top, x1 - left : x2 - left]

    return crop


def detect(
    model: Detector,
    size: Sequence[int],
    crop: Crop,
    views: Views,
    heads: RoIHeads,
    images_per_batch: int,
    found: Detections | None = None,
) -> Detections:
    """The detections in all views of an image of `size` (H, W; px), merged.

    `crop` gives its pixels; no more than `images_per_batch` views go through the network at once.
    `found`: the detections in the whole image, where they are known. `heads`: the recipe's.
    """
    height, width = size
    wanted = views.of(height, width)
    everything = [] if found is None else [found]
    everything += look(
        model, (height, width), crop, wanted[len(everything) :], views.shared, images_per_batch
    )
    return merge(everything, heads, limited=views.whole)


def look(
    model: Detector,
    size: tuple[int, int],
    crop: Crop,
    views: list[View],
    shared: int,
    images_per_batch: int,
) -> list[Detections]:
    """The detections in each view, in px of the image, on the CPU, as `in_image` has them."""
    found = []
    for batch in _batches(views, images_per_batch):
        seen = _look(model, crop, batch)
        found += [in_image(*pair, size, shared) for pair in zip(batch, seen, strict=True)]
    return found


def _batches(views: list[View], size: int) -> Iterator[list[View]]:
    """The views in batches of equal padded size."""

    def shape(view: View) -> tuple[float, int, int]:
        x1, y1, x2, y2 = view.part
        return view.scale, y2 - y1, x2 - x1

    for _, group in groupby(views, shape):
        alike = [*group]
        yield from (alike[k : k + size] for k in range(0, len(alike), size))


def _look(model: Detector, crop: Crop, batch: list[View]) -> list[Detections]:
    """Detections in each view, in its own px."""
    device = model.transform.mean.device
    crops = []
    for view in batch:
        pixels = crop(view.part).to(device)
        crops.append(pixels.flip(-1) if view.flip else pixels)
    transform, scale = model.transform, batch[0].scale
    if scale != 1:
        transform = Transform(_scaled(transform.config, scale)).eval().to(device)
    padded = transform(crops)
    return split(to_host(model.detect(padded, model.features(padded))))


def _scaled(config: Input, scale: float) -> Input:
    """The input with the sizes that images are resized to times `scale`."""
    short, long = (max(1, round(side * scale)) for side in (config.min_size, config.max_size))
    return replace(config, min_size=short, max_size=long)


def in_image(view: View, found: Detections, size: tuple[int, int], shared: int) -> Detections:
    """Detections in a view, in px of the image of `size`, without parts of objects that are better
    seen.

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
    end = box.new_tensor(size[::-1])  # W, H
    cut_high = (high < end) & (box[:, 2:] > high - 1) & (box[:, :2] >= high - shared)
    kept = ~(cut_low | cut_high).any(dim=1)
    return {key: value[kept] for key, value in {**found, "boxes": box}.items()}


def merge(parts: list[Detections], heads: RoIHeads, *, limited: bool) -> Detections:
    """All detections of an image after class-wise NMS; `limited`: no more than the box head gives.
    Tiles alone can show more objects than that, which is the limit of each."""
    found = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    order = found["scores"].sort(descending=True, stable=True).indices
    found = {key: value[order] for key, value in found.items()}
    box, labels = found["boxes"][None], found["labels"][None]
    valid = torch.ones_like(labels, dtype=torch.bool)
    keep = nms_lists(box, labels, valid, heads.nms_thresh)[0].nonzero().squeeze(1)
    kept = keep[: heads.detections_per_img] if limited else keep
    return {key: value[kept] for key, value in found.items()}
