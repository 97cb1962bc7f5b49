"""How well anchors fit a data set, and anchors that fit it better.

The recall of anchors is the share of the gt (ground truth) boxes that an anchor overlaps well, at
the size and at the places at which the network has them. It is computed without a network and
without listing anchors: of the anchors of one shape on one level, the one nearest to a box in x and
in y overlaps it most.

Shapes: B gt boxes, A anchors of a cell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fasterrcnn.data.annotations import Annotations, clip
from fasterrcnn.data.statistics import systematic
from fasterrcnn.image_sizes import STRIDE, resized, smallest_bucket
from fasterrcnn.models.rpn import anchor_generator
from fasterrcnn.recipes import RPN, Input

IOUS = (0.5, 0.7)
_FITTED_TO = 3000  # boxes of a split: more would take longer and change little
_FACTORS = (1.4, 1.2, 1.1, 1.04)  # tried on every size and ratio, coarse to fine
_MAX_ROUNDS = 30
_SOFTNESS = 0.05  # IoU around a threshold in which a box counts partly: a slope to climb
_PENALTY = 1000.0  # per unit of recall lost: none may be
_MIN_GAIN = 1e-4

Anchors = tuple[tuple[float, ...], tuple[float, ...]]  # sizes and ratios, ascending


@dataclass(frozen=True)
class Resized:
    """B gt boxes as they are trained on, and where."""

    boxes: np.ndarray  # float64 (B, 4): x1 y1 x2 y2 in px of the resized image
    sizes: np.ndarray  # int64 (B, 2): H, W of the resized image of each
    padded: np.ndarray  # int64 (B, 2): H, W that it is padded to

    def take(self, index: list[int]) -> Resized:
        """The boxes at these positions."""
        return Resized(self.boxes[index], self.sizes[index], self.padded[index])


@dataclass(frozen=True)
class Level:
    """The boxes whose best anchor is on one feature level."""

    stride: int
    sizes: tuple[float, ...]  # of its anchors (px)
    boxes: int
    recall: tuple[float | None, ...]  # at `IOUS`; None without boxes


@dataclass(frozen=True)
class Recall:
    """The recall of anchors."""

    boxes: int
    recall: tuple[float | None, ...]  # at `IOUS`
    levels: list[Level]


def resized_boxes(data: Annotations, config: Input) -> Resized:
    """The boxes to train on, in px of the resized image (the largest scale of several)."""
    found, which = np.unique(data.sizes, axis=0, return_inverse=True)
    new = [resized(int(h), int(w), config) for h, w in found]
    shapes = np.array([(*size, *smallest_bucket(*size, config)) for size in new], np.int64)
    owner = data.owners()[data.trainable]
    shapes = shapes.reshape(-1, 4)[which.reshape(-1)][owner]
    old = data.sizes[owner]
    scale = (shapes[:, :2] / old)[:, ::-1]
    boxes = clip(data.xywh[data.trainable], old) * np.tile(scale, 2)
    return Resized(boxes, shapes[:, :2], shapes[:, 2:])


def measure(gt: Resized, config: RPN, strides: tuple[int, ...]) -> Recall:
    """The recall of the anchors of `config` on feature levels of these strides."""
    iou, level = best(gt, config, strides)
    levels = [
        Level(stride, sizes, int((level == k).sum()), _recall(iou[level == k]))
        for k, (stride, sizes) in enumerate(
            zip(strides, anchor_generator(config, len(strides)).sizes, strict=True)
        )
    ]
    return Recall(len(iou), _recall(iou), levels)


def best(gt: Resized, config: RPN, strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The highest IoU with an anchor, float64 ``(B,)``, and the level of that anchor, int64
    ``(B,)``: the finest of several equal ones."""
    found = [
        _best_on_level(gt, anchors.numpy().astype(np.float64), stride, config)
        for anchors, stride in zip(
            anchor_generator(config, len(strides)).cell_anchors, strides, strict=True
        )
    ]
    iou = np.stack(found)
    return iou.max(axis=0), iou.argmax(axis=0)


def fit(parts: Sequence[Resized], config: RPN, strides: tuple[int, ...]) -> RPN:
    """`config` with as many anchor sizes and aspect ratios, chosen for the first of `parts`, the
    training split.

    A search from the given anchors and from the quantiles of the boxes, one value at a time. On no
    part the recall at any of `IOUS` is lower than that of the given anchors; if nothing better is
    found, these are returned.
    """
    samples = [part.take(systematic(len(part.boxes), _FITTED_TO)) for part in parts]
    given = [_recall_array(best(sample, config, strides)[0]) for sample in samples]

    def score(anchors: Anchors) -> float:
        found = [best(sample, _with(config, anchors), strides)[0] for sample in samples]
        soft = [1 / (1 + np.exp((t - found[0]) / _SOFTNESS)) for t in IOUS]
        lost = [
            np.maximum(old - _recall_array(iou), 0) for old, iou in zip(given, found, strict=True)
        ]
        return float(np.mean(soft) - _PENALTY * np.sum(lost))

    own = (tuple(sorted(config.anchor_sizes)), tuple(sorted(config.aspect_ratios)))
    starts = (own, _quantiles(samples[0], own))
    fitted = _with(config, max((_climb(score, start) for start in starts), key=score))
    before, after = (
        np.array([_recall_array(best(part, rpn, strides)[0]) for part in parts])
        for rpn in (config, fitted)
    )
    better = (after >= before).all() and after[0].sum() > before[0].sum()
    return fitted if better else config


