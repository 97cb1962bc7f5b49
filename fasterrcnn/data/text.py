"""Reads the text files of data sets, whatever editor or export wrote them."""

from __future__ import annotations

import codecs
import re
import stat
from pathlib import Path

from fasterrcnn.errors import DataError

_MARKS = {  # byte order mark -> encoding; UTF-32's begins with UTF-16's, so it comes first
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises FileNotFoundError if there is none, else DataError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a FIFO would block forever
            raise DataError(f"{path}: not a regular file")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8, or in the encoding that its byte order mark says.

    Raises FileNotFoundError if there is none, DataError if it is not text.
    """
    return decode(read_bytes(path), path)


def marked_encoding(data: bytes) -> str | None:
    """The encoding that the byte order mark says; None without one."""
    return next((e for mark, e in _MARKS.items() if data.startswith(mark)), None)


def decode(data: bytes, path: Path) -> str:
    """`data` as text; `path` is for the message. Raises DataError."""
    encoding = marked_encoding(data) or "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start}: not {encoding.removesuffix('-sig').upper()}; "
            "save it as UTF-8"
        ) from None
    if "\0" in text:
        raise DataError(f"{path}: character {text.index(chr(0))}: a zero byte; save it as UTF-8")
    return text


def lines(path: Path) -> list[tuple[int, str]]:
    """The numbered lines of a text file that are not blank, stripped. Raises as `read_text`."""
    # not splitlines, which also splits at characters that no editor counts as a new line
    numbered = enumerate(re.split(r"\r\n|\n|\r", read_text(path)), start=1)
    return [(number, line.strip()) for number, line in numbered if line.strip()]
