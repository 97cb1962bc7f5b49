"""Where the json file of a split and its images are, in the folders that tools export."""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from fasterrcnn.data import paths, split_names
from fasterrcnn.data.image_files import unsafe
from fasterrcnn.errors import UsageError

# Words of file names that say nothing about the split.
_NOISE = set(
    "instances instance annotations annotation coco bbox bboxes boxes json gt labels label dataset "
    "data objects detection detections result results export default lvis v".split()
)
_SPECIAL = re.compile(r"[/\\%:\0]|^\.*$")  # in a name that is more than that of a file
_FEW = 50  # json files that are looked at in a folder
_SNIFFED = 1 << 20  # bytes in which a COCO file shows what it is


def find_all(root: Path) -> list[Path]:
    """The COCO json files in `root` or a folder of it, or in ``annotations/<split>`` or the other
    way round; sorted.

    Files in a folder `annotations` are taken for one by their place, others by their first bytes.
    """
    return [
        path
        for path in sorted(_json_files(root, depth=2))
        if path.parent == root / "annotations"
        or (_is_of_root(path.relative_to(root).parts[:-1]) and _looks_like_coco(path))
    ]


def _is_of_root(folders: tuple[str, ...]) -> bool:
    """Whether a file in these folders belongs to the root, not to a data set in one of them."""
    others = [name for name in folders if name != "annotations"]
    return len(folders) < 2 or (len(others) == 1 and _says_split(others[0]))


def _json_files(folder: Path, depth: int) -> Iterator[Path]:
    """Json files in `folder` and, that many levels deep, in its folders.

    Of many in one folder, where another tool keeps one for each image, these are the few whose
    names fit a COCO file best.
    """
    try:
        with os.scandir(folder) as every:
            entries = [entry for entry in every if entry.name[0] != "."]
    except OSError:
        return
    names = [e.name for e in entries if e.name.endswith(".json") and paths.is_file(e)]
    names.sort(key=lambda name: (not _is_telling(name.removesuffix(".json")), name))
    yield from (folder / name for name in names[:_FEW])
    if depth:
        for entry in filter(paths.is_folder, entries):
            yield from _json_files(folder / entry.name, depth - 1)


def _looks_like_coco(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_SNIFFED).replace(b"\0", b"")  # as in UTF-16
    except OSError:
        return False
    has_images = b'"images"' in start and (b'"file_name"' in start or b'"coco_url"' in start)
    return has_images or (b'"annotations"' in start and b'"image_id"' in start)


def find(root: Path, split: str) -> Path:
    """The json file of `split`: a name, or the path of the file in `root`. Raises UsageError."""
    if split.endswith(".json") and paths.is_file(root / split):
        return root / split
    files = find_all(root)
    if not files:
        raise UsageError(f"{root}: no COCO annotations found (annotations/*.json)")
    named = _splits(root, files)
    if split == "train" and not named:
        return files[0]
    words = {*split_names.aliases(split)}
    exact = [path for path in files if split in (path.stem, *_names(root, path))]
    same = [
        path
        for path in files
        if any(_words(name) <= words and _words(name) for name in _names(root, path))
    ]
    if split_names.is_known(split):
        fits = exact + [path for path in same if path not in exact]
    else:
        fits = exact or same
    if not fits:
        raise UsageError(split_names.missing(root, split, named))
    if len(fits) > 1:
        shown = " or ".join(path.relative_to(root).as_posix() for path in sorted(fits))
        raise UsageError(
            f"{root}: split {split} can be {shown}; say which one by its path "
            "(--train-split, --val-split)"
        )
    return fits[0]


def _splits(root: Path, files: list[Path]) -> list[str]:
    """The names of the splits that have a file; none if all is one set without a name."""
    if len(files) == 1 and not _says_split(_name(root, files[0])):
        return []
    return sorted({_name(root, path) for path in files})


def _name(root: Path, path: Path) -> str:
    """What a json file is called in messages: the part of its path that says the split."""
    names = _names(root, path)
    return next((name for name in names if _says_split(name)), names[0])


def _names(root: Path, path: Path) -> list[str]:
    """The name of a json file and of the folder it is in, if these can say which split it is."""
    folder = path.parent.name if path.parent != root else ""
    return [path.stem.removeprefix("instances_"), *([folder] if _words(folder) else [])]


def _says_split(name: str) -> bool:
    return any(map(split_names.is_known, _words(name)))


def _is_telling(name: str) -> bool:
    """Whether a name has a word that those of COCO files have."""
    return bool(_words_of(name) & _NOISE) or _says_split(name)


def _words(name: str) -> set[str]:
    """The words of a name that may say which split it is."""
    return _words_of(name) - _NOISE


def _words_of(name: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", name.lower()))


class ImageFinder:
    """Finds the image files that a json file names, in the folders where tools put them.

    A name is tried as it is, with backslashes as slashes and decoded from a URL; then without its
    first folders, which name a place on another machine or repeat the folder of the split.
    """

    def __init__(self, root: Path, json_file: Path, split: str) -> None:
        stem = json_file.stem.removeprefix("instances_")
        names = dict.fromkeys((stem, split, *split_names.aliases(split)))
        candidates = [
            *(root / part / name for name in names for part in ("", "images")),
            json_file.parent,
            json_file.parent / "images",
            json_file.parent / "data",
            root / "images",
            root / "data",
            root,
        ]
        found = dict.fromkeys(path for path in candidates if paths.is_folder(path))
        self.folders = [str(path) for path in found]
        self._names_in = functools.cache(lambda folder: frozenset(paths.names_in(folder)))

    def find(self, name: str) -> tuple[str, str] | None:
        """The first folder with a file of this name, and its path in there; None if there is none.

        Folders are listed once: asking for every image in every folder takes minutes on a network.
        """
        for candidate in _spellings(name):
            inner, _, file = candidate.rpartition("/")
            for folder in self.folders:
                if file in self._names_in(f"{folder}/{inner}"):
                    return folder, candidate
        return None


def _spellings(name: str) -> Iterator[str]:
    """The relative paths that `name` may mean, the most literal first, with accents as they are
    written, as one character, and as two (macOS)."""
    for path in _places(name):
        yield path
        if not path.isascii():
            yield unicodedata.normalize("NFC", path)
            yield unicodedata.normalize("NFD", path)


def _places(name: str) -> Iterator[str]:
    """The relative paths that `name` may mean, spelled one way."""
    if not _SPECIAL.search(name):  # as nearly all are
        yield name
        return
    plain = [name, unquote(name)] if "%" in name else [name]
    for text in plain:
        if not unsafe(text):
            yield "/".join(part for part in text.split("/") if part not in ("", "."))
    for parts in map(paths.parts, plain):
        yield from ("/".join(parts[k:]) for k in range(len(parts)))
