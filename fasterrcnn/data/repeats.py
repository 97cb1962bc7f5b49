"""How often an image occurs in an epoch: more than once if a class that it shows is rare.

Repeat factor sampling of Gupta et al., "LVIS" (arXiv:1908.03195v2, 2019), appendix B.2. `sampler`
decides where in the epoch the copies are. n images, K classes.
"""

from __future__ import annotations

import math

import numpy as np

from fasterrcnn.data.annotations import Annotations

_NAMED = 3  # classes in the log


def factors(data: Annotations, threshold: float) -> np.ndarray:
    """float64 ``(n,)``, at least 1: the mean number of times that an image occurs in an epoch.

    It is the largest ``max(1, sqrt(threshold / f))`` of the classes that the image has a box to
    train on of; f is the fraction of the images that have one. Images without boxes have 1.
    """
    images, labels = _shown(data)
    found = np.ones(len(data))
    np.maximum.at(found, images, _of_classes(data, labels, threshold)[labels])
    return found


def describe(data: Annotations, threshold: float) -> str:
    """One line for the log: which classes are repeated most."""
    _, labels = _shown(data)
    by_class, counts = _of_classes(data, labels, threshold), np.bincount(labels)
    rare = [int(k) for k in np.argsort(-by_class, kind="stable") if by_class[k] > 1]
    if not rare:
        return (
            f"data: no class is in less than {threshold:g} of the images: nothing is repeated "
            "(--data.repeat-threshold)"
        )
    most = ", ".join(
        f"{data.classes.names[k - 1]} {by_class[k]:.2f} x ({counts[k]} of {len(data)} images)"
        for k in rare[:_NAMED]
    )
    return (
        f"data: images of {len(rare)} of {len(data.classes.names)} classes are repeated, most "
        f"often {most}; an epoch has about {factors(data, threshold).sum():.0f} images"
    )


def number_of_copies(extra: np.ndarray) -> int:
    """The number of copies to draw for images of which image i should get ``extra[i]`` on average:
    their sum, rounded, so that every epoch draws as many."""
    return math.floor(math.fsum(extra) + 0.5)


def draw_copies(extra: np.ndarray, number: int, start: float) -> np.ndarray:
    """Systematic sampling: how many of `number` copies each image gets, int64 ``(len(extra),)``.

    With e, `extra` scaled to the sum `number`, an image gets floor(e) or ceil(e) copies, and e on
    average over `start`, uniform in [0, 1).
    """
    ends = np.cumsum(extra)
    points = (np.arange(number) + start) / number * ends[-1]
    points = np.minimum(points, np.nextafter(ends[-1], 0))  # a `start` near 1 can round to 1
    return np.bincount(np.searchsorted(ends, points, side="right"), minlength=len(extra))


def _shown(data: Annotations) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, int64 ``(pairs,)`` each: every class once per image with a box of it."""
    owner = data.owners()[data.trainable]
    pairs = np.unique(owner * data.classes.num_classes + data.labels[data.trainable])
    return np.divmod(pairs, data.classes.num_classes)


def _of_classes(data: Annotations, labels: np.ndarray, threshold: float) -> np.ndarray:
    """float64 ``(K + 1,)`` by label, at least 1; 1 for a class that no image has. `labels`: as from
    `_shown`."""
    counts = np.bincount(labels, minlength=data.classes.num_classes)
    fraction = counts / len(data)
    wanted = np.sqrt(np.divide(threshold, fraction, out=np.zeros(len(counts)), where=counts > 0))
    return np.maximum(wanted, 1.0)
