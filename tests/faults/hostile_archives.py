"""Hostile archives of data sets. Every function writes one and returns its path.

The command verifies the checksum of what it downloads first, so that only the archive's publisher
could send these.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from tests.faults.places import Place


def plain(place: Place) -> Path:
    """A harmless archive: what a command takes for it is the base."""
    return _zip(place, ("train/a.txt", "a"))


def _zip(place: Place, *members: tuple[str | zipfile.ZipInfo, str | bytes]) -> Path:
    path = place.given / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("good.txt", "good")
        for name, content in members:
            archive.writestr(name, content)
    return path


def _zip_of_kind(place: Place, name: str, mode: int, content: str) -> Path:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return _zip(place, (member, content), (f"{name}/evil.txt", "evil"))


def _tar(place: Place, *members: tuple[str, bytes, str], mode: str = "w") -> Path:
    path = place.given / "x.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload] # of any compression
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    return path


def zip_above(place: Place) -> Path:
    return _zip(place, ("../outside/evil.txt", "evil"))


def zip_absolute(place: Place) -> Path:
    return _zip(place, (f"{place.outside}/evil.txt", "evil"))


def zip_of_windows(place: Place) -> Path:
    return _zip(place, ("..\\outside\\evil.txt", "evil"))


def zip_of_a_link(place: Place) -> Path:
    return _zip_of_kind(place, "link", 0o120777, str(place.outside))


def zip_of_a_device(place: Place) -> Path:
    return _zip_of_kind(place, "device", 0o020666, "")


def zip_of_an_empty_name(place: Place) -> Path:
    return _zip(place, (".", "evil"), ("a/./", ""), ("train", "x"), ("train/a.txt", "y"))


def zip_of_a_gigabyte(place: Place) -> Path:
    """Unpacked it is larger than a process may write here."""
    return _zip(place, ("zeros", bytes(768 << 20)))


def zip_of_escapes(place: Place) -> Path:
    return _zip(place, ("../\x1b[2J\n/evil.txt", "evil"))


def tar_above(place: Place) -> Path:
    return _tar(place, ("a/../../outside/evil.txt", tarfile.REGTYPE, ""))


def tar_absolute(place: Place) -> Path:
    return _tar(place, (f"{place.outside}/evil.txt", tarfile.REGTYPE, ""))


def tar_through_a_link(place: Place) -> Path:
    link = ("link", tarfile.SYMTYPE, str(place.outside))
    return _tar(place, link, ("link/evil.txt", tarfile.REGTYPE, ""))


def tar_of_a_hard_link(place: Place) -> Path:
    secret = str(place.outside / "secret.txt")
    return _tar(place, ("x", tarfile.LNKTYPE, secret), ("x", tarfile.REGTYPE, ""))


def tar_of_a_pipe(place: Place) -> Path:
    return _tar(place, ("pipe", tarfile.FIFOTYPE, ""))


def tar_of_terabytes(place: Place) -> Path:
    """A sparse file of 1 TiB, of which the archive holds nothing."""
    member = tarfile.TarInfo("sparse")
    said = {"major": "1", "minor": "0", "realsize": str(1 << 40), "name": "sparse"}
    member.pax_headers = {f"GNU.sparse.{name}": value for name, value in said.items()}
    content = b"1\n0\n0\n".ljust(512, b"\0")
    member.size = len(content)
    path = place.given / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(content))
    return path


def tar_that_is_gzipped(place: Place) -> Path:
    """A gigabyte of zeros in a megabyte."""
    path = place.given / "x.tar"
    member = tarfile.TarInfo("zeros")
    member.size = 768 << 20

    with tarfile.open(path, "w:gz", compresslevel=1) as archive, open("/dev/zero", "rb") as zeros:  # noqa: PTH123
        archive.addfile(member, zeros)
    return path


def tar_of_negative_size(place: Place) -> Path:
    path = _tar(place, ("a", tarfile.REGTYPE, ""))
    content = bytearray(path.read_bytes())
    content[124:136] = b"\xff" * 12
    content[148:156] = b" " * 8
    content[148:155] = b"%06o\0" % sum(content[:512])
    path.write_bytes(bytes(content))
    return path


FILES = (
    zip_above, zip_absolute, zip_of_windows, zip_of_a_link, zip_of_a_device, zip_of_an_empty_name,
    zip_of_a_gigabyte, zip_of_escapes, tar_above, tar_absolute, tar_through_a_link,
    tar_of_a_hard_link, tar_of_a_pipe, tar_of_terabytes, tar_that_is_gzipped, tar_of_negative_size,
)  # fmt: skip
