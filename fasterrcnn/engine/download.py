"""Downloads files: resumes where a transfer stopped, and gives a file its name once it is verified.

Needs only the standard library, so that data can be fetched before the environment is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fasterrcnn.errors import DownloadError, StorageError

_BLOCK = 1 << 20
_MAX_TRIES = 5
_TIMEOUT = 60.0  # s without receiving a byte


@dataclass(frozen=True)
class Remote:
    """A file at `url`, and what is known about it."""

    url: str
    size: int | None  # bytes
    checksum: str  # "md5:" or "sha256:", and all or the first hex digits

    @property
    def name(self) -> str:
        """The file name."""
        return self.url.rsplit("/", 1)[1]


def download(remote: Remote, folder: Path) -> Path:
    """Download `remote` into `folder`, unless it is there, verify it, and return its path.

    Resumes an earlier transfer. Raises DownloadError, also if the file that is there is another
    one, and OSError if `folder` cannot be written.
    """
    final, part = folder / remote.name, folder / f"{remote.name}.part"
    if not final.exists():
        with _locked(part) as file:
            if not final.exists():
                _transfer_with_retries(remote, file, final)
                if wrong := _mismatch(remote, part):
                    part.unlink()
                    raise DownloadError(f"{remote.url}: {wrong}; removed; try again")
                part.rename(final)
                return final
            part.unlink()
    if wrong := _mismatch(remote, final):
        raise DownloadError(f"{final}: {wrong}; delete the file")
    return final


def cached(url: str) -> Path:
    """Path of the published file at `url` in torch's cache, downloaded if needed, and verified.

    The checksum is the part that its authors put into its name: for MMDetection and torchvision the
    first 8 digits of the SHA-256, for Detectron2 the first 6 of the MD5. It detects damage, not
    forgery. Raises DownloadError or StorageError.
    """
    import torch  # not at the top: fetching data needs no torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    kind = "md5" if url.endswith(".pkl") else "sha256"
    name = re.search(r"[-_]([0-9a-f]+)\.\w+$", url)
    assert name is not None, url
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return download(Remote(url, None, f"{kind}:{name[1]}"), folder)
    except OSError as error:
        raise StorageError(
            f"{folder}: {error.strerror or error}; check disk space and permissions, or set "
            "TORCH_HOME"
        ) from None


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """`part`, opened for appending by one process at a time; others block until it is complete."""
    while True:
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):
                yield file
                return


def _transfer_with_retries(remote: Remote, file: IO[bytes], final: Path) -> None:
    """`_transfer`, tried again after network errors. Raises DownloadError."""
    for attempt in range(1, _MAX_TRIES + 1):
        try:
            _transfer(remote, file)
            return
        except (OSError, EOFError, http.client.HTTPException) as error:  # urllib's are OSErrors
            reason = getattr(error, "reason", None) or error
            if attempt == _MAX_TRIES or getattr(error, "code", None) in (403, 404):
                raise DownloadError(
                    f"{remote.url}: {reason}; the same command resumes, or put the file at {final}"
                ) from None
            print(f"{remote.name}: {reason}; trying again", file=sys.stderr)
            time.sleep(min(attempt, 3))


def _transfer(remote: Remote, file: IO[bytes]) -> None:
    """Append to `file` until it is complete. Raises OSError or EOFError to try again."""
    have = file.seek(0, os.SEEK_END)
    if have == remote.size:
        return
    if remote.size is not None and have > remote.size:
        have = file.truncate(0)
    request = urllib.request.Request(
        remote.url, headers={"Range": f"bytes={have}-"} if have else {}
    )
    try:
        reply = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # `file` is at its end; the checksum decides whether it is complete
        raise
    with reply:
        if reply.status != http.HTTPStatus.PARTIAL_CONTENT:  # the server sends the whole file
            have = file.truncate(0)
        size = remote.size if reply.length is None else have + reply.length
        if remote.size not in (None, size):
            raise DownloadError(
                f"{remote.url}: the server announces {size} bytes, expected {remote.size}; use a "
                "mirror"
            )
        while block := reply.read(_BLOCK):
            file.write(block)
            have += len(block)
            _progress(remote, have, size)
        file.flush()
    if size not in (None, have):
        raise EOFError(f"the connection ended after {have} of {size} bytes")


def _progress(remote: Remote, have: int, size: int | None) -> None:
    """Rewrite the progress line in a terminal."""
    if sys.stderr.isatty():
        end = "\n" if have == size else ""
        of = f" of {size / 2**20:.0f}" if size else ""
        print(f"\r{remote.name}: {have / 2**20:.0f}{of} MiB", end=end, file=sys.stderr, flush=True)


def _mismatch(remote: Remote, path: Path) -> str:
    """How the checksum of `path` differs; empty if it does not."""
    kind, _, expected = remote.checksum.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    found = digest.hexdigest()
    if found.startswith(expected):
        return ""
    name = {"md5": "MD5", "sha256": "SHA-256"}[kind]
    return f"{name} is {found[: max(8, len(expected))]}, expected {expected}"
