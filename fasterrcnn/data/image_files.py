"""Which files are images of a data set: found in folders, by name.

Whether they can be read is found out by `images`.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import features

from fasterrcnn.data import dicom_files
from fasterrcnn.data.problems import Problems

_OPTIONAL = {".avif": "avif", ".jp2": "jpg_2000", ".j2k": "jpg_2000"}  # Pillow's name of the codec
_ARRAY = ".npy"
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm",
    ".jfif", ".jpe", ".mpo", ".pgm", ".pbm", ".pnm", ".dcm", _ARRAY,
    *(suffix for suffix, codec in _OPTIONAL.items() if features.check(codec)),
)  # fmt: skip
_OTHER_IMAGES = {  # of which not every system's list of file types knows
    ".heic", ".heif", ".hif", ".jxl", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raw", ".psd",
    ".svg", ".exr", ".hdr", ".ico", ".tga", *_OPTIONAL,
}  # fmt: skip


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its suffix, unless it is hidden."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def images_in(folder: Path, problems: Problems | None = None) -> list[str]:
    """The images below `folder`, sorted: their paths relative to it, with slashes.

    Symbolic links are followed, hidden files and folders (``._x.jpg``, ``.ipynb_checkpoints``) left
    out, and so are arrays beside an image of the same name: other programs keep decoded images so.
    Files in image formats that are not read become notes of `problems`; the images that it
    keeps are among those found, even if their files are gone. A file without a suffix is an image
    if it is a DICOM file.
    """
    found = []
    for place, names in _walk(folder):
        known = {*names}
        for name in names:
            if (is_image(name) and not _is_copy(name, known)) or _is_dicom(folder / place / name):
                found.append(f"{place}{name}")
            elif problems is not None and _is_other_image(name):
                suffix = Path(name).suffix.lower()
                what = f"{suffix} is not an image format that is read; convert it"
                problems.note(folder / place / name, "file", name, what, "left out")
    kept = [] if problems is None else problems.kept
    start = f"{os.path.abspath(folder)}/"  # noqa: PTH100 # keeps symbolic links
    return sorted({*found, *(file[len(start) :] for file in kept if file.startswith(start))})


def holds_image(folder: Path) -> bool:
    """Whether there is an image below `folder`; looks no further than to the first."""
    return any(
        is_image(name) or _is_dicom(folder / place / name)
        for place, names in _walk(folder)
        for name in names
    )


def files_in(folder: Path, suffix: str) -> list[str]:
    """Files below `folder` with this suffix, as `images_in` finds images."""
    return sorted(
        f"{place}{name}"
        for place, names in _walk(folder)
        for name in names
        if name.lower().endswith(suffix) and not name.startswith(".")
    )


def unsafe(file_name: str) -> str | None:
    """Why `file_name` must not be joined to the image folder; None if it may be."""
    path, windows = PurePosixPath(file_name), PureWindowsPath(file_name)
    if not file_name or "\0" in file_name:
        return "not a file name"
    if path.is_absolute() or windows.drive or windows.root or ".." in (*path.parts, *windows.parts):
        return "leaves the image folder"
    return None


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder below `folder` ("" or "sub/") and its files; hidden folders and circles of
    symbolic links are left out."""
    seen = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        place = os.path.relpath(path, folder).replace(os.sep, "/")
        yield "" if place == "." else f"{place}/", names


def _is_copy(name: str, names: set[str]) -> bool:
    """Whether a file is an array that another one of the same folder was decoded to."""
    if not name.lower().endswith(_ARRAY):
        return False
    stem, others = name[: -len(_ARRAY)], (s for s in SUFFIXES if s != _ARRAY)
    return any(f"{stem}{suffix}" in names for s in others for suffix in (s, s.upper()))


def _is_dicom(path: Path) -> bool:
    """Whether a file without a suffix is a DICOM file, as scanners and archives name them."""
    if "." in path.name:
        return False
    try:
        with path.open("rb") as file:
            return dicom_files.is_dicom(file.read(dicom_files.MAGIC_END))
    except OSError:
        return False


def _is_other_image(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    kind = mimetypes.types_map.get(suffix, "")
    return not name.startswith(".") and (suffix in _OTHER_IMAGES or kind.startswith("image/"))
