"""Download and unpack COCO 2017 or PASCAL VOC 2007 and 2012.

Downloads are resumed and verified; an archive is unpacked only if every member stays inside the
folder. Needs nothing but the standard library: data can be fetched before the environment is made.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from fasterrcnn.cli import flags
from fasterrcnn.engine.download import Remote, download
from fasterrcnn.errors import DownloadError, StorageError, UsageError
from fasterrcnn.settings import setting

_BLOCK = 1 << 20  # bytes copied at a time


@dataclass(frozen=True)
class Options:
    """What to fetch."""

    arguments: tuple[str, ...] = setting(
        (), "coco or voc, and the folder to unpack it into", positional=True
    )


@dataclass(frozen=True)
class Archive(Remote):
    """A remote .zip or .tar, and the folder inside it that is left out of the unpacked paths."""

    size: int
    strip: str = ""


def coco() -> list[Archive]:
    """COCO 2017 with boxes for training and validation; $COCO_URL names a mirror.

    Sizes as served by images.cocodataset.org in 2026; MD5 are the S3 ETags.
    """
    url = os.environ.get("COCO_URL", "http://images.cocodataset.org")
    annotations = f"{url}/annotations/annotations_trainval2017.zip"
    return [
        Archive(annotations, 252907541, "md5:f4bbac642086de4f52a3fdda2de5fa2c"),
        Archive(f"{url}/zips/val2017.zip", 815585330, "md5:442b8da7639aecaf257c1dceb8ba8c80"),
        Archive(f"{url}/zips/train2017.zip", 19336861798, "md5:cced6f7f71b7629ddf16f17bbcfab6b2"),
    ]


def voc() -> list[Archive]:
    """VOC 2007 (trainval and test) and 2012 (trainval); $VOC_URL names a mirror.

    MD5 from torchvision's `datasets.voc`.
    """
    url = os.environ.get("VOC_URL", "http://host.robots.ox.ac.uk/pascal/VOC")
    files = (
        ("voc2007/VOCtrainval_06-Nov-2007.tar", 460032000, "c52e279531787c972589f7e41ab4ae64"),
        ("voc2007/VOCtest_06-Nov-2007.tar", 451020800, "b6e924de25625d8de591ea690078ad9f"),
        ("voc2012/VOCtrainval_11-May-2012.tar", 1999639040, "6cd6e144f989b92b3379bac3b3de84fd"),
    )
    return [Archive(f"{url}/{path}", size, f"md5:{md5}", "VOCdevkit") for path, size, md5 in files]


SETS: dict[str, Callable[[], list[Archive]]] = {"coco": coco, "voc": voc}


def fetch(archives: list[Archive], folder: Path) -> None:
    """Download and unpack what is not there yet. Raises DownloadError or StorageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [a for a in archives if not _stamp(a, folder).exists()]
        _check_space(missing, folder)
        for archive in missing:
            path = download(archive, folder)
            unpack(path, folder, archive.strip)
            _stamp(archive, folder).touch()
            path.unlink()
            print(f"{archive.name}: unpacked into {folder}")
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}; check space and rights") from None


def unpack(path: Path, folder: Path, strip: str) -> None:
    """Unpack a .zip or .tar into `folder`, without the leading folder `strip`.

    Raises DownloadError, before anything is written, for a member that is not a plain file or that
    would leave `folder`.
    """
    try:
        with zipfile.ZipFile(path) if path.suffix == ".zip" else tarfile.open(path) as archive:
            members = list(_members(archive))
            targets = [_target(path, name, strip) for name, _ in members]
            for (_, read), target in zip(members, targets, strict=True):
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                temporary = folder / f"{target}.part"
                with read() as source, temporary.open("wb") as file:
                    shutil.copyfileobj(source, file, _BLOCK)
                temporary.replace(folder / target)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        what = " ".join(str(error).split())  # tarfile's has a line for every compression
        raise DownloadError(f"{path}: damaged archive ({what}); delete it and try again") from None


def _members(archive: zipfile.ZipFile | tarfile.TarFile) -> Iterator[tuple[str, Callable[[], IO]]]:
    """(name, opener) of every file; folders are left out. Raises DownloadError for links and
    devices."""
    if isinstance(archive, zipfile.ZipFile):
        for item in archive.infolist():
            mode = item.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DownloadError(f"{archive.filename}: {item.filename}: not a file; refused")
            if not item.is_dir():
                yield item.filename, partial(archive.open, item)
        return
    for member in archive:
        if not (member.isreg() or member.isdir()):
            raise DownloadError(f"{archive.name!r}: {member.name}: not a file; refused")
        if member.isreg():
            yield member.name, partial(_open_member, archive, member)


def _open_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None, "a regular file"
    return file


def _target(archive: Path, name: str, strip: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        shown = ascii(name)[1:-1][:200]  # as it can stand in one line
        raise DownloadError(f"{archive}: {shown}: would leave the folder; refused")
    return path.relative_to(strip) if strip and path.parts[0] == strip else path


def _check_space(missing: list[Archive], folder: Path) -> None:
    """The archives and what is in them must fit; photographs do not compress."""
    parts = [folder / f"{archive.name}.part" for archive in missing]
    there = sum(part.stat().st_size for part in parts if part.exists())
    need = int(2.2 * sum(archive.size for archive in missing)) - there
    free = shutil.disk_usage(folder).free
    if need > free:
        raise StorageError(
            f"{folder}: {need / 2**30:.1f} GiB needed, {free / 2**30:.1f} GiB free; free some "
            "space or give another folder"
        )


def _stamp(archive: Archive, folder: Path) -> Path:
    """The file that says the archive was unpacked completely."""
    return folder / f".{archive.name}.unpacked"


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    if len(options.arguments) != 2 or options.arguments[0] not in SETS:
        raise UsageError(f"usage: fasterrcnn fetch {{{','.join(SETS)}}} FOLDER")
    name, folder = options.arguments
    fetch(SETS[name](), Path(folder))
