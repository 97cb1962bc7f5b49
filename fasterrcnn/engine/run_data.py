"""The data of a run: both splits, and stored proposals for Fast R-CNN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fasterrcnn.data import (
    channels,
    formats,
    holdout,
    image_check,
    proposals,
    repeats,
    tiles,
    windows,
)
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.proposals import StoredProposals
from fasterrcnn.engine.bad_images import BadImages
from fasterrcnn.errors import DataError
from fasterrcnn.image_sizes import bucket_of, training_sizes
from fasterrcnn.progress import Progress
from fasterrcnn.recipes import Data, Input, Recipe


@dataclass(frozen=True)
class DataSource:
    """Where the data of a run is, and how it is read."""

    path: Path
    dataset: str  # a format of `formats.READERS`, or "auto"
    val_split: str  # "none": no evaluation
    val_fraction: float = 0.0  # of the training split, held out in place of `val_split`
    proposals: Path | None = None
    val_proposals: Path | None = None
    check_images: str | None = None  # a level of `image_check.find_damaged`


@dataclass
class RunData:
    """What rank 0 reads before the first step and sends to the others."""

    train: Annotations
    val: Annotations | None
    proposals: StoredProposals | None
    val_proposals: StoredProposals | None
    bad: BadImages
    input: Input  # of the recipe, with numbers for what the data decides

    def digest(self) -> str:
        """SHA-256 of everything that training depends on."""
        stored = f" {self.proposals.sha256}" if self.proposals else ""
        return self.train.digest() + stored

    def repeats(self, recipe: Recipe) -> np.ndarray | None:
        """`data.repeats.factors` of the training images; None if none is to be repeated."""
        threshold = recipe.data.repeat_threshold
        return repeats.factors(self.train, threshold) if threshold else None


def buckets(train: Annotations, recipe: Recipe) -> list[int]:
    """The padded shape of each training image, as its index in `image_sizes.buckets`."""
    sizes = training_sizes(recipe)
    few, which = np.unique(train.sizes, axis=0, return_inverse=True)
    shapes = np.array([bucket_of(h, w, sizes) for h, w in few.tolist()])
    return shapes[which.reshape(-1)].tolist()


def read_splits(
    source: DataSource,
    recipe: Recipe,
    problems: Problems,
    bad: BadImages,
    saved: Input | None = None,
) -> tuple[Annotations, Annotations | None, Input, list[str]]:
    """The training split, perhaps in tiles, and the validation split, checked, how they are read,
    and lines for the log.

    `saved`: the input of the run that is continued. Raises UsageError or DataError;
    `problems` collects the findings, `bad` the images that the run leaves out or replaces.
    """
    config = recipe.data
    problems.kept = bad.kept()
    every = formats.read(source.path, config.train_split, source.dataset, (), problems)
    known = every.classes.names  # left out only because the user asked for it
    whole = every.with_classes(every.classes.subset(config.classes or known))
    val = None
    if source.val_fraction:
        whole, val = holdout.hold_out(whole, source.val_fraction, source.path)
    elif source.val_split != "none":
        val = formats.read(
            source.path, source.val_split, source.dataset, whole.classes, problems, known=known
        )
    kept = whole if config.keep_empty else whole.select(whole.with_boxes())
    small = kept.sizes.min(axis=1) < config.min_image_side
    train = kept.select(~small)
    if len(train) == 0:
        raise DataError(
            f"{source.path}: split {config.train_split}: 0 of {len(whole)} images have a box to "
            "train on"
        )
    train = bad.check(train, problems, source.check_images)
    val = val and image_check.check(val, problems, source.check_images)
    _note_untrained(train, problems)
    summary = [_count(source.path, train, val, left_out=len(whole) - len(kept))]
    if small.any():
        summary.append(
            f"data: {small.sum()} training images smaller than --data.min-image-side left out"
        )
    splits = [train, *([val] if val else [])]
    found, lines = channels.resolve(splits, recipe.input, saved)
    train = channels.of_run(train, found)
    val = val and channels.of_run(val, found)
    if config.tile:
        train, more = tiles.to_train_on(train, config, recipe.seed)
        lines += more
    if config.repeat_threshold:
        lines.append(repeats.describe(train, config.repeat_threshold))
    return train, val, found, [*summary, *lines]


def copy_for_tiles(
    train: Annotations,
    val: Annotations | None,
    config: Data,
    folder: Path,
    say: Callable[[str], None],
) -> tuple[Annotations, Annotations | None]:
    """Both splits, to be read from raw copies in `folder` where their files cannot be read in
    windows; copies that are missing are made. Raises StorageError."""
    train = replace(train, copies=str(folder))
    val = val and replace(val, copies=str(folder))
    missing = windows.missing_copies([train, *([tiles.of_recipe(val, config)] if val else [])])
    if count := len(missing.images):
        say(
            f"data: {count} images are decoded once, to raw copies of up to "
            f"{missing.size / 2**30:.3g} GiB in {folder} (--data.tile-cache FOLDER, or none to "
            "decode them for each tile)"
        )
        windows.make_copies(missing, Progress(count, "images", "copying"))
    return train, val


def _note_untrained(train: Annotations, problems: Problems) -> None:
    """Note the classes that the model has but will not learn."""
    counts = np.bincount(train.labels[train.trainable], minlength=train.classes.num_classes)
    crowds = np.bincount(train.labels[train.crowd], minlength=train.classes.num_classes)
    for name, count, crowd in zip(train.classes.names, counts[1:], crowds[1:], strict=True):
        if not count:
            what = "class without a box to train on" + (", only crowd boxes" if crowd else "")
            problems.note("training split", f"class {name}", int(crowd), what, "not learned")


def _count(path: Path, train: Annotations, val: Annotations | None, left_out: int) -> str:
    """One line: images, boxes and classes."""
    names = train.classes.names
    return (
        f"data: {path}: {len(train)} training images with {int(train.trainable.sum())} boxes "
        f"({left_out} images without boxes left out), "
        f"{len(val) if val else 'no'} validation images; "
        f"{len(names)} classes: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
    )


def read_proposals(
    source: DataSource, recipe: Recipe, train: Annotations, val: Annotations | None
) -> list[StoredProposals | None]:
    """The stored proposals of both splits, where the detector takes any; every image has some."""
    found = []
    for flag, path, images in (
        ("--proposals", source.proposals, train),
        ("--val-proposals", source.val_proposals, val),
    ):
        if images is not None or path is not None:
            proposals.check_given(flag, path, recipe.detector)
        stored = None if path is None else proposals.read(path)
        if stored is not None and images is not None:
            stored.aligned(images)
        found.append(stored)
    return found
