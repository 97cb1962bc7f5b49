"""Where the json file of a split and its images are, in the folders that tools export."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from fasterrcnn.data import split_names
from fasterrcnn.data.image_files import unsafe
from fasterrcnn.errors import UsageError

# Words of file names that say nothing about the split.
_NOISE = set(
    "instances instance annotations annotation coco bbox bboxes boxes json gt labels label dataset "
    "data objects detection detections result results export default lvis v".split()
)
_SPECIAL = re.compile(r"[/\\%:\0]|^\.*$")  # in a name that is more than that of a file
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
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.endswith(".json") and entry.is_file():
                yield folder / entry.name
            elif depth and entry.is_dir():
                yield from _json_files(folder / entry.name, depth - 1)


def _looks_like_coco(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_SNIFFED).replace(b"\0", b"")  # as in UTF-16
    except OSError:
        return False
    has_images = b'"images"' in start and (b'"file_name"' in start or b'"coco_url"' in start)
    return has_images or (b'"annotations"' in start and b'"image_id"' in start)


def splits(root: Path) -> list[str]:
    """The names of the splits in `root`; none if all is one set without a name."""
    files = find_all(root)
    if len(files) == 1 and not _says_split(_name(root, files[0])):
        return []
    return sorted({_name(root, path) for path in files})


def find(root: Path, split: str) -> Path:
    """The json file of `split`: a name, or the path of the file in `root`. Raises UsageError."""
    if split.endswith(".json") and (root / split).is_file():
        return root / split
    files = find_all(root)
    if split == "train" and not splits(root) and files:
        return files[0]
    words = split_names.aliases(split)
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
        raise UsageError(split_names.missing(root, split, splits(root)))
    if len(fits) > 1:
        shown = " or ".join(path.relative_to(root).as_posix() for path in sorted(fits))
        raise UsageError(
            f"{root}: split {split} can be {shown}; say which one by its path "
            "(--train-split, --val-split)"
        )
    return fits[0]


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


def _words(name: str) -> set[str]:
    """The words of a name that may say which split it is."""
    return set(re.findall(r"[^\W\d_]+", name.lower())) - _NOISE


class ImageFinder:
    """Finds the image files that a json file names, in the folders where tools put them.

    A name is tried as it is, with backslashes as slashes and decoded from a URL; then without its
    first folders, which name a place on another machine or repeat the folder of the split.
    """

    def __init__(self, root: Path, json_file: Path, split: str) -> None:
        stem = json_file.stem.removeprefix("instances_")
        names = dict.fromkeys((stem, split, *sorted(split_names.aliases(split))))
        candidates = [
            *(root / part / name for name in names for part in ("", "images")),
            json_file.parent,
            json_file.parent / "images",
            json_file.parent / "data",
            root / "images",
            root / "data",
            root,
        ]
        self.folders = [str(path) for path in dict.fromkeys(candidates) if path.is_dir()]

    def find(self, name: str) -> tuple[str, str] | None:
        """The folder with the file of this name, and its path in there; None if there is none."""
        for candidate in _spellings(name):
            for k, folder in enumerate(self.folders):
                if os.path.exists(f"{folder}/{candidate}"):  # noqa: PTH110 # faster than Path
                    self.folders.insert(0, self.folders.pop(k))  # the next one is there too
                    return folder, candidate
        return None


def path_parts(name: str) -> list[str]:
    """The folders and the file of a path of any system, without ``.`` and what leads up to ``..``.

    So the parts never leave the folder that they are joined to.
    """
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    return parts[len(parts) - parts[::-1].index("..") :] if ".." in parts else parts


def _spellings(name: str) -> Iterator[str]:
    """The relative paths that `name` may mean, the most literal first."""
    if not _SPECIAL.search(name):  # as nearly all are
        yield name
        return
    plain = [name, unquote(name)] if "%" in name else [name]
    for text in plain:
        if not unsafe(text):
            yield "/".join(part for part in text.split("/") if part not in ("", "."))
    for parts in map(path_parts, plain):
        yield from ("/".join(parts[k:]) for k in range(len(parts)))
