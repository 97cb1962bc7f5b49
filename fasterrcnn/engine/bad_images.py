"""Training images whose files are damaged: left out before a run's first step, replaced after it.

Of a file that goes bad, all tiles are replaced.

The plan of a run is a function of its list of images. So an image that goes bad later keeps its
place in the list, and the loader puts another one there (`data.stand_ins`). Both kinds are part of
the run: its checkpoints hold them, and a run that is continued treats them as before, even if their
files were repaired.

Images whose file is missing or whose header cannot be read never get here: they are dropped when
the annotations are read. One that comes or goes in that way between two commands changes the list
of images, and `resume` refuses to continue.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fasterrcnn.data import image_check
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.images import Header
from fasterrcnn.data.loader import Batch
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine.checkpoint import State
from fasterrcnn.errors import DataError


class Replaced(NamedTuple):
    """What a run knows of an image whose file may be gone."""

    file: str  # relative to the folder of the data set
    height: int  # of the image the boxes refer to (px)
    width: int
    rotate: bool


@dataclass
class BadImages:
    """The bad training images of a run, by image id."""

    root: Path  # folder of the data set
    begun: bool  # whether the run has a checkpoint
    skip: bool  # whether damaged images are left out or replaced, or stop the run
    left_out: list[str] = field(default_factory=list)
    replaced: dict[str, Replaced] = field(default_factory=dict)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds, for `load`; it changes as images are added."""
        return {"left_out": self.left_out, "replaced": self.replaced}

    def kept(self) -> dict[str, Header]:
        """The headers, by absolute path, that the files of replaced images had."""
        return {
            os.path.abspath(self.root / item.file): Header(  # noqa: PTH100
                item.height, item.width, 3 if item.rotate else 1, depth=0, bands=0
            )
            for item in self.replaced.values()
        }

    def positions(self, train: Annotations) -> list[int]:
        """Where the replaced images are."""
        replaced, ids = self.replaced, train.file_ids
        return [i for i, id in enumerate(ids) if id in replaced] if replaced else []

    def check(self, train: Annotations, problems: Problems, level: str | None) -> Annotations:
        """The training images that are not left out, after `image_check.find_damaged`.

        Raises DataError for faults, and if no image is left.
        """
        damaged = image_check.find_damaged(train, problems, level)
        left_out = {*self.left_out}
        for i, phrase in damaged.items():
            id = train.ids[i]
            if id in self.replaced or (self.begun and self.skip and id not in left_out):
                self._replace(train, i, phrase, problems)
            else:
                problems.fault(*image_check.place_of(train, i), phrase)
                left_out.add(id)
        problems.stop_if_any()
        self.left_out = sorted(left_out)
        kept = np.ones(len(train), bool)
        if left_out or self.replaced:
            for i, id in enumerate(train.ids):
                kept[i] = id not in left_out
                if i not in damaged and (id in self.replaced or not kept[i]):
                    action = "still replaced" if kept[i] else "still left out"
                    what = "image that was damaged earlier in this run"
                    problems.note(*image_check.place_of(train, i), what, action)
        if not kept.any():
            raise DataError(f"{self.root}: none of {len(train)} training images can be decoded")
        return train if kept.all() else train.select(kept)

    def new(self, train: Annotations, batches: Iterable[Batch]) -> dict[int, str]:
        """Images that the batches had to replace for the first time, by position, and why."""
        damaged = (item for batch in batches for item in batch.damaged)
        return {i: phrase for i, phrase in damaged if train.file_ids[i] not in self.replaced}

    def replace(
        self, train: Annotations, damaged: dict[int, str], listed: Path | None
    ) -> list[str]:
        """Images to be replaced from now on, by position, and why; lines for the log.

        `listed`: the file to add them to.
        """
        problems = Problems()
        for i, phrase in damaged.items():
            if train.file_ids[i] not in self.replaced:
                self._replace(train, i, phrase, problems)
        if listed is not None:
            problems.write(listed, append=True)
        return [f"data: {problem}; {problem.action}" for problem in problems.found]

    def _replace(self, train: Annotations, i: int, phrase: str, problems: Problems) -> None:
        file = os.path.relpath(train.path(i), self.root)
        height, width = train.file_sizes[i].tolist()
        self.replaced[train.file_ids[i]] = Replaced(file, height, width, bool(train.rotate[i]))
        problems.note(*image_check.place_of(train, i), phrase, "replaced by another image")


def load(root: Path, state: State | None, *, skip: bool) -> BadImages:
    """The bad images of the run that is continued from `state`; None: of a new run."""
    known = {} if state is None else state.data.get("bad_images", {})
    replaced = {id: Replaced(*item) for id, item in known.get("replaced", {}).items()}
    return BadImages(root, state is not None, skip, list(known.get("left_out", [])), replaced)
