"""Download and unpack COCO or PASCAL VOC: ``python -m fasterrcnn.fetch {coco,voc} FOLDER``.

Only the standard library, so that data can be fetched before the environment is made. An archive is
unpacked only if every member stays inside the folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from fasterrcnn.download import Remote, download
from fasterrcnn.errors import DownloadError, Failure, StorageError, UsageError

_BLOCK = 1 << 20


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
        raise DownloadError(f"{path}: damaged archive ({error}); delete it and try again") from None


def _members(archive: zipfile.ZipFile | tarfile.TarFile) -> Iterator[tuple[str, Callable[[], IO]]]:
    """(name, opener) of every file; folders are left out. Raises DownloadError for links and
    devices."""
    if isinstance(archive, zipfile.ZipFile):
        for item in archive.infolist():
            mode = item.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DownloadError(f"{archive.filename}: {item.filename}: not a file; refused")
            if not item.is_dir():
                yield item.filename, lambda item=item: archive.open(item)
        return
    for item in archive:
        if not (item.isreg() or item.isdir()):
            raise DownloadError(f"{archive.name}: {item.name}: not a file; refused")
        if item.isreg():
            yield item.name, lambda item=item: archive.extractfile(item)


def _target(archive: Path, name: str, strip: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DownloadError(f"{archive}: {name}: would leave the folder; refused")
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


def main(argv: list[str]) -> int:
    """The command; its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background ignores it
    try:
        if len(argv) != 2 or argv[0] not in SETS:
            raise UsageError(f"usage: python -m fasterrcnn.fetch {{{','.join(SETS)}}} FOLDER")
        fetch(SETS[argv[0]](), Path(argv[1]))
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
