"""Images that occur more than once: by content, and by name from split to split.

An image of the training split that is in the validation split too makes validation look better than
it is.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.paths import without_hash

_CHUNK = 1 << 20  # bytes
_BEGINNING = 1 << 14  # bytes in which two photos are sure to differ


@dataclass(frozen=True)
class Member:
    """One of several equal images."""

    split: str
    image: int  # position in the split
    file: str


class _File(NamedTuple):
    path: str
    size: int  # bytes
    inode: tuple[int, int]  # of hard links the same


@dataclass(frozen=True)
class Duplicates:
    """Groups of images that are equal."""

    within: list[list[Member]]  # the same content, in one split
    across: list[list[Member]]  # the same content, in several splits
    same_name: list[list[Member]]  # the same name but other content, in several splits


def find(
    splits: dict[str, Annotations],
    threads: int,
    shown: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, _: items,
) -> Duplicates:
    """The equal images of all splits.

    Of files with other sizes nothing is read, of those with other beginnings not the rest, of hard
    links only one. `shown` passes items on, given their number, while files are read: a progress
    bar.
    """
    members = [
        Member(name, i, data.files[i]) for name, data in splits.items() for i in range(len(data))
    ]
    files = {member: _stat(splits[member.split].path(member.image)) for member in members}
    content: dict[Member, Hashable] = {
        member: file.size for member, file in files.items() if file is not None
    }
    equal = _groups(members, content)
    with ThreadPoolExecutor(threads) as pool:
        for length in (_BEGINNING, None):
            unsure = {m: file for g in equal for m in g if (file := files[m]) is not None}
            unique = {file.inode: file for file in unsure.values()}
            digests = pool.map(partial(_digest, length=length), unique.values())
            of = dict(zip(unique, shown(digests, len(unique)), strict=True))
            content |= {member: of[file.inode] for member, file in unsure.items()}
            equal = [part for group in equal for part in _groups(group, content)]
    names = {member: original_name(member.file) for member in members}
    return Duplicates(
        within=[group for group in equal if len({m.split for m in group}) < len(group)],
        across=[group for group in equal if _crosses(group)],
        same_name=[
            group
            for group in _groups(members, names)
            if _crosses(group) and len({content.get(m) for m in group}) > 1
        ],
    )


def original_name(file: str) -> str:
    """The name of the image that `file` is: without folders and without what Roboflow adds to the
    names of the copies it makes."""
    return without_hash(PurePosixPath(file).name)


def _groups(members: list[Member], value_of: Mapping[Member, Hashable]) -> list[list[Member]]:
    """Members of equal value, where there are several; None or no value is equal to none."""
    groups: dict[Hashable, list[Member]] = defaultdict(list)
    for member in members:
        if (value := value_of.get(member)) is not None:
            groups[value].append(member)
    return [group for group in groups.values() if len(group) > 1]


def _crosses(group: list[Member]) -> bool:
    return len({member.split for member in group}) > 1


def _stat(path: str) -> _File | None:
    """None for a file that is gone."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return _File(path, found.st_size, (found.st_dev, found.st_ino))


def _digest(file: _File, length: int | None) -> bytes | None:
    """SHA-256 of the first `length` bytes, or all; None if the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(file.path).open("rb") as opened:
            if length is not None:
                return hashlib.sha256(opened.read(length)).digest()
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return None
    return digest.digest()
