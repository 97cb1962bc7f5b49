"""Names of splits: which of those that exist is meant, and what to say if none is."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from fasterrcnn.errors import UsageError

_SAME = (  # names of one split, the usual one first
    ("train", "training"),
    ("val", "valid", "validation", "dev"),
    ("test", "testing"),
    ("trainval",),
)
_MEANING = {name: same[0] for same in _SAME for name in same}
KNOWN = tuple(_MEANING)
USUAL = tuple(same[0] for same in _SAME)


def is_known(name: str) -> bool:
    """Whether `name` is what splits are usually called."""
    return name.casefold() in _MEANING


def split_in(name: str) -> str | None:
    """The usual name of the split that a file or folder is named after: ``Train2017``: "train"."""
    word = re.match(r"[a-z]*", name.casefold())
    return _MEANING.get(word.group()) if word else None


def first_folders(paths: Iterable[str]) -> list[str]:
    """The first folder of each path, sorted, if these are splits; else none."""
    names = {path.partition("/")[0] if "/" in path else "" for path in paths}
    return sorted(names - {""}) if are_splits(names) else []


def are_splits(names: Collection[str]) -> bool:
    """Whether these folders are splits, not classes or cameras of which one is called "train"."""
    known = sum(map(is_known, names))
    return known == len(names) > 0 or known >= 2


def choose(root: Path, split: str, names: Collection[str]) -> str:
    """The one of `names` that `split` means; "" if there are none, where all is one set.

    One set is the training set: for another split it has to be divided. Raises UsageError.
    """
    if not names:
        if meaning(split) == meaning("train"):
            return ""
        raise UsageError(missing(root, split, names))
    if split in names:
        return split
    same = [name for name in names if meaning(name) == meaning(split)]
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
    if meaning(split) == meaning("val"):
        return f"{found}; {advice.replace('of it', 'of the training split')}"
    return found


def aliases(split: str) -> tuple[str, ...]:
    """The usual names that mean the same as `split`, itself among them; in lower case."""
    return next((same for same in _SAME if split.casefold() in same), (split.casefold(),))


def meaning(name: str) -> str:
    """The usual one of the names that mean the same as `name`."""
    return aliases(name)[0]
