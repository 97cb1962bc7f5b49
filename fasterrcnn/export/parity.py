"""Does an exported file detect what the detector detects?

Every detection of one is paired with the nearest of the same class and image of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    limits: Limits

    @property
    def holds(self) -> bool:
        """Up to near ties, is everything the same?"""
        return self.different <= sum(self.counts) / self.limits.ties

    def __str__(self) -> str:
        ours, theirs = self.counts
        return (
            f"{self.size[0]:5d} {self.size[1]:5d} {ours:9d} {theirs:9d} {self.different:9d} "
            f"{self.box:9.1e} {self.score:9.1e}"
        )


HEADER = " short  long     eager  exported different  box (px)     score"


def compare(
    detector: Detector, exported: Detector, images: Sequence[Tensor], limits: Limits = EXACT
) -> list[Agreement]:
    """The detections in uint8 `images` ``(3, H, W)`` at three sizes, in batches of 1 and 3.

    Images are resized to three sizes, for which the transforms are changed and restored; where the
    file resizes them itself, they are made smaller before.
    """
    inside = isinstance(exported, ExportedDetector) and exported.prepares
    configs = detector.transform.config, exported.transform.config
    found = []
    try:
        for scale in _SCALES:
            size = configs[0].min_size, configs[0].max_size
            if not inside:
                size = max(_SMALLEST, int(size[0] * scale)), max(_SMALLEST, int(size[1] * scale))
            # One by one for such a file: the detector pads a batch to its largest image.
            batches = [[_smaller(image, scale)] for image in images] if inside else _batches(images)
            for model, config in zip((detector, exported), configs, strict=True):
                model.transform.config = replace(config, min_size=size[0], max_size=size[1])
            pairs = [pair for batch in batches for pair in _both(detector, exported, batch)]
            found.append(_agreement(size, pairs, limits))
    finally:
        detector.transform.config, exported.transform.config = configs
    return found


Found = dict[str, Tensor]


def _smaller(image: Tensor, scale: float) -> Tensor:
    """uint8 ``(3, H, W)`` with sides times `scale`."""
    pixels = functional.interpolate(
        image[None].float(), scale_factor=scale, mode="bilinear", antialias=True
    )
    return pixels[0].round().byte()


def _batches(images: Sequence[Tensor]) -> list[list[Tensor]]:
    batches: list[list[Tensor]] = []
    rest = list(images)
    while rest:
        count = _BATCHES[len(batches) % len(_BATCHES)]
        batches.append(rest[:count])
        rest = rest[count:]
    return batches


def _both(a: Detector, b: Detector, batch: list[Tensor]) -> list[tuple[Found, Found]]:
    with torch.no_grad():
        first, second = a(batch), b(batch)
    assert isinstance(first, list) and isinstance(second, list)
    return list(zip(first, second, strict=True))


def _agreement(
    size: tuple[int, int], pairs: list[tuple[Found, Found]], limits: Limits
) -> Agreement:
    different, box, score = 0, 0.0, 0.0
    for a, b in pairs:
        matched = _matched(a, b, limits)
        different += len(a["labels"]) + len(b["labels"]) - 2 * len(matched)
        for i, k in matched:
            box = max(box, float((a["boxes"][i] - b["boxes"][k]).abs().max()))
            score = max(score, float((a["scores"][i] - b["scores"][k]).abs()))
    first, second = (sum(len(pair[side]["labels"]) for pair in pairs) for side in (0, 1))
    return Agreement(size, (first, second), different, box, score, limits)


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
