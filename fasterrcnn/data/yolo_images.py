"""Which images a split of a YOLO data set has.

What data.yaml says is obeyed: a folder, a list file, a glob, or several of these. Where it says
nothing, the usual places are tried: ``images/<split>``, ``<split>/images``, ``<split>.txt``,
``obj_<split>_data``, ``<split>``. An export without splits is one set.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from fasterrcnn.data import paths, split_names, text
from fasterrcnn.data.image_files import holds_image, images_in, is_image
from fasterrcnn.data.paths import fold
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.split_names import split_in
from fasterrcnn.data.yolo_config import Config
from fasterrcnn.data.yolo_paths import Finder, is_foreign, short
from fasterrcnn.errors import DataError, UsageError

_LISTS = (".txt", ".lst", ".list")  # suffixes of list files


class Image(NamedTuple):
    """An image of a split, and the place that named it."""

    name: str  # relative to the root, with slashes; absolute if it lies outside
    file: str
    field: str


def images(finder: Finder, config: Config, split: str, problems: Problems) -> list[Image]:
    """The images of `split`, each once; "train" of a set without splits is all of it.

    Images of lists that do not exist become faults. Raises DataError if data.yaml or a list is
    wrong, UsageError if there is no such split.
    """
    key = _key(config, split)
    if key is not None:
        found = _of_entries(finder, config, key, problems)
    else:
        found = _of_usual_places(finder, config, split, problems)
    unique: dict[str, Image] = {}
    for image in found:
        if unique.setdefault(image.name, image) is not image:
            problems.note(image.file, image.field, image.name, "image listed twice", "used once")
    return list(unique.values())


def splits(finder: Finder, config: Config) -> list[str]:
    """The usual names of the splits that exist; none: one set without a name.

    Raises DataError if data.yaml is wrong.
    """
    return [s for s in split_names.USUAL if _key(config, s) is not None or _usual_places(finder, s)]


def _of_usual_places(finder: Finder, config: Config, split: str, problems: Problems) -> list[Image]:
    """The images of a split that data.yaml does not have."""
    root = finder.root
    places = _usual_places(finder, split)
    named = [] if places else splits(finder, config)
    if not places and split == "train" and not named:
        places = _whole_set(finder)
    if not places:
        raise UsageError(_no_split(root, split, named))
    found = _at(finder, places[0], [root], problems)
    for other in places[1:]:
        there = _at(finder, other, [root], problems.fresh())
        if {image.name for image in found} != {image.name for image in there}:
            raise DataError(
                f"{root}: split {split} could be {finder.name(places[0])} or "
                f"{finder.name(other)}; name one of them in data.yaml ({split}: ...)"
            )
    return found


def _no_split(root: Path, split: str, named: list[str]) -> str:
    """The message for a split that is not there, where the splits `named` are."""
    if not named and split == "train":
        return f"{root}: no images found: images/ with labels/, or data.yaml, expected"
    return split_names.missing(root, split, named)


def _key(config: Config, split: str) -> str | None:
    """The key of data.yaml that holds the split; None if it has none."""
    if split in config.places:
        return split
    keys = [key for key in config.places if fold(key) in split_names.aliases(split)]
    if any(config.places[key] != config.places[keys[0]] for key in keys):
        raise DataError(f"{config.file}: {' and '.join(keys)} are the same split; keep one of them")
    return keys[0] if keys else None


def _of_entries(finder: Finder, config: Config, key: str, problems: Problems) -> list[Image]:
    """The images that data.yaml names for a split. Raises DataError."""
    entries = config.places[key]
    if not entries:
        raise DataError(f"{config.file}: /{key}: must be a path or a list of paths")
    stated = finder.find(config.folder, [finder.root]) if config.folder else None
    folders = [stated, finder.root] if stated else [finder.root]
    found = []
    for entry in entries:
        where = f"{config.file}: /{key}: {short(entry)}"
        named = _paths_of(finder, config, folders, entry, where)
        if any(map(finder.is_inside, named)):
            raise DataError(f"{where}: holds the data set itself; name the folder of the images")
        new = [image for path in named for image in _at(finder, path, folders, problems)]
        if not new:
            raise DataError(f"{where}: no image in {named[0]}; correct the entry")
        found += new
    return found


def _paths_of(
    finder: Finder, config: Config, folders: list[Path], entry: str, where: str
) -> list[Path]:
    """The files and folders that an entry of data.yaml names. Raises DataError if none."""
    found = finder.find(entry, folders)
    if found is None or entry.startswith(".."):
        moved = _moved(finder, config, entry)
        if found and moved and not found.samefile(moved):
            raise DataError(f"{where}: can be {found.resolve()} or {moved}; write the whole path")
        found = found or moved
    if found is not None:
        return [found]
    wild = re.search(r"[*?[]", entry)
    if wild:
        cut = max(entry.rfind("/", 0, wild.start()), entry.rfind("\\", 0, wild.start())) + 1
        start, pattern = entry[:cut], entry[cut:]
        tops = _paths_of(finder, config, folders, start, where) if start else folders
        if "**" in pattern and any(map(finder.is_inside, tops)):
            raise DataError(f"{where}: starts above the data set; name the folder of the images")
        if matches := next(filter(None, (_glob(top, pattern) for top in tops)), []):
            return matches
    missing = " or ".join(dict.fromkeys(str(folder / short(entry)) for folder in folders))
    path = f", path: {short(config.folder)}" if config.folder else ""
    raise DataError(f"{where}: not found (no {missing}{path}); correct the entry")


def _glob(folder: Path, pattern: str) -> list[Path]:
    """The folders and images in a folder that match, or the lists if the pattern is one of lists.
    Hidden ones are left out."""
    try:
        matches = sorted(folder.glob(pattern))
    except (ValueError, NotImplementedError, OSError):  # "**x" is no pattern
        return []
    return [
        path
        for path in matches
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (path.is_dir() or is_image(path.name) or Path(pattern).suffix in _LISTS)
    ]


def _moved(finder: Finder, config: Config, entry: str) -> Path | None:
    """What an entry names that was written on another machine."""
    missing = config.folder and not is_foreign(entry) and is_foreign(config.folder)
    moved = finder.find_moved(f"{config.folder}/{entry}" if missing else entry)
    if moved is None:
        return None
    path, root_there = moved
    others = [other for entries in config.places.values() for other in entries or ()]
    absolute = [paths.parts(o) for o in others if is_foreign(o) and not o.startswith("..")]
    # another entry that does not lie in there shows that this one is misspelled
    return path if all(p[: len(root_there)] == root_there for p in absolute) else None


def _at(finder: Finder, path: Path, folders: list[Path], problems: Problems) -> list[Image]:
    """The images in a folder or list. Raises DataError."""
    if path.is_dir():
        start = finder.name(path)
        prefix = f"{start.rstrip('/')}/" if start else ""
        return [Image(prefix + n, f"{path}/{n}", "image") for n in images_in(path, problems)]
    if is_image(path.name):
        return [Image(finder.name(path), str(path), "image")]
    if path.suffix.lower() not in _LISTS:
        raise DataError(f"{path}: neither a folder of images nor a list of them (.txt)")
    return _listed(finder, path, folders, problems)


def _listed(finder: Finder, file: Path, folders: list[Path], problems: Problems) -> list[Image]:
    """The images of a list file. Raises DataError if none of them exists."""
    found, missing = [], []
    root_there = None  # what stands for the root in a list that another machine wrote
    for number, line in text.lines(file):
        own_first = line.startswith((".\\", "./"))  # as Ultralytics does
        places = [file.parent, *folders] if own_first else [*folders, file.parent]
        path = finder.find(line, places) or _kept(line, places, problems)
        if path is None and line.startswith("#"):
            continue
        moved = finder.find_moved(line) if path is None else None
        if moved is not None and root_there in (None, moved[1]):
            path, root_there = moved
        if path is None:
            missing.append((number, " ".join(line.split())))
        else:
            found.append(Image(finder.name(path), str(file), f"line {number}"))
    if missing and not found:
        number, line = missing[0]
        raise DataError(
            f"{file}: line {number}: {short(line)}: no such image, nor any other of the "
            f"{len(missing)} in this list, in {finder.root}; correct the paths"
        )
    for number, line in missing:
        problems.fault(file, f"line {number}", line, "no such image")
    return found


def _kept(line: str, folders: list[Path], problems: Problems) -> Path | None:
    """The image that a line names in one of `folders`, if it is one that `problems` keeps."""
    named = (os.path.abspath(folder / line.replace("\\", "/")) for folder in folders)  # noqa: PTH100
    return next((Path(path) for path in named if path in problems.kept), None)


def _usual_places(finder: Finder, split: str) -> list[Path]:
    """The folders and lists that are named after a split; several are several candidates."""
    root = finder.root
    folders = [
        folder for top in finder.alike(root, "images") for folder in _named(finder, top, split)
    ]
    folders += [
        inner for folder in _named(finder, root, split) for inner in finder.alike(folder, "images")
    ]
    lists = [
        root / name
        for name in finder.names(root)
        if name.lower().endswith(".txt")
        and fold(name[:-4]).rstrip("0123456789") in split_names.aliases(split)
        and _lists_images(root / name)
    ]
    beside = [
        folder
        for alias in split_names.aliases(split)
        for folder in (*finder.alike(root, alias), *finder.alike(root, f"obj_{alias}_data"))
    ]
    return [*filter(holds_image, folders), *lists] or [*filter(holds_image, beside)]


def _named(finder: Finder, folder: Path, split: str) -> list[Path]:
    """What a folder holds under the split's name, else one that begins so (``train2017``)."""
    names = finder.names(folder)
    return (
        finder.alike(folder, split)
        or [folder / name for name in names if fold(name) in split_names.aliases(split)]
        or [folder / name for name in names if split_in(name) == split_names.meaning(split)]
    )


def _lists_images(file: Path) -> bool:
    """Whether a text file looks like a list of images. Raises DataError if it is not text."""
    lines = text.lines(file) if file.is_file() else []
    return any(is_image(re.split(r"[/\\]", line)[-1]) for _, line in lines)


def _whole_set(finder: Finder) -> list[Path]:
    """The place of all images of a set without splits. Raises DataError if it has some."""
    root = finder.root
    for path in (*finder.alike(root, "images"), root / "images.txt", root / "data", root):
        if path.suffix == ".txt" and path.is_file():
            return [path]
        inside = images_in(path) if path.is_dir() else []
        tops = dict.fromkeys(name.split("/")[0] for name in inside if "/" in name)
        named = [top for top in tops if split_in(top)]
        if len({split_in(top) for top in named}) > 1:
            raise DataError(
                f"{root}: {' and '.join(named)} look like splits; name them in data.yaml "
                "(train: ..., val: ...)"
            )
        if inside:
            return [path]
    return []
