"""Finds files and folders that a YOLO data set names, also as another machine saw them.

A path is taken as it is written wherever that exists. Only a path of another place (absolute, of
Windows, or with leading ``..``) is looked for by its end: Roboflow writes ``../train/images`` for
``train/images``, Colab ``/content/NAME/train/images``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from fasterrcnn.data import paths
from fasterrcnn.data.paths import fold
from fasterrcnn.data.split_names import split_in


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; False for what cannot be a path, too."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for the system, or with a zero byte
        return False


def is_foreign(path: str) -> bool:
    """Whether a path is written as seen from another place than the data set."""
    return re.match(r"[/\\~]|[A-Za-z]:[/\\]|\.\.([/\\]|$)", path) is not None


def short(text: str) -> str:
    """A text of the user's in a message."""
    return text if len(text) <= 80 else f"{text[:77]}..."


class Finder:
    """Finds paths below, or named by, the data set in `root`. Folders are listed once."""

    def __init__(self, root: Path) -> None:
        self.root = _absolute(root)
        self._real_root = root.resolve()
        self._names: dict[Path, list[str]] = {}
        self._folded: dict[Path, dict[str, list[str]]] = {}

    def names(self, folder: Path) -> list[str]:
        """The sorted names in a folder; none if it cannot be listed."""
        if folder not in self._names:
            self._names[folder] = sorted(paths.names_in(folder))
        return self._names[folder]

    def alike(self, folder: Path, name: str) -> list[Path]:
        """What a folder holds that is called `name`, in upper or lower case."""
        if folder not in self._folded:
            table = self._folded[folder] = {}
            for other in self.names(folder):
                table.setdefault(fold(other), []).append(other)
        return [folder / other for other in self._folded[folder].get(fold(name), [])]

    def below(self, folder: Path, path: str) -> Path | None:
        """``folder/path`` if it exists, also in another case; None if several differ in case."""
        found = folder / path
        if exists(found):
            return found
        found = folder
        for part in path.split("/"):
            inside = found / part
            if not exists(inside):
                alike = self.alike(found, part)
                if len(alike) != 1:
                    return None
                inside = alike[0]
            found = inside
        return found if exists(found) else None  # False for a link to nothing

    def find(self, path: str, folders: Iterable[Path]) -> Path | None:
        """What `path` names as it is written: absolute, or in the first of `folders` that has
        it."""
        path = os.path.expanduser(path)  # noqa: PTH111 # Path's fails where there is no home
        for text in dict.fromkeys((path, path.replace("\\", "/"))):  # a name may have a backslash
            if text.startswith("/"):
                return Path(text) if exists(Path(text)) else None
            for folder in folders:
                if found := self.below(folder, text):
                    return found
        return None

    def find_moved(self, path: str) -> tuple[Path, list[str]] | None:
        """What a path of another machine names below the root, and the first parts of the path,
        which stood for the root there; None if nothing does.

        The longest end of the path that exists is taken, unless that would lose the split that the
        path names.
        """
        parts = paths.parts(path)
        for k in range(len(parts)):
            if self._is_root(path, parts[:k], parts[k:]):
                found = self.below(self.root, "/".join(parts[k:]))
                if found is not None:
                    return found, parts[:k]
        return None

    def _is_root(self, path: str, dropped: Sequence[str], kept: Sequence[str]) -> bool:
        """Whether `dropped` can be what another machine called the root."""
        if not dropped:
            return is_foreign(path)
        if fold(dropped[-1]) == fold(self.root.name):
            return True
        if not is_foreign(path) and dropped[-1] != "data":  # darknet's name of the folder
            return False
        return not any(map(split_in, dropped)) or any(map(split_in, kept))

    def is_inside(self, folder: Path) -> bool:
        """Whether the root lies in `folder` and is not that folder itself."""
        return folder.resolve() in self._real_root.parents

    def name(self, path: Path) -> str:
        """An existing path as it is kept: relative to the root, with slashes ("" for the root), or
        absolute if it lies outside. Links are not resolved: labels are found by the written
        path."""
        written = _absolute(path)
        if ".." in path.parts and not (exists(written) and written.samefile(path)):
            written = path.resolve()  # folder/../x is not x where folder is a symbolic link
        for root in (self.root, self._real_root):
            if written.is_relative_to(root):
                return "" if written == root else written.relative_to(root).as_posix()
        return str(written)


def _absolute(path: Path) -> Path:
    """An absolute path without ``..``, symbolic links unresolved."""
    return Path(os.path.normpath(path.absolute()))
