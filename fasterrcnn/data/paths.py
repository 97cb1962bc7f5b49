"""Paths and names of files, as tools of any system write them, and looked at without errors."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

_ROBOFLOW = re.compile(r"\.rf\.[0-9A-Za-z]+(?=\.[^.]+$)")  # of dog_jpg.rf.0a1b2c.jpg


def composed(name: str) -> str:
    """`name` with every accent and its letter as one character; macOS writes two."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def fold(name: str) -> str:
    """`name` without what spellings of one file name differ in: accents, upper and lower case."""
    return name.lower() if name.isascii() else composed(name).casefold()


def parts(path: str) -> list[str]:
    """The folders and the file of a path of any system, without ``.`` and what leads up to ``..``.

    So the parts never leave the folder that they are joined to.
    """
    found = [part for part in re.split(r"[/\\]", path) if part not in ("", ".")]
    return found[len(found) - found[::-1].index("..") :] if ".." in found else found


def without_hash(file: str) -> str:
    """`file` without what Roboflow adds to the names of the copies it makes, in each export anew:
    of ``dog_jpg.rf.0a1b2c.jpg`` ``dog_jpg.jpg``."""
    return _ROBOFLOW.sub("", file)


def is_file(path: Path | os.DirEntry[str]) -> bool:
    """Whether this is a file; False in a folder that may not be entered."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path | os.DirEntry[str]) -> bool:
    """Whether this is a folder; False in a folder that may not be entered."""
    try:
        return path.is_dir()
    except OSError:
        return False


def names_in(folder: Path | str) -> list[str]:
    """The names in a folder, in no order; none if it cannot be listed."""
    try:
        return os.listdir(folder)  # noqa: PTH208 # Paths take ten times as long
    except (OSError, ValueError):  # no folder, may not be entered, or no path at all
        return []


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted; none if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / e.name for e in entries if e.name[0] != "." and is_folder(e))
    except OSError:
        return []
