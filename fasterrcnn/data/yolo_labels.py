"""Where the label files of a YOLO data set are.

As in Ultralytics, that of ``a/images/b/x.jpg`` is ``a/labels/b/x.txt``: the last folder called
images decides. Where there is no such folder, or nothing in it, it is ``x.txt`` beside the image.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fasterrcnn.data import text
from fasterrcnn.data.image_files import files_in, is_image
from fasterrcnn.data.paths import composed, fold
from fasterrcnn.data.yolo_paths import Finder
from fasterrcnn.errors import DataError

_FEW = 20  # text files that are looked at to recognize a folder, which may hold captions
_LABELS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}


class _Folder(NamedTuple):
    labels: Path
    files: dict[str, str]  # name without suffix -> label file in there


class Labels:
    """The label files of images; `names`: relative to the root, or absolute."""

    def __init__(self, finder: Finder, names: Sequence[str]) -> None:
        self._finder = finder
        self._images: dict[str, Counter[str]] = {}  # folder with images -> names without suffix
        for name in names:
            folder, stem = _split(name)
            self._images.setdefault(folder, Counter())[stem] += 1
        self._folders = {folder: self._choose(folder, own) for folder, own in self._images.items()}

    def path(self, name: str) -> Path:
        """Where the label file of an image is, or would be."""
        folder, stem = _split(name)
        own = self._folders[folder]
        return own.labels / own.files.get(stem, f"{stem}.txt")

    def exists(self, name: str) -> bool:
        """Whether an image has a label file."""
        folder, stem = _split(name)
        return stem in self._folders[folder].files

    def is_shared(self, name: str) -> bool:
        """Whether another image (``x.png`` beside ``x.jpg``) has the same label file."""
        folder, stem = _split(name)
        return self._images[folder][stem] > 1 and self.exists(name)

    def folders(self) -> list[Path]:
        """The folders that can hold a list of classes: those of labels and images, and those that
        they lie in below the root."""
        root = self._finder.root
        used = [p for images, own in self._folders.items() for p in (own.labels, root / images)]
        above = [path for folder in used for path in (folder, *folder.parents)]
        return list(dict.fromkeys(path for path in above if root in path.parents))

    def without_image(self) -> Iterator[Path]:
        """Label files that belong to no image, in the folders that are used."""
        seen = set()
        stems: dict[Path, set[str]] = {}
        own_stems = {self._finder.root / name: {*own} for name, own in self._images.items()}
        for name, own in self._folders.items():
            images = self._finder.root / name
            beside = own.labels == images
            files = sorted(own.files.values()) if beside else files_in(own.labels, ".txt")
            for path, folder in ((own.labels / f, (images / f).parent) for f in files):
                if folder not in stems:
                    others = self._finder.names(folder)
                    stems[folder] = {_stem(n) for n in others if not _is_text(n)}
                    stems[folder] |= own_stems.get(folder, set())  # of files that are gone, too
                if path not in seen and _stem(path.name) not in stems[folder] and holds_rows(path):
                    yield path
                seen.add(path)

    def _choose(self, images: str, stems: Iterable[str]) -> _Folder:
        """The folder of the labels of the images in folder `images`."""
        places = [self._mapped(images), self._finder.root / images]
        folders = [
            _Folder(path, {_stem(n): n for n in self._finder.names(path) if _is_text(n)})
            for path in places
            if path is not None
        ]
        used = [f for f in folders if any(stem in f.files for stem in stems)]
        return (used or folders)[0]

    def _mapped(self, images: str) -> Path | None:
        """``a/images/b`` -> ``a/labels/b``; None without a folder called images."""
        parts = images.split("/")
        places = [k for k, part in enumerate(parts) if fold(part) == "images"]
        if not places:
            return None
        last = places[-1]
        start = self._finder.root / "/".join([*parts[:last], ""])
        labels = "/".join([_LABELS.get(parts[last], "labels"), *parts[last + 1 :]])
        return self._finder.below(start, labels) or start / labels


def is_beside_image(finder: Finder, folder: Path) -> bool:
    """Whether a folder holds an image with its label file beside it."""
    names = finder.names(folder)
    texts = [name for name in names if _is_text(name)]
    stems = {_stem(name) for name in names if is_image(name)} if texts else set()
    beside = (folder / name for name in texts if _stem(name) in stems)
    return any(map(holds_rows, itertools.islice(beside, _FEW)))


def holds_rows(path: Path) -> bool:
    """Whether a text file is empty or begins like a label file: not a list or a note."""
    try:
        lines = text.lines(path)
    except (DataError, FileNotFoundError):
        return False
    fields = lines[0][1].split() if lines else []
    try:
        return not fields or len([float(field) for field in fields]) >= 5
    except ValueError:
        return False


def _split(name: str) -> tuple[str, str]:
    """Folder of an image, and its name without suffix."""
    folder, _, file = name.rpartition("/")
    return folder, _stem(file)


def _stem(file: str) -> str:
    """A file name without its suffix; accents as one character."""
    return composed(file.rpartition(".")[0] or file)


def _is_text(file: str) -> bool:
    return file.lower().endswith(".txt")
