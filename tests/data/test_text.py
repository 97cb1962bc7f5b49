"""Text files in the encodings that editors and exports write, and those that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fasterrcnn.data import text
from fasterrcnn.errors import DataError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark(tmp_path: Path, encoding: str):
    path = tmp_path / "a.txt"
    path.write_bytes("Größe\n".encode(encoding))
    assert text.read_text(path) == "Größe\n"
    assert (text.marked_encoding(path.read_bytes()) == encoding) == (encoding != "utf-8")


def test_lines_are_what_an_editor_counts(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes("a \r\n\n\tb\rc\u2028d\x0ce\n".encode())
    assert text.lines(path) == [(1, "a"), (3, "b"), (4, "c\u2028d\x0ce")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("Größe".encode("latin-1"), "byte 2: not UTF-8; save it as UTF-8"),
        (b"\xef\xbb\xbfab\xff", "not UTF-8; save it as UTF-8"),
        (b"\xff\xfea", "not UTF-16; save it as UTF-8"),
        (b"ab\0c", "character 2: a zero byte; save it as UTF-8"),
    ],
)
def test_no_text(tmp_path: Path, content: bytes, what: str):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        text.read_text(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).endswith(f": {what}")


def test_no_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        text.read_bytes(tmp_path / "none.txt")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(DataError, match="not a regular file"):
            text.read_bytes(path)
