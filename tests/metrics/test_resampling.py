"""Metrics of resamples are those of the metric on the drawn images; intervals do what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn.data import formats
from fasterrcnn.data.annotations import Annotations, Classes, Strings
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine.evaluation import detector_metrics
from fasterrcnn.metrics import resampling
from fasterrcnn.metrics.resampling import Detector
from tests.data import make
from tests.metrics.test_coco import detections
from tests.metrics.test_lvis import as_in_lvis

KINDS = ("coco", "voc", "lvis")


@pytest.fixture(scope="module")
def splits(coco_tiny: Path, bccd_voc: Path) -> dict[str, Annotations]:
    """Real boxes, some of them crowds or difficult."""
    val = formats.read(coco_tiny, "val", "auto", (), Problems())
    cells = formats.read(bccd_voc, "test", "voc", (), Problems())
    assert val.crowd.any() and not val.voc and cells.voc
    difficult = np.arange(len(cells.crowd)) % 7 == 0
    return {
        "coco": val,
        "voc": replace(cells, crowd=difficult),
        "lvis": as_in_lvis(val, 0),
    }


def some(data: Annotations) -> np.ndarray:
    return detections(data, 0, per_box=3, noise=5.0, decimals=6)


def expected(data: Annotations, found: np.ndarray) -> list[float]:
    """The metrics, then the AP of each class, as the evaluation has them."""
    results = detector_metrics(data, found)
    names = Detector(data, found).metrics
    values = [results[name] for name in names]
    values += [results["per_class"][name]["AP"] for name in data.classes.names]
    return [np.nan if value is None else value for value in values]


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_split_has_the_metrics_of_an_evaluation(splits, kind: str):
    data = splits[kind]
    detector = Detector(data, some(data))
    assert set(detector.metrics) <= set(detector_metrics(data, some(data)))
    assert ("mAP_10" in detector.metrics, "AP_rare" in detector.metrics) == (
        kind == "voc", kind == "lvis"
    )  # fmt: skip
    (values,) = detector.measure(np.ones((1, len(data)), np.int32))
    assert values == pytest.approx(expected(data, some(data)), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resample_has_the_metrics_of_the_repeated_images(splits, kind: str):
    """Each image as often as it was drawn, with its detections, as images of their own."""
    data = splits[kind]
    found = some(data)
    weights = resampling.resamples(len(data), range(3))
    measured = Detector(data, found).measure(weights)
    for values, times in zip(measured, weights, strict=True):
        drawn = np.repeat(np.arange(len(data)), times)
        repeated = [found[found[:, 0] == i] for i in drawn]
        rows = [np.column_stack([np.full(len(r), k), r[:, 1:]]) for k, r in enumerate(repeated)]
        again = expected(data.take(drawn), np.concatenate(rows))
        assert values == pytest.approx(again, abs=1e-12, nan_ok=True)
        assert np.isnan(values).any() or kind == "voc", "a class is in no image drawn"


def test_images_with_objects_are_found_in_every_part(monkeypatch, splits):
    """Images are matched in parts."""
    data = splits["coco"]
    whole = Detector(data, some(data))
    monkeypatch.setattr(resampling.outcomes, "_AT_ONCE", 7)
    parts = Detector(data, some(data))
    weights = resampling.resamples(len(data), range(2))
    assert np.array_equal(whole.measure(weights), parts.measure(weights), equal_nan=True)
    every = data.with_boxes().sum()
    images = dict(zip(whole.metrics, whole.images_with_objects(), strict=False))
    assert images["AP"] == images["AR_1"] == every
    assert 0 < images["AP_small"] == images["AR_small"] < every


def test_resamples_are_draws_with_repeats_and_always_the_same():
    weights = resampling.resamples(1000, range(50))
    assert (weights.sum(axis=1) == 1000).all()
    assert 0.35 < (weights == 0).mean() < 0.38  # 1 / e
    assert (weights[20:30] == resampling.resamples(1000, range(20, 30))).all()
    assert len({row.tobytes() for row in weights}) == 50


def test_without_detections_or_objects():
    data = make.annotations_of([[(0, 0, 10, 10)], []])
    none = np.zeros((0, 7))
    (values,) = Detector(data, none).measure(np.ones((1, 2), np.int32))
    names = (*Detector(data, none).metrics, "thing")
    assert values[names.index("AP")] == values[names.index("AR_100")] == values[-1] == 0
    assert np.isnan(values[names.index("AP_large")])
    (values,) = Detector(data, none).measure(np.array([[0, 2]], np.int32))
    assert np.isnan(values).all(), "only the image without objects was drawn"


# Differences


def test_a_detector_and_itself(splits):
    data = splits["voc"]
    (found,) = resampling.compare([Detector(data, some(data)), Detector(data, some(data))], 100)
    every = [*found.metrics.values(), *found.per_class.values()]
    known = [one for one in every if one.low is not None]
    assert len(known) > 10
    assert {(one.difference, one.low, one.high) for one in known} == {(0, 0, 0)}
    assert not any(one.more_than_noise for one in every)


def test_moved_boxes_are_worse(splits):
    """By a tenth of their width: an IoU of 0.82 with where they were."""
    data = splits["voc"]
    good = detections(data, 0, per_box=1, noise=1.0, decimals=6)
    moved = good.copy()
    moved[:, 1] += 0.1 * moved[:, 3]
    first, second, third = (Detector(data, found) for found in (good, moved, good))
    worse, same = resampling.compare([first, second, third], 200)
    ap = worse.metrics["AP"]
    assert ap.more_than_noise and ap.low < ap.difference < ap.high < 0
    assert ap.first == same.metrics["AP"].first == same.metrics["AP"].other > ap.other
    by_voc = detector_metrics(data, good)["mAP_10"]
    assert worse.metrics["mAP_10"].first == pytest.approx(by_voc, abs=1e-12)
    (better,) = resampling.compare([second, first], 200)
    ends = (better.metrics["AP"].low, better.metrics["AP"].high)
    assert ends == pytest.approx((-ap.high, -ap.low), abs=1e-12)


def test_a_class_in_few_images_has_no_interval():
    """Its difference would be the same in every resample, and so would never seem to be noise."""
    count = resampling.MIN_IMAGES
    data = make.annotations_of([[(0, 0, 50, 50), (100, 100, 50, 50)]] * count)
    labels = np.tile([1, 2], count)
    labels[1] = 1
    data = replace(data, labels=labels, classes=Classes(("every", "all but one"), (1, 2)))
    owner = np.repeat(np.arange(count), 2)
    scores = np.linspace(0.9, 0.1, len(labels))
    right = np.column_stack([owner, data.xywh, scores, labels])
    wrong = np.column_stack([owner, data.xywh + 200, scores, labels])
    (found,) = resampling.compare([Detector(data, right), Detector(data, wrong)], 100)
    assert found.per_class["every"].more_than_noise
    few = found.per_class["all but one"]
    assert (few.difference, few.low, few.high) == (pytest.approx(-1), None, None)
    assert not few.more_than_noise
    assert found.metrics["AP_small"].difference is None


# Coverage: detectors that differ by chance alone


def population(random: np.random.Generator, images: int, shares: list[float]) -> Annotations:
    """Images with objects of each class in a share of them."""
    present = random.random((images, len(shares))) < shares
    counts = np.where(present, 1 + random.poisson(1.0, present.shape), 0)
    labels = np.repeat(np.tile(np.arange(1, len(shares) + 1), images), counts.ravel())
    total = len(labels)
    sides = np.exp(random.normal(4, 0.6, (total, 2))).clip(8, 200)
    names = Strings(str(i) for i in range(images))
    return replace(
        make.annotations_of([]),
        ids=names,
        files=names,
        sizes=np.full((images, 2), 640, np.int32),
        rotate=np.zeros(images, bool),
        seen=np.zeros(images, np.uint8),
        first=np.cumsum([0, *counts.sum(axis=1)]),
        xywh=np.column_stack([random.random((total, 2)) * 400, sides]),
        labels=labels,
        area=sides.prod(axis=1),
        crowd=np.zeros(total, bool),
        trainable=np.ones(total, bool),
        classes=Classes(tuple(f"in {s:.0%}" for s in shares), tuple(range(1, len(shares) + 1))),
    )


def detect(random: np.random.Generator, data: Annotations, hard: np.ndarray) -> np.ndarray:
    """What a detector that misses more, fits worse and is less sure in hard images finds there."""
    owner = data.owners()
    total, much = len(owner), hard[owner]
    seen = random.random(total) < 1 / (1 + np.exp(much - 1.5))
    noise = random.normal(0, 0.07, (total, 4)) * np.exp(much / 3)[:, None]
    boxes = abs(data.xywh + noise * np.tile(data.xywh[:, 2:], 2))
    scores = 1 / (1 + np.exp(random.normal(much - 1.5, 1)))
    right = np.column_stack([owner, boxes, scores, data.labels])[seen]
    images = np.repeat(np.arange(len(data)), random.poisson(1.5 * np.exp(hard / 2)))
    false = len(images)
    places = (random.random((false, 2)) * 400, np.exp(random.normal(4, 0.6, (false, 2))))
    scores = 1 / (1 + np.exp(random.normal(1, 1.2, false)))
    labels = random.integers(1, data.classes.num_classes, false)
    return np.concatenate([right, np.column_stack([images, *places, scores, labels])])


PAIRS = 200


@pytest.mark.slow
def test_intervals_contain_the_true_difference():
    """Two realizations of one detector's noise differ by 0 in truth; each pair has 400 images of
    its own.

        pytest -m slow -s tests/metrics/test_resampling.py

    prints how many intervals contain 0, for each metric, and for classes by the share of images
    that they are in.
    """
    shares = [1, 0.5, 0.25, 0.1, 0.05]
    contained: dict[str, list[bool]] = {}
    for seed in range(PAIRS):
        random = np.random.default_rng(seed)
        data = population(random, 400, shares)
        hard = random.normal(0, 1, len(data))
        pair = [Detector(data, detect(random, data, hard)) for _ in range(2)]
        (found,) = resampling.compare(pair, 400)
        for name, one in (found.metrics | found.per_class).items():
            if one.low is not None:
                contained.setdefault(name, []).append(not one.more_than_noise)
    contained["all metrics"] = [one for name in found.metrics for one in contained[name]]
    contained["all classes"] = [one for name in found.per_class for one in contained[name]]
    for name, inside in contained.items():
        print(f"{name}: {np.mean(inside):.1%} of {len(inside)}")
    assert len(contained["AP"]) == PAIRS
    assert len(contained["all classes"]) > 4 * PAIRS
    for name in ("AP", "all metrics", "all classes"):
        assert 0.9 <= np.mean(contained[name]) <= 0.99, name
