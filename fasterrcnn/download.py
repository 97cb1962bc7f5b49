"""Files from the network: resumed where they were cut off, under their name only when verified.

Only the standard library is needed: data can be fetched before the environment is made.
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
_TRIES = 5
_TIMEOUT = 60.0  # s without a byte


@dataclass(frozen=True)
class Remote:
    """A file at `url` and what is known of it."""

    url: str
    size: int | None  # bytes
    checksum: str  # "md5:" or "sha256:" and the first digits, or all of them

    @property
    def name(self) -> str:
        """The file name."""
        return self.url.rsplit("/", 1)[1]


def download(remote: Remote, folder: Path) -> Path:
    """The verified file in `folder`, resumed where an earlier try stopped.

    Raises DownloadError, also for a file that is there already and is another one, and OSError
    where `folder` cannot be written.
    """
    final, part = folder / remote.name, folder / f"{remote.name}.part"
    if not final.exists():
        with _alone(part) as file:
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
    """The published file at `url`, verified, in torch's cache; downloaded where it is not there.

    What is verified is what its authors put into its name: MMDetection and torchvision the first 8
    digits of its SHA-256, Detectron2 the first 6 of its MD5. That finds damage, not forgery. Raises
    DownloadError or StorageError.
    """
    import torch  # there by then; what fetches data has to do without

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    kind = "md5" if url.endswith(".pkl") else "sha256"
    digits = re.search(r"[-_]([0-9a-f]+)\.\w+$", url)[1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return download(Remote(url, None, f"{kind}:{digits}"), folder)
    except OSError as error:
        raise StorageError(
            f"{folder}: {error.strerror or error}; check space and rights, or set TORCH_HOME"
        ) from None


@contextmanager
def _alone(part: Path) -> Iterator[IO[bytes]]:
    """`part`, opened for appending by one process at a time; others wait until it is complete."""
    while True:
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):
                yield file
                return


def _transfer_with_retries(remote: Remote, file: IO[bytes], final: Path) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            _transfer(remote, file)
            return
        except (OSError, EOFError, http.client.HTTPException) as error:  # urllib's are OSErrors
            reason = getattr(error, "reason", None) or error
            if attempt == _TRIES or getattr(error, "code", None) in (403, 404):
                raise DownloadError(
                    f"{remote.url}: {reason}; the same command resumes; or put the file at {final}"
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
            return  # nothing comes after what is here: the checksum decides
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
    if sys.stderr.isatty():
        end = "\n" if have == size else ""
        of = f" of {size / 2**20:.0f}" if size else ""
        print(f"\r{remote.name}: {have / 2**20:.0f}{of} MiB", end=end, file=sys.stderr, flush=True)


def _mismatch(remote: Remote, path: Path) -> str:
    """How the checksum of `path` differs; empty where it does not."""
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
