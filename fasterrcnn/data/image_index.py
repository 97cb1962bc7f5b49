"""Finds the image that an annotation file means, in folders that were listed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from fasterrcnn.data.image_files import images_in, is_image
from fasterrcnn.data.paths import composed, fold
from fasterrcnn.data.problems import Problems


class ImageIndex:
    """The images below some folders of a data set, by path and by name.

    `names`: all of them, relative to `root`, sorted within each folder. Files in image formats that
    are not read become notes of `problems`.
    """

    def __init__(self, root: Path, folders: Iterable[Path], problems: Problems) -> None:
        # path and name, with and without suffix
        self._paths: dict[str, list[str]] = defaultdict(list)
        self._stems: dict[str, list[str]] = defaultdict(list)
        self._names: dict[str, list[str]] = defaultdict(list)
        self._name_stems: dict[str, list[str]] = defaultdict(list)
        found = problems.fresh()
        for folder in folders:
            place = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
            for inner in images_in(folder, found):
                name, path = fold(PurePosixPath(inner).name), composed(inner)
                self._paths[path].append(place + inner)
                self._stems[_stem(path)].append(place + inner)
                self._names[name].append(place + inner)
                self._name_stems[_stem(name)].append(place + inner)
        problems.add_new(found)
        self.names = [name for own in self._paths.values() for name in own]

    def at(self, path: str) -> list[str]:
        """The images at `path` in the folders, which may lack its suffix; none, one, or several
        among which nothing decides."""
        path = composed(path)
        return self._paths.get(path) or self._stems.get(path, [])

    def called(self, path: str) -> list[str]:
        """The images of the same name as `path` in any sub-folder, in upper or lower case, with any
        suffix if none has this one; of several, those that share most folders with it."""
        name = fold(PurePosixPath(path).name)
        stem = _stem(name) if is_image(f"x{name}") else name
        found = self._names.get(name) or self._name_stems.get(name)
        found = found or self._name_stems.get(stem, [])
        shared = [_shared(path, image) for image in found]
        most = max(shared, default=0)
        return [image for image, n in zip(found, shared, strict=True) if n == most]


def file_name(written: str) -> str:
    """A path as some tool on some system wrote it, with slashes and without ``./``."""
    return written.strip().replace("\\", "/").removeprefix("./")


def _shared(path: str, image: str) -> int:
    """How many folders of `path` are folders of `image` too."""
    return len({*PurePosixPath(path).parts[:-1]} & {*PurePosixPath(image).parts[:-1]})


def _stem(path: str) -> str:
    return path.removesuffix(PurePosixPath(path).suffix)
