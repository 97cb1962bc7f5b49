"""How far detectors differ, and how much of that is chance: a paired bootstrap over images.

A resample draws as many images as there are, with repeats, the same ones for all detectors. Its
metrics are those of `metrics.coco`, `lvis` and `voc` on the drawn images; instead of being repeated
an image has a weight, the number of times that it was drawn. The 2.5th and 97.5th percentiles of
the differences bound the interval (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
chapter 13).

Letters: n images, D detections, P true positives, K classes, M metrics of a class, T IoU
thresholds, R resamples, N metrics and classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fasterrcnn import progress, seeds
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.metrics import coco, lvis, outcomes, voc
from fasterrcnn.metrics.outcomes import Outcomes

Reached = Callable[[np.ndarray], np.ndarray]  # of a recall: the share of AP's sum up to there

# Images with objects, below which there is no interval: of a class in one image it would have no
# length, and in 10 to 19 images 90 % contain the truth (docs/measurements.md).
MIN_IMAGES = 20
_INTERVAL = (2.5, 97.5)  # %
_AT_ONCE = 50  # resamples: what they need should fit into a processor's cache
_SEED = 0  # the same resamples every time
_RECALLS = np.linspace(0, 1, 101)
_FREQUENCIES = {"AP_rare": "r", "AP_common": "c", "AP_frequent": "f"}


@dataclass(frozen=True)
class Difference:
    """A metric (0..1) of detector A and of another one, on the whole split; None: undefined.

    `low` and `high` bound the 95 % interval of `difference`; None with fewer than `MIN_IMAGES`.
    """

    first: float | None
    other: float | None
    low: float | None = None
    high: float | None = None

    @property
    def difference(self) -> float | None:
        """Of the other one to A: above 0 where it is better."""
        return None if self.first is None or self.other is None else self.other - self.first

    @property
    def more_than_noise(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class Differences(NamedTuple):
    """Of one detector to A: by the name of the metric; in AP by the name of the class."""

    metrics: dict[str, Difference]
    per_class: dict[str, Difference]


class _Metric(NamedTuple):
    """A mean over classes."""

    column: int  # which of the M
    area: int  # of `outcomes.AREAS`
    classes: np.ndarray  # bool (K,)


class Detector:
    """The detections of one detector on a split, measured on any resample of its images."""

    def __init__(self, annotations: Annotations, detections: np.ndarray) -> None:
        """`detections` float64 ``(D, 7)`` as `metrics.coco.evaluate` takes them."""
        self._coco = outcomes.of_coco(annotations, detections)
        self._voc = outcomes.of_voc(annotations, detections) if annotations.voc else None
        self._limits = (1, 10, 100) if annotations.federated is None else (lvis.MAX_DETECTIONS,)
        self._metrics = _metrics(annotations)
        self.images = len(annotations)
        self.metrics = tuple(self._metrics)
        self.classes = annotations.classes.names

    def measure(self, weights: np.ndarray) -> np.ndarray:
        """The metrics, then the AP of each class, ``(R, N)``, where image i occurs
        ``weights[r, i]`` times (int32 ``(R, n)``); NaN where undefined."""
        values = np.stack([self._of_class(k, weights) for k in range(len(self._coco))], axis=1)
        means = [_mean(values[:, m.classes, m.column]) for m in self._metrics.values()]
        return np.column_stack([*means, values[:, :, 0]])

    def images_with_objects(self) -> np.ndarray:
        """int64 ``(N,)``: how many images have objects that the metric is about."""
        metrics = [
            [self._coco[k][m.area].objects for k in np.flatnonzero(m.classes)]
            for m in self._metrics.values()
        ]
        classes = [[areas[0].objects] for areas in self._coco]
        return np.array([len(np.unique(np.concatenate(some))) if some else 0
                         for some in (*metrics, *classes)])  # fmt: skip

    def _of_class(self, k: int, weights: np.ndarray) -> np.ndarray:
        """``(R, M)``: the metrics of one class, in the order of COCO's names, then VOC's."""
        areas = self._coco[k]
        precisions = [average_precision(own, weights, coco_reached) for own in areas]
        columns = [
            *(precisions[0].mean(axis=1), precisions[0][:, 0], precisions[0][:, 5]),
            *(own.mean(axis=1) for own in precisions[1:]),
            *(recall(areas[0], weights, limit) for limit in self._limits),
            *(recall(own, weights) for own in areas[1:]),
        ]
        if self._voc is not None:
            both = (voc_07_reached, voc_10_reached)
            columns += [average_precision(self._voc[k], weights, how)[:, 0] for how in both]
        return np.column_stack(columns)


def compare(detectors: Sequence[Detector], count: int) -> list[Differences]:
    """The differences of all but the first to the first, with intervals from `count` resamples."""
    first = detectors[0]
    whole = np.ones((1, first.images), np.int32)
    points = [detector.measure(whole)[0] for detector in detectors]
    draws: list[list[np.ndarray]] = [[] for _ in detectors]
    chunks = range(0, count, _AT_ONCE)
    for start in progress.over("resampling", chunks, len(chunks), f"times {_AT_ONCE}"):
        weights = resamples(first.images, range(start, min(start + _AT_ONCE, count)))
        for own, detector in zip(draws, detectors, strict=True):
            own.append(detector.measure(weights))
    enough = first.images_with_objects() >= MIN_IMAGES
    base = np.concatenate(draws[0])
    return [
        _differences(first, points[0], points[i], np.concatenate(draws[i]) - base, enough)
        for i in range(1, len(detectors))
    ]


def resamples(images: int, numbers: range) -> np.ndarray:
    """int32 ``(R, n)``: how often each image occurs in the resamples with these numbers."""
    draws = (
        np.random.default_rng(seeds.key(_SEED, "resample", r)).integers(images, size=images)
        for r in numbers
    )
    return np.stack([np.bincount(draw, minlength=images) for draw in draws]).astype(np.int32)


def coco_reached(recall: np.ndarray) -> np.ndarray:
    """COCO: the share of 101 recalls."""
    return np.searchsorted(_RECALLS, recall, "right") / len(_RECALLS)


def voc_07_reached(recall: np.ndarray) -> np.ndarray:
    """VOC 2007: the share of 11 recalls."""
    return np.searchsorted(voc.RECALLS, recall, "right") / len(voc.RECALLS)


def voc_10_reached(recall: np.ndarray) -> np.ndarray:
    """VOC 2010 and later: an area, so the recall itself."""
    return recall


def average_precision(own: Outcomes, weights: np.ndarray, reached: Reached) -> np.ndarray:
    """AP ``(R, T)`` of a class where image i occurs ``weights[r, i]`` times (int32 ``(R, n)``); NaN
    where there is nothing to find."""
    times = np.take(weights, own.image, axis=1)  # (R, D)
    objects = _objects(own, weights)[:, None]
    values = np.empty((len(weights), len(own.true)))
    for t, (true, counted) in enumerate(zip(own.true, own.counted, strict=True)):
        found = np.cumsum(times[:, true], axis=1)  # (R, P)
        place = np.cumsum(counted)[true] - 1
        seen = np.cumsum(times[:, counted], axis=1, dtype=np.int32)[:, place]
        precision = found / np.maximum(seen, 1)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        steps = np.diff(reached(found / np.maximum(objects, 1)), axis=1, prepend=0)
        values[:, t] = (best * steps).sum(axis=1)
    return np.where(objects > 0, values, np.nan)


def recall(own: Outcomes, weights: np.ndarray, limit: int | None = None) -> np.ndarray:
    """The mean recall ``(R,)`` over the T thresholds with at most `limit` detections per image; NaN
    where there is nothing to find."""
    objects = _objects(own, weights)
    found = own.true if limit is None else own.true & (own.rank < limit)
    times = found.sum(axis=0)  # (D,): thresholds at which a detection is true
    some = np.flatnonzero(times)
    total = np.take(weights, own.image[some], axis=1) @ times[some]
    return np.where(objects > 0, total / np.maximum(objects, 1) / len(found), np.nan)


def _objects(own: Outcomes, weights: np.ndarray) -> np.ndarray:
    """``(R,)``: how many there are to find."""
    return np.take(weights, own.objects, axis=1).sum(axis=1)


def _metrics(annotations: Annotations) -> dict[str, _Metric]:
    """The metrics of this data by name, in the order in which they are printed."""
    every = np.ones(len(annotations.classes.names), bool)
    federated = annotations.federated
    names = coco.NAMES if federated is None else lvis.NAMES
    shared = [name for name in names if name not in _FREQUENCIES]
    columns = (*shared, *voc.NAMES) if annotations.voc else shared
    metrics = {
        name: _Metric(column, outcomes.area_of(name), every) for column, name in enumerate(columns)
    }
    if federated is not None:
        letters = np.array(federated.frequency)
        metrics |= {name: _Metric(0, 0, letters == f) for name, f in _FREQUENCIES.items()}
    return {name: metrics[name] for name in (*names, *voc.NAMES) if name in metrics}


def _differences(
    first: Detector, a: np.ndarray, b: np.ndarray, draws: np.ndarray, enough: np.ndarray
) -> Differences:
    """`draws` ``(R, N)``: the N differences in each resample; `a`, `b` and `enough` ``(N,)``."""
    found = []
    for column, values in enumerate(draws.T):
        known = values[~np.isnan(values)]  # a rare class can be in none of the images drawn
        interval = np.percentile(known, _INTERVAL) if enough[column] and known.size else ()
        found.append(Difference(_known(a[column]), _known(b[column]), *map(float, interval)))
    count = len(first.metrics)
    return Differences(
        dict(zip(first.metrics, found[:count], strict=True)),
        dict(zip(first.classes, found[count:], strict=True)),
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """``(R, K)`` to ``(R,)``: the mean over the classes in which it is defined."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
