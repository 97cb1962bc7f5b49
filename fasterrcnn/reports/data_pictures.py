"""Pictures of a data set for its page: images with their boxes as they are trained on.

They come through the loader and the network's transform: decoded, resized and padded; those of the
training split augmented, where the recipe says so, and flipped.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fasterrcnn.data import augment
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.loader import Batch, Images
from fasterrcnn.data.sampler import MicroBatch
from fasterrcnn.data.statistics import Box, systematic
from fasterrcnn.errors import DataError
from fasterrcnn.image_sizes import training_sizes
from fasterrcnn.models.transform import Transform
from fasterrcnn.recipes import Input, Recipe
from fasterrcnn.reports import pages
from fasterrcnn.reports.data_report import Report
from fasterrcnn.reports.page_pictures import Drawn, Picture, crop

NO_BOX = "image without a box to train on"
FAULT = "box that cannot be used"
TWICE, LEAK = "the same image twice in one split", "the same image in several splits"
_PAGE = 9_000_000  # bytes of all pictures together
_MOST = 90_000  # bytes of one

Where = tuple[str, int]  # split, position in it


def marks(report: Report, splits: dict[str, Annotations]) -> dict[Where, list[str]]:
    """What was found about which images."""
    found: dict[Where, set[str]] = defaultdict(set)
    for split in report.splits:
        data = splits[split.name]
        for i in np.flatnonzero(~data.with_boxes()).tolist():
            found[split.name, i].add(NO_BOX)
        for box in (*split.lost, *report.odd[split.name]):
            found[split.name, box.image].add(f"box {box.what}")
    for what, groups in ((TWICE, report.duplicates.within), (LEAK, report.duplicates.across)):
        for member in (member for group in groups for member in group):
            found[member.split, member.image].add(what)
    for name, data in splits.items():
        for i in _with_faults(report, data):
            found[name, i].add(FAULT)
    return {where: sorted(kinds) for where, kinds in found.items()}


def choose(
    found: dict[Where, list[str]], splits: dict[str, Annotations], count: int
) -> tuple[list[Where], int]:
    """The images to show, and how many of them are shown because something was found about them.

    A systematic sample of `count` of all images, and as many at most of those in `found`: all of
    them, or a systematic sample of every kind.
    """
    every = [(name, i) for name, data in splits.items() for i in range(len(data))]
    chosen = {every[k] for k in systematic(len(every), count)}
    kinds: dict[str, list[Where]] = defaultdict(list)
    for where in every:
        for kind in found.get(where, ()):
            kinds[kind].append(where)
    left = count
    for done, places in enumerate(sorted(kinds.values(), key=len)):  # what is rare leaves room
        some = systematic(len(places), left // (len(kinds) - done))
        chosen |= {places[k] for k in some}
        left -= len(some)
    return [where for where in every if where in chosen], sum(where in found for where in chosen)


def make(
    chosen: list[Where],
    found: dict[Where, list[str]],
    splits: dict[str, Annotations],
    recipe: Recipe,
    threads: int,
    shown: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, _: items,
) -> tuple[list[Picture], list[str]]:
    """A picture of each image as it is trained on, and what is wrong with those that have none.

    `shown` passes items on, given their number, for a progress bar.
    """
    transform = Transform(recipe.input, training_sizes(recipe)).train()
    train, augmentation = recipe.data.train_split, augment.of(recipe)
    loaders = {
        name: Images(
            data,
            flip=recipe.input.flip if name == train else 0.0,
            seed=recipe.seed,
            augment=augmentation if name == train else None,
        )
        for name, data in splits.items()
    }
    if augmentation is not None:
        threads = 1  # it draws from torch's global generator
    limit = min(_MOST, _PAGE // max(1, len(chosen)))

    def picture(where: Where) -> Picture | DataError:
        split, i = where
        batch = loaders[split][MicroBatch(0, 0, 0, (i,))]
        if isinstance(batch, DataError):
            return batch
        return _as_trained(
            batch, transform, split, splits[split].files[i], found.get(where, []), limit
        )

    with ThreadPoolExecutor(threads) as pool:
        made = [*shown(pool.map(picture, chosen), len(chosen))]
    pictures = [one for one in made if isinstance(one, Picture)]
    return pictures, [str(one) for one in made if isinstance(one, DataError)]


def crops(boxes: list[Box], split: str, data: Annotations) -> list[Picture]:
    """Each of the boxes with what is around it, in px of its file; undecodable images are left
    out."""
    made = []
    for box in boxes:
        batch = Images(data)[MicroBatch(0, 0, 0, (box.image,))]
        if isinstance(batch, Batch):
            drawn = [(box.xywh, int(data.labels[box.index]), False)]
            note = f"{box.name}, {box.xywh[2]:.4g} x {box.xywh[3]:.4g} px"
            made.append(
                crop(batch.images()[0], box.xywh, drawn, file=box.file, split=split, note=note)
            )
    return made


def _as_trained(
    batch: Batch, transform: Transform, split: str, file: str, marks: list[str], limit: int
) -> Picture:
    """The first image of the batch."""
    padded = transform(batch.images(), batch.targets(), batch.planned)
    valid = padded.gt_valid[0]
    boxes = padded.gt_boxes[0][valid].tolist()
    height, width = padded.pixels.shape[2:]
    image = Image.fromarray(_pixels(padded.pixels[0], transform.config).numpy())
    return Picture(
        file=file,
        split=split,
        uri=pages.data_uri(image, limit),
        width=width,
        height=height,
        boxes=[
            Drawn(round(x1, 1), round(y1, 1), round(x2 - x1, 1), round(y2 - y1, 1), label)
            for (x1, y1, x2, y2), label in zip(
                boxes, padded.gt_labels[0][valid].tolist(), strict=True
            )
        ],
        marks=marks,
    )


def _pixels(network_input: Tensor, config: Input) -> Tensor:
    """uint8 RGB ``(H, W, 3)`` of normalized ``(C, H, W)``; of other than three channels the first
    ones."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (config.image_mean, config.image_std))
    pixels = (network_input * std + mean) * min(config.pixel_scale, 255.0)
    pixels = pixels.round().clamp(0, 255).to(torch.uint8)
    if config.channel_order == "bgr":
        pixels = pixels.flip(0)
    return pixels[[min(c, len(pixels) - 1) for c in range(3)]].permute(1, 2, 0).contiguous()


def _with_faults(report: Report, data: Annotations) -> Iterator[int]:
    """The images of `data` that a fault is about, as far as its file or field names them."""
    by_stem: dict[str, list[int]] = defaultdict(list)
    by_id: dict[str, int] = {}
    if report.faults:
        by_id = {id: i for i, id in enumerate(data.ids)}
        for i, file in enumerate(data.files):
            by_stem[PurePosixPath(file).stem].append(i)
    for problem in report.faults:
        yield from by_stem.get(PurePosixPath(problem.file).stem, ())
        if (named := re.search(r"image \"?(.+?)\"?\)", problem.field)) and named[1] in by_id:
            yield by_id[named[1]]
