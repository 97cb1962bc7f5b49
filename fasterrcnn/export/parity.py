"""Does an exported file detect what the detector detects?

Every detection of one is paired with the nearest of the same class and image of the other.

Rounding alone can decide which of two boxes of nearly equal scores NMS or top-k keeps. Where more
detections than usual are different, the detector is therefore compared with itself, computed by
other kernels: what changes there is a near tie, not an error of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from fasterrcnn.export.detector import ExportedDetector
from fasterrcnn.models.build import Detector


@dataclass(frozen=True)
class Limits:
    """How far the detections of a file may be from the detector's."""

    box: float = 0.05  # px
    score: float = 1e-4
    ties: int = 1000  # one in so many may differ: a near tie in NMS or top-k, as of README.md

    def __str__(self) -> str:
        return (
            f"boxes may differ by {self.box} px, scores by {self.score}, 1 in {self.ties} by more"
        )


EXACT = Limits()
HALF = Limits(box=0.5, score=5e-3, ties=20)  # 11 bits: more of them are near ties
_SCALES = (1.0, 0.75, 0.5)  # of the sizes that images are resized to
_SMALLEST = 96  # px: files take no sides of 64 px or less
_BATCHES = (1, 3)  # images at once, in turn


@dataclass(frozen=True)
class Agreement:
    """Of all images at one size."""

    size: tuple[int, int]  # short side, limit of the long side (px)
    counts: tuple[int, int]  # detections of the detector and of the file
    different: int  # detections of either without one of the same class, place and score
    box: float  # the largest difference of the others (px)
    score: float
    allowed: float  # so many may differ
    rounding: int | None = None  # so many differ with other kernels; None: not computed

    @property
    def holds(self) -> bool:
        """Up to near ties, is everything the same?"""
        return self.different <= self.allowed

    def __str__(self) -> str:
        ours, theirs = self.counts
        return (
            f"{self.size[0]:5d} {self.size[1]:5d} {ours:9d} {theirs:9d} {self.different:9d} "
            f"{self.box:9.1e} {self.score:9.1e}"
            + ("" if self.rounding is None else f" {self.rounding:12d}")
        )


HEADER = " short  long     eager  exported different  box (px)     score (by rounding)"


def compare(
    detector: Detector, exported: Detector, images: Sequence[Tensor], limits: Limits = EXACT
) -> list[Agreement]:
    """The detections in `images` ``(C, H, W)`` at three sizes, in batches of 1 and 3.

    Images are resized to three sizes, for which the transforms are changed and restored; where the
    file resizes them itself, they are made smaller before. Where more differs than `limits` allow,
    twice as many may differ as other kernels change at any of the sizes.
    """
    ours, agreements = [], []
    for scale in _SCALES:
        with _resized(detector, exported, images, scale) as (size, batches):
            ours.append(_detect(detector, batches))
            agreements.append(_agreement(size, ours[-1], _detect(exported, batches), limits))
    if all(agreement.holds for agreement in agreements):
        return agreements
    changed = []
    for scale, before in zip(_SCALES, ours, strict=True):
        with _resized(detector, exported, images, scale) as (size, batches), _other_kernels():
            again = _detect(detector, batches)
        changed.append(_agreement(size, before, again, limits).different)
    return [
        replace(found, rounding=number, allowed=max(found.allowed, 2 * max(changed)))
        for found, number in zip(agreements, changed, strict=True)
    ]


@contextmanager
def _resized(
    detector: Detector, exported: Detector, images: Sequence[Tensor], scale: float
) -> Iterator[tuple[tuple[int, int], list[list[Tensor]]]]:
    """The size (short side, limit of the long side) to which both resize inside, and batches."""
    configs = detector.transform.config, exported.transform.config
    size = configs[0].min_size, configs[0].max_size
    if isinstance(exported, ExportedDetector) and exported.prepares:
        # One by one: the detector pads a batch to its largest image.
        batches = [[_smaller(image, scale)] for image in images]
    else:
        size = max(_SMALLEST, int(size[0] * scale)), max(_SMALLEST, int(size[1] * scale))
        batches = _batches(images)
    try:
        for model, config in zip((detector, exported), configs, strict=True):
            model.transform.config = replace(config, min_size=size[0], max_size=size[1])
        yield size, batches
    finally:
        detector.transform.config, exported.transform.config = configs


Found = dict[str, Tensor]


def _smaller(image: Tensor, scale: float) -> Tensor:
    """``(C, H, W)`` with sides times `scale`, and values that it has."""
    pixels = functional.interpolate(image[None].float(), scale_factor=scale, mode="nearest-exact")
    return pixels[0].to(image.dtype)


def _batches(images: Sequence[Tensor]) -> list[list[Tensor]]:
    batches: list[list[Tensor]] = []
    rest = list(images)
    while rest:
        count = _BATCHES[len(batches) % len(_BATCHES)]
        batches.append(rest[:count])
        rest = rest[count:]
    return batches


def _detect(detector: Detector, batches: list[list[Tensor]]) -> list[Found]:
    """Of every image, in order."""
    with torch.no_grad():
        found = [detector(batch) for batch in batches]
    return [image for batch in found for image in batch]


@contextmanager
def _other_kernels() -> Iterator[None]:
    """Inside, PyTorch's own convolutions, which add in another order than oneDNN's."""
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = enabled


def _agreement(
    size: tuple[int, int], ours: list[Found], theirs: list[Found], limits: Limits
) -> Agreement:
    different, box, score = 0, 0.0, 0.0
    for a, b in zip(ours, theirs, strict=True):
        matched = _matched(a, b, limits)
        different += len(a["labels"]) + len(b["labels"]) - 2 * len(matched)
        for i, k in matched:
            box = max(box, float((a["boxes"][i] - b["boxes"][k]).abs().max()))
            score = max(score, float((a["scores"][i] - b["scores"][k]).abs()))
    first, second = (sum(len(found["labels"]) for found in side) for side in (ours, theirs))
    allowed = (first + second) / limits.ties
    return Agreement(size, (first, second), different, box, score, allowed)


def _matched(a: Found, b: Found, limits: Limits) -> list[tuple[int, int]]:
    """Pairs of detections of the same class whose boxes and scores agree, each in one pair; the
    nearest boxes first."""
    box = (a["boxes"][:, None] - b["boxes"][None]).abs().amax(dim=-1)
    same = (a["labels"][:, None] == b["labels"]) & (box <= limits.box)
    same &= (a["scores"][:, None] - b["scores"]).abs() <= limits.score
    candidates = same.nonzero().tolist()
    candidates.sort(key=lambda pair: float(box[pair[0], pair[1]]))
    used: tuple[set[int], set[int]] = set(), set()
    pairs = []
    for i, k in candidates:
        if i not in used[0] and k not in used[1]:
            pairs.append((i, k))
            used[0].add(i)
            used[1].add(k)
    return pairs
