"""Names of splits: which of those that exist is meant, and what to say if none is."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fasterrcnn.errors import UsageError

_SAME = (
    {"train", "training"},
    {"val", "valid", "validation", "dev"},
    {"test", "testing"},
    {"trainval"},
)


def is_known(name: str) -> bool:
    """Whether `name` is what splits are usually called."""
    return any(name.casefold() in same for same in _SAME)


def are_splits(names: Collection[str]) -> bool:
    """Whether these folders are splits, not classes or cameras of which one is called "train"."""
    known = sum(map(is_known, names))
    return known == len(names) > 0 or known >= 2


def choose(root: Path, split: str, names: Collection[str]) -> str:
    """The one of `names` that `split` means; "" if there are none, where all is one set.

    One set is the training set: for another split it has to be divided. Raises UsageError.
    """
    if not names:
        if _meaning(split) == _meaning("train"):
            return ""
        raise UsageError(
            f"{root}: has no split {split}: everything in it is one set; add --val-fraction 0.1 "
            "to hold out a tenth of it, or --val-split none"
        )
    if split in names:
        return split
    same = [name for name in names if _meaning(name) == _meaning(split)]
    if len(same) == 1:
        return same[0]
    if same:
        raise UsageError(f"{root}: split {split} can be {' or '.join(same)}; say which one")
    raise UsageError(
        f"{root}: no split {split}; found: {', '.join(sorted(names))} (--train-split, --val-split)"
    )


def _meaning(name: str) -> str:
    """`name`, or the first of the names that mean the same."""
    folded = name.casefold()
    return next((min(same) for same in _SAME if folded in same), folded)
