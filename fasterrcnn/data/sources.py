"""What a user asks to look at: images, folders, globs, lists, videos and cameras, by name.

Nothing is opened here but lists and, in the folder that pictures go to, earlier pictures. Each
source has a name in results: its file name, or its path inside a given folder. Where two would have
the same name, all files are named by their path from the folder that holds them all.
"""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from torch import Tensor

from fasterrcnn.data import images
from fasterrcnn.data.image_files import SUFFIXES, images_in, is_image
from fasterrcnn.errors import DataError, UsageError
from fasterrcnn.pixel_format import PixelFormat

MARK = b"drawn by fasterrcnn"  # a comment in pictures, so that they are not taken for images
_MARKED = 4096  # bytes at both ends of a file in which the comment stands
_VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts",
    ".mts", ".m2ts", ".3gp", ".ogv",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """An image, a video or a camera."""

    path: str  # of a file or device, or a URL
    name: str  # in results: a relative path with slashes
    is_video: bool = False  # or a camera

    @property
    def is_file(self) -> bool:
        """Whether there is an end to it."""
        return "://" not in self.path and not self.path.startswith("/dev/")


class Found:
    """The sources in the order given, and what else is worth a line."""

    def __init__(self, drawn: Path | None) -> None:
        self.sources: dict[str, Source] = {}  # by absolute path: each once
        self.problems: list[str] = []  # what was asked for and cannot be used
        self.pictures = 0  # files left out because an earlier run drew them
        self._drawn = f"{os.path.abspath(drawn)}{os.sep}" if drawn else None  # noqa: PTH100 # keeps links

    def add(self, path: str, name: str) -> None:
        """An image or a video."""
        source = Source(path, name, name.lower().endswith(_VIDEO_SUFFIXES) or "://" in path)
        self.sources.setdefault(_place(source), source)

    def add_unless_drawn(self, path: str, name: str) -> None:
        """One that the user did not name, but a folder or a glob."""
        place = os.path.abspath(path)  # noqa: PTH100 # keeps symbolic links
        if self._drawn and place.startswith(self._drawn) and _is_marked(path):
            self.pictures += 1
        else:
            self.add(path, name)


def find(given: Iterable[str], drawn: Path | None = None) -> Found:
    """Every image and video in `given`: files, folders (of images), globs, lists (``.txt``, or
    ``-`` for standard input), cameras and URLs. What is given twice is taken once.

    Pictures of an earlier run in the folder `drawn` are left out of folders and globs. What a list
    names and is not there becomes a problem, as a folder without images. Raises UsageError for a
    path given that is not there, and if nothing is found at all.
    """
    found = Found(drawn)
    given = list(given)
    for one in given:
        if one == "-":
            _add_lines(found, sys.stdin.read(), "standard input", Path())
        elif not _add(found, one):
            raise UsageError(f"{one}: no such image, folder, list or video")
    if not found.sources:
        nothing = f"{' '.join(given)}: no image found"
        raise UsageError("\n".join(found.problems) or nothing)
    found.sources = _with_different_names(found.sources)
    return found


def _add(found: Found, given: str, *, in_list: bool = False) -> bool:
    """Add what `given` stands for; False if it is not there."""
    if "://" in given:
        url = urlsplit(given)
        found.add(given, f"{url.hostname or ''}{url.path}".strip("/") or "stream")
        return True
    try:
        mode = os.stat(given).st_mode  # noqa: PTH116 # a Path would cost as much as the rest
    except (OSError, ValueError):
        return glob.has_magic(given) and _add_matches(found, given)
    if stat.S_ISDIR(mode):
        if not _add_folder(found, given):
            what = f"no image in this folder ({' '.join(SUFFIXES)})"
            found.problems.append(f"{given}: {what}")
    elif stat.S_ISCHR(mode):
        source = Source(given, given.removeprefix("/dev/").strip("/"), is_video=True)
        found.sources.setdefault(given, source)
    elif given.lower().endswith(".txt") and not in_list:
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{given}: not a list of paths ({error})") from None
        _add_lines(found, text, given, Path(given).parent)
    else:
        found.add(given, os.path.basename(given))  # noqa: PTH119 # "a/" names nothing
    return True


def _add_folder(found: Found, folder: str) -> bool:
    """Add the images below a folder; False if there is none."""
    inside = images_in(Path(folder))
    for name in inside:
        found.add_unless_drawn(f"{folder}/{name}", name)
    return bool(inside)


def _add_matches(found: Found, pattern: str) -> bool:
    """Add the images, videos and folders that a glob matches; False if there is none."""
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 # Path.glob reads no ~ or ..
    any_added = False
    for path in matches:
        name = os.path.basename(path)  # noqa: PTH119
        if os.path.isdir(path):  # noqa: PTH112
            any_added |= "**" not in pattern and _add_folder(found, path)
        elif is_image(name) or name.lower().endswith(_VIDEO_SUFFIXES):
            found.add_unless_drawn(path, name)
            any_added = True
    return any_added


def _add_lines(found: Found, text: str, where: str, folder: Path) -> None:
    """Add a list's lines: paths from the current folder or else from `folder`, the list's own."""
    for number, line in enumerate(text.splitlines(), start=1):
        path = line.strip()
        places = (path, str(folder / path)) if path else ()
        if places and not any(_add(found, place, in_list=True) for place in places):
            found.problems.append(f"{where}: line {number}: {path}: missing")


def _with_different_names(sources: dict[str, Source]) -> dict[str, Source]:
    """The same sources; if two files have the same name, all named from a common folder."""
    files = [place for place, source in sources.items() if source.is_file]
    if len({sources[place].name for place in files}) == len(files):
        return sources
    common = os.path.commonpath([os.path.dirname(place) for place in files])  # noqa: PTH120
    names = {place: place[len(common) :].replace(os.sep, "/").lstrip("/") for place in files}
    return {p: replace(s, name=names[p]) if p in names else s for p, s in sources.items()}


def _place(source: Source) -> str:
    """The same string for the same file."""
    return os.path.abspath(source.path) if source.is_file else source.path  # noqa: PTH100


def _is_marked(path: str) -> bool:
    """Whether a file is a picture that was drawn here."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            start = file.read(_MARKED)
            file.seek(max(_MARKED, os.fstat(file.fileno()).st_size - _MARKED))
            return MARK in start or MARK in file.read()
    except OSError:
        return False


def check_not_replaced(sources: Iterable[Source], folder: Path, names: Sequence[str]) -> None:
    """Raise UsageError if writing one of `names` into `folder` would overwrite a source."""
    there = [name for name in names if (folder / name).exists()]
    if not there:  # as in most runs: nothing needs to be compared
        return
    files = {os.path.realpath(source.path) for source in sources}
    for name in there:
        if os.path.realpath(folder / name) in files:
            raise UsageError(
                f"--output-dir: {folder}: {name} is one of the images; give another folder"
            )


def decoded(
    sources: Iterable[Source], pixel_format: PixelFormat
) -> Iterator[tuple[Source, Tensor]]:
    """Each image with its pixels ``(C, H, W)`` as displayed. Raises DataError."""
    for source in sources:
        try:
            yield (
                source,
                images.decode(source.path, apply_orientation=True, pixel_format=pixel_format),
            )
        except ValueError as error:
            raise DataError(f"{source.path}: {error}; give another image") from None
