"""A recipe of the zoo and its label: where it comes from, how to run it, what to expect of it.

Published numbers are quoted, never measured here; what was measured here stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fasterrcnn.recipes.changes import change
from fasterrcnn.recipes.fields import Recipe


@dataclass(frozen=True)
class Published:
    """What the authors report."""

    value: float | None  # in percent: COCO's box AP, AR_1000 of an RPN; None: see `other`
    by: str  # whose number it is, and the hardware it was trained on
    memory_gb: float | None = None  # of one GPU in training
    fps: float | None = None  # images per second at batch 1
    other: str = ""  # a number of another metric, in words


@dataclass(frozen=True)
class Entry:
    """A recipe of the zoo and its label."""

    make: Callable[[], Recipe]
    what: str  # network, data, length
    schedule: str  # as its source calls it: 1x, ms-3x
    source: str  # the paper or the file that it reproduces
    framework: str = ""  # torchvision, mmdetection or detectron2; "" for a recipe of our own
    theirs: str = ""  # what the framework calls it: a config file or a builder function
    published: Published | None = None
    measured: str = "not yet measured"

    @property
    def style(self) -> str:
        """Where the body's stages stride: caffe or pytorch."""
        return "caffe" if self.make().backbone.stride_in_1x1 else "pytorch"

    @property
    def metric(self) -> str:
        """What `Published.value` is."""
        return "AR_1000" if self.make().detector == "rpn" else "box AP"

    @property
    def command(self) -> str:
        """What a user types to run it."""
        recipe = self.make()
        needs = " --data-path DIR"
        if recipe.weights == "":
            needs += " --weights RUN"
        if recipe.detector == "fast_rcnn":
            needs += " --proposals FILE"
        return f"fasterrcnn train --recipe {recipe.name}{needs}"

    @property
    def names_of_source(self) -> tuple[str, ...]:
        """`theirs` without folder and suffix; of an MMDetection config also as 2.x spells it."""
        stem = PurePosixPath(self.theirs).stem
        if self.framework != "mmdetection":
            return (stem,) if stem else ()
        network, coco, subset = stem.partition("_coco")
        network = network.replace("-", "_").replace("_ms_", "_mstrain_")
        return (stem, f"{network}{coco}{subset}") if stem else ()

    def label(self) -> str:
        """What it is, whose, how to run it, what is published and what was measured here."""
        return (
            f"{self.what}\n"
            f"Source: {self.source}.\n"
            f"Run: {self.command}\n"
            f"Published: {self._quoted()}.\n"
            f"Here: {self.measured}."
        )

    def _quoted(self) -> str:
        p = self.published
        if p is None:
            return "nothing"
        number = p.other if p.value is None else f"{self.metric} {p.value:g}"
        memory = f", {p.memory_gb:g} GB per GPU" if p.memory_gb else ""
        fps = f", {p.fps:g} images/s at batch 1" if p.fps else ""
        return f"{number} ({p.by}{memory}{fps})"


def combined(name: str, *parts: dict[str, Any]) -> Recipe:
    """The fields' defaults, changed by each part in turn."""
    recipe = Recipe(name=name)
    for part in parts:
        recipe = change(recipe, **part)
    return recipe
