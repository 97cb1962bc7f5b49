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
        raise UsageError(missing(root, split, names))
    if split in names:
        return split
    same = [name for name in names if _meaning(name) == _meaning(split)]
    if len(same) == 1:
        return same[0]
    if same:
        raise UsageError(f"{root}: split {split} can be {' or '.join(same)}; say which one")
    raise UsageError(missing(root, split, names))


def missing(root: Path, split: str, names: Collection[str]) -> str:
    """What to say about a split that is not one of `names`, those that exist."""
    advice = "add --val-fraction 0.1 to hold out a tenth of it, or --val-split none"
    if not names:
        return f"{root}: has no split {split}: everything in it is one set; {advice}"
    found = (
        f"{root}: no split {split}; found: {', '.join(sorted(names))} (--train-split, --val-split)"
    )
    if _meaning(split) == _meaning("val"):
        return f"{found}; {advice.replace('of it', 'of the training split')}"
    return found


def aliases(split: str) -> frozenset[str]:
    """The usual names that mean the same as `split`, itself among them; in lower case."""
    folded = split.casefold()
    return next((frozenset(same) for same in _SAME if folded in same), frozenset({folded}))


def _meaning(name: str) -> str:
    """`name`, or the first of the names that mean the same."""
    return min(aliases(name))
