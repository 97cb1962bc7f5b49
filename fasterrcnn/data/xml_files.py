"""Reads XML files in the encoding that they declare, whatever is in them.

Python's parser knows few encodings, so files are decoded here before they are parsed.
"""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from xml.parsers.expat import ErrorString

from fasterrcnn.data import paths, text
from fasterrcnn.data.json_values import LIMIT
from fasterrcnn.errors import DataError

OF_ALL_IMAGES = ("annotations.xml", "labels.xml")  # CVAT's and FiftyOne's one file of a data set
_MAX_BYTES = 16 * 2**20  # of a file that is parsed whole: 16 MiB take up to 0.7 GiB of memory
_MAX_DEPTH = 50
_CHUNK = 2**20
_ENTITY = "<!ENTITY"  # a few lines of them can stand for gigabytes
_DECLARED = re.compile(rb"""\s*<\?xml\b[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
# What files that declare these really are: the label of the smaller character set is used for
# the larger one, so the web standard (encoding.spec.whatwg.org) reads them so too.
_WIDER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "cp950",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}


class NotXml(DataError):
    """A file cannot be read as XML; `field` is the place in it, `what` says why."""

    def __init__(self, path: Path, field: str, what: str) -> None:
        super().__init__(f"{path}: {field}: {what}")
        self.field = field
        self.what = what


class _Parser(ElementTree.XMLPullParser):
    """A parser that is fed a file in parts."""

    def elements(self) -> Iterator[tuple[str, ElementTree.Element]]:
        """The events since the last call. Raises ParseError."""
        for event, element in self.read_events():  # type: ignore[misc] # also of namespaces
            assert isinstance(element, ElementTree.Element)
            yield str(event), element


def root_tag(path: Path) -> str | None:
    """The tag of the root element, from the beginning of the file; None if it is not XML that is
    read."""
    if not paths.is_file(path):
        return None
    parser = _Parser(("start",))
    try:
        with path.open("rb") as file:
            data = file.read(2**16)
        content = data.decode(_encoding(path, data)[0], "ignore").lstrip("\ufeff \t\r\n")
        if _ENTITY in content:
            return None
        parser.feed(content)
        for _, element in parser.elements():
            return element.tag
    except (OSError, NotXml, LookupError, ElementTree.ParseError, ValueError):
        pass
    return None


def parse(path: Path) -> ElementTree.Element:
    """The root element of a file about one image. Raises FileNotFoundError and NotXml."""
    content = _read(path, _MAX_BYTES)
    parser = ElementTree.XMLParser()
    try:
        parser.feed(content)
        return parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise _not_xml(path, error) from None


def children(path: Path) -> Iterator[ElementTree.Element]:
    """Each child of the root element as soon as it is complete; it is emptied after use, so that
    a file of any size can be read. Raises FileNotFoundError and NotXml."""
    content = _read(path, None)
    parser = _Parser(("start", "end"))
    open_elements: list[ElementTree.Element] = []
    try:
        for start in range(0, len(content), _CHUNK):
            parser.feed(content[start : start + _CHUNK])
            for event, element in parser.elements():
                if event == "start":
                    open_elements.append(element)
                    if len(open_elements) > _MAX_DEPTH:
                        raise NotXml(path, element.tag, "elements are nested too deeply")
                else:
                    open_elements.pop()
                    if len(open_elements) == 1:
                        yield element
                        open_elements[0].clear()
        parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise _not_xml(path, error) from None


def number(written: str | None) -> float:
    """The number in an element or attribute: a decimal number, NaN or infinite. Raises ValueError
    for anything else, also for what only Python takes for a number (``1_000``)."""
    if written is None or "_" in written or not written.isascii():
        raise ValueError(written)
    return float(written)


def coordinate(written: str | None) -> float:
    """A finite number below 1e9, so that areas stay finite too. Raises ValueError for others."""
    value = number(written)
    if not abs(value) < LIMIT:
        raise ValueError(written)
    return value


def size(height: str, width: str) -> tuple[int, int] | str | None:
    """The size of an image (H, W; px) as written; None where one of them is missing or 0, and what
    was written if it is no size."""
    try:
        sides = [coordinate(side.strip() or "0") for side in (height, width)]
    except ValueError:
        sides = [-1]
    if any(side < 0 or side % 1 for side in sides):
        return f"{height.strip()} x {width.strip()}"
    return (int(sides[0]), int(sides[1])) if all(sides) else None


def _read(path: Path, limit: int | None) -> str:
    """The text of a file, which declares no entities. Raises FileNotFoundError and NotXml."""
    try:
        data = text.read_bytes(path)
        if not data.strip():
            raise NotXml(path, "file", "empty file")
        if limit is not None and len(data) > limit:
            raise NotXml(path, "file", f"larger than {limit >> 20} MiB, but about one image")
        content = _decode(path, data)
    except NotXml:
        raise
    except DataError as error:
        raise NotXml(path, "file", str(error).removeprefix(f"{path}: ")) from None
    if _ENTITY in content:
        raise NotXml(path, _ENTITY, "entities are not read; write out what they stand for")
    return content


def _decode(path: Path, data: bytes) -> str:
    encoding, declared = _encoding(path, data)
    try:
        content = data.decode(encoding)
    except LookupError:  # a codec that does not make text: hex, rot13
        raise _unknown(path, declared) from None
    except UnicodeError as error:
        place = f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else "file"
        if declared:
            what = f"not {declared}, which its first line declares; declare its encoding there"
        elif encoding != "utf-8":
            what = f"not {encoding.upper()}, as its first bytes say; repair it"
        else:
            what = "not UTF-8; declare its encoding in the first line, "
            what += '<?xml version="1.0" encoding="gb18030"?> for example'
        what += ", or save it as UTF-8"
        raise NotXml(path, place, what) from None
    return content.lstrip("\ufeff \t\r\n")


def _encoding(path: Path, data: bytes) -> tuple[str, str]:
    """Python's name of the encoding and the declared one, "" if none is. Raises NotXml."""
    if marked := text.marked_encoding(data):
        return marked, ""
    if data[:2] in (b"<\0", b"\0<"):  # without a mark
        return ("utf-16-le" if data[:1] == b"<" else "utf-16-be"), ""
    match = _DECLARED.match(data)
    declared = match[1].decode() if match else ""
    try:
        name = codecs.lookup(declared or "utf-8").name
    except LookupError:
        raise _unknown(path, declared) from None
    if name.startswith(("utf-16", "utf-32")):  # then its declaration could not be read as bytes:
        name = "utf-8"  # .NET declares utf-16 whatever it writes
    return _WIDER.get(name, name), declared


def _unknown(path: Path, declared: str) -> NotXml:
    what = f"unknown encoding {declared}; declare the right one, or save the file as UTF-8"
    return NotXml(path, "line 1", what)


def _not_xml(path: Path, error: Exception) -> NotXml:
    if not isinstance(error, ElementTree.ParseError):
        return NotXml(path, "file", f"not XML ({error})")
    line, column = error.position
    return NotXml(path, f"line {line} column {column + 1}", f"not XML ({ErrorString(error.code)})")
