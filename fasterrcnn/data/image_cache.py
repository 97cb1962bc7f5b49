"""What is known of image files, kept from run to run: one sqlite file in the user's cache folder.

What is measured over many images is kept too, for all of their files together.

A verdict holds for a file's path, size and time of change. Several processes may use the cache at
once, and it may be deleted at any time. One that cannot be used costs a note and the time to look
at the images again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sqlite3
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import PIL
import torchvision

from fasterrcnn.data import user_cache
from fasterrcnn.data.images import Header, Seen, Verdict
from fasterrcnn.data.problems import Problems

_RULES = 7  # to be raised when `images` judges files differently, or measures, or a table changes
_TABLE = """
    CREATE TABLE IF NOT EXISTS images (
        folder BLOB, name BLOB, size INTEGER, mtime_ns INTEGER,
        height INTEGER, width INTEGER, orientation INTEGER, depth INTEGER,
        bands INTEGER, layout INTEGER, nodata TEXT, voi TEXT,
        fault TEXT, seen INTEGER,
        PRIMARY KEY (folder, name)
    ) WITHOUT ROWID
"""
_MEASURED_TABLE = "CREATE TABLE IF NOT EXISTS measured (key BLOB PRIMARY KEY, numbers TEXT)"
_NAMES = 500  # asked for in one query
_WRITE_EVERY = 1.0  # s
_TOO_NEW = 2_000_000_000  # ns: a file so new may change without a new time, on some file systems


class Key(NamedTuple):
    """What a verdict holds for."""

    folder: bytes
    name: bytes
    size: int
    mtime_ns: int


def key_of(path: str) -> Key | None:
    """The key of a file; None if it is none, or so new that it may still be being written."""
    folder, _, name = path.rpartition("/")
    try:
        found = os.stat(path)  # noqa: PTH116 # a Path would cost as much again
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return None
    if not stat.S_ISREG(found.st_mode) or abs(time.time_ns() - found.st_mtime_ns) < _TOO_NEW:
        return None
    if not folder.startswith("/"):
        folder = f"{Path.cwd()}/{folder}"
    return Key(_normal(folder), os.fsencode(name), found.st_size, found.st_mtime_ns)


@functools.cache
def _normal(folder: str) -> bytes:
    return os.fsencode(os.path.normpath(folder))  # keeps symbolic links


def location() -> Path:
    """The file of the cache. Raises RuntimeError if this user has no home folder."""
    readers = f"pillow-{PIL.__version__}_torchvision-{torchvision.__version__}"
    return user_cache.folder() / f"images-{_RULES}_{readers}.sqlite"


class ImageCache:
    """The cache, opened for one command; of one thread. `close` writes what was added."""

    def __init__(self, problems: Problems | None = None) -> None:
        self._problems = problems
        self._added: list[tuple] = []
        self._written = time.monotonic()
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = _open(location())
        except (OSError, RuntimeError, sqlite3.Error) as error:
            self._give_up(error)

    def find(self, keys: Sequence[Key | None]) -> list[Verdict | None]:
        """The verdict on each of the files, None where there is none."""
        by_folder: dict[bytes, dict[bytes, int]] = defaultdict(dict)
        for k, key in enumerate(keys):
            if key is not None:
                by_folder[key.folder][key.name] = k
        found: list[Verdict | None] = [None] * len(keys)
        try:
            for folder, asked in by_folder.items():
                for name, size, mtime_ns, *known in self._rows(folder, [*asked]):
                    key = keys[asked[name]]
                    if key is not None and (size, mtime_ns) == (key.size, key.mtime_ns):
                        found[asked[name]] = _verdict(*known)
        except (sqlite3.Error, ValueError) as error:
            self._give_up(error)
        return found

    def add(self, key: Key, verdict: Verdict) -> None:
        """Keep a verdict; it is written within a second, if there are others or at the end."""
        header = (None,) * 8 if isinstance(verdict.header, str) else verdict.header
        self._added.append((*key, *header, verdict.fault, int(verdict.seen)))
        if time.monotonic() - self._written > _WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Write what was added."""
        if self._connection is not None and self._added:
            try:
                with self._connection:
                    self._connection.executemany(
                        "INSERT OR REPLACE INTO images VALUES "
                        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        self._added,
                    )
            except sqlite3.Error as error:
                self._give_up(error)
        self._added.clear()
        self._written = time.monotonic()

    def close(self) -> None:
        """Write what was added, and close the file."""
        self.write()
        if self._connection is not None:
            self._connection.close()

    def _rows(self, folder: bytes, names: list[bytes]) -> Iterator[tuple]:
        """The rows of files in one folder, without the folder."""
        for start in range(0, len(names), _NAMES):
            part = names[start : start + _NAMES]
            if self._connection is not None:
                yield from self._connection.execute(
                    "SELECT name, size, mtime_ns, height, width, orientation, depth, bands, "
                    "layout, nodata, voi, fault, seen "
                    f"FROM images WHERE folder = ? AND name IN ({','.join('?' * len(part))})",
                    (folder, *part),
                )

    def _give_up(self, error: Exception) -> None:
        """Go on without the cache; the next command makes a damaged one anew."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if type(error) in (sqlite3.DatabaseError, ValueError):  # subclasses: locked, read-only, ...
            location().unlink(missing_ok=True)
        what, action = "the cache of image checks cannot be used", "every image is looked at anew"
        if self._problems is not None and all(p.what != what for p in self._problems.found):
            self._problems.note("image cache", "file", str(error), what, action)


def forget(path: str) -> None:
    """Remove the verdict on a file that turned out to be wrong."""
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 # keeps symbolic links
    try:
        with closing(_open(location())) as connection, connection:
            connection.execute(
                "DELETE FROM images WHERE folder = ? AND name = ?",
                (os.fsencode(folder), os.fsencode(name)),
            )
    except (OSError, RuntimeError, sqlite3.Error):
        pass  # then there is no verdict either


def measured(
    what: str, paths: Sequence[str], measure: Callable[[], tuple[list[float], int]]
) -> list[float]:
    """Numbers that `measure` finds in the images at `paths`, or has found before in the same files.

    `what`: all else that they depend on. `measure` returns the numbers and of how many images they
    are; only those of all are kept, because what kept one from being read may change.
    """
    keys = [key_of(path) for path in paths]
    digest = hashlib.sha256(repr((what, keys)).encode()).digest()
    known = None not in keys
    try:
        with closing(_open(location())) as connection:
            rows = connection.execute("SELECT numbers FROM measured WHERE key = ?", (digest,))
            if known and (row := rows.fetchone()):
                return json.loads(row[0])
    except (OSError, RuntimeError, ValueError, sqlite3.Error):
        known = False
    numbers, count = measure()
    if known and count == len(paths):
        try:
            with closing(_open(location())) as connection, connection:
                row = digest, json.dumps(numbers)
                connection.execute("INSERT OR REPLACE INTO measured VALUES (?, ?)", row)
        except (OSError, RuntimeError, sqlite3.Error):
            pass  # then they are measured again
    return numbers


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=20.0)
    try:
        with connection:
            connection.execute(_TABLE)
            connection.execute(_MEASURED_TABLE)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@functools.cache  # few differ, and there can be millions
def _verdict(*columns: Any) -> Verdict:
    *header, fault, seen = columns
    if header[0] is None:
        return Verdict(fault, Seen(seen))
    return Verdict(Header(*header), Seen(seen), fault)