def flags(config: RPN) -> str:
    """What to type to train with these anchors."""
    sizes, ratios = (",".join(f"{v:g}" for v in values) for values in _anchors(config))
    return f"--rpn.anchor-sizes {sizes} --rpn.aspect-ratios {ratios}"


def _anchors(config: RPN) -> Anchors:
    return config.anchor_sizes, config.aspect_ratios


def _with(config: RPN, anchors: Anchors) -> RPN:
    return dataclasses.replace(config, anchor_sizes=anchors[0], aspect_ratios=anchors[1])


def _best_on_level(gt: Resized, anchors: np.ndarray, stride: int, config: RPN) -> np.ndarray:
    """The highest IoU ``(B,)`` with one of the anchors ``(A, 4)`` around the cells of a level."""
    cells = -(-gt.padded // stride)  # (B, 2), as H, W
    steps = gt.padded // cells if config.anchor_strides == "grid" else np.full_like(cells, stride)
    own = cells
    if not config.padding_anchors:
        own = -(-(-(-gt.sizes // STRIDE) * STRIDE) // stride)
    area = (gt.boxes[:, 2:] - gt.boxes[:, :2]).prod(axis=1)
    found = np.zeros(len(gt.boxes))
    for anchor in anchors:
        shared = np.ones(len(gt.boxes))
        for axis in (0, 1):  # x, y
            sides = anchor[[axis, axis + 2]]
            step, size = steps[:, 1 - axis], gt.sizes[:, 1 - axis]
            first, last = 0, own[:, 1 - axis] - 1
            if not config.border_anchors:
                first = np.ceil(-sides[0] / step)
                last = np.minimum(cells[:, 1 - axis] - 1, np.floor((size - sides[1]) / step))
            shared *= _shared(gt.boxes[:, [axis, axis + 2]], sides, step, first, last)
        union = area + (anchor[2:] - anchor[:2]).prod() - shared
        found = np.maximum(found, shared / union)
    return found


def _shared(
    sides: np.ndarray,
    anchor: np.ndarray,
    step: np.ndarray,
    first: np.ndarray | int,
    last: np.ndarray,
) -> np.ndarray:
    """The most that boxes share along one axis with an anchor moved by `first` to `last` steps
    (px, ``(B,)``).

    `sides` ``(B, 2)``: low and high of the boxes; `anchor` ``(2,)``: of the anchor at 0.
    """
    cell = np.clip(np.round((sides.mean(axis=1) - anchor.mean()) / step), first, last)
    moved = anchor + (cell * step)[:, None]
    shared = np.minimum(sides[:, 1], moved[:, 1]) - np.maximum(sides[:, 0], moved[:, 0])
    return np.where(first <= last, np.maximum(shared, 0), 0)


def _recall_array(iou: np.ndarray) -> np.ndarray:
    """Recall at `IOUS` of one box or more."""
    return np.array([(iou >= threshold).mean() for threshold in IOUS])


def _recall(iou: np.ndarray) -> tuple[float | None, ...]:
    return tuple(_recall_array(iou).tolist()) if len(iou) else (None,) * len(IOUS)


def _quantiles(gt: Resized, like: Anchors) -> Anchors:
    """As many sizes and ratios as in `like`, spread as those of the boxes are."""
    width, height = (gt.boxes[:, 2:] - gt.boxes[:, :2]).T
    sizes, ratios = (
        np.quantile(values, (np.arange(count) + 0.5) / count).tolist()
        for values, count in (
            (np.sqrt(width * height), len(like[0])),
            (height / width, len(like[1])),
        )
    )
    return tuple(map(_size, sizes)), tuple(map(_ratio, ratios))


def _climb(score: Callable[[Anchors], float], start: Anchors) -> Anchors:
    """The anchors that `start` leads to when single values are changed as long as it helps."""
    found, value = start, score(start)
    for factor in _FACTORS:
        for _ in range(_MAX_ROUNDS):
            before = value
            for k in range(len(start[0]) + len(start[1])):
                for changed in _changed(found, k, factor):
                    if (new := score(changed)) > value + _MIN_GAIN:
                        found, value = changed, new
            if value == before:
                break
    return found


def _changed(anchors: Anchors, k: int, factor: float) -> Iterator[Anchors]:
    """`anchors` with value `k` larger and smaller, as long as values stay in order."""
    sizes, ratios = anchors
    for change in (factor, 1 / factor):
        if k < len(sizes):
            new = (*sizes[:k], _size(sizes[k] * change), *sizes[k + 1 :])
            moved: Anchors = (new, ratios)
        else:
            r = k - len(sizes)
            moved = (sizes, (*ratios[:r], _ratio(ratios[r] * change), *ratios[r + 1 :]))
        if all(list(values) == sorted(values) for values in moved):
            yield moved


def _size(value: float) -> int:
    return max(1, round(value))


def _ratio(value: float) -> float:
    return max(0.01, round(value, 2))
