"""XML in any declared encoding, and one line for whatever else is in a file."""

import codecs
import re
from pathlib import Path

import pytest

from fasterrcnn.data import xml_files
from fasterrcnn.errors import DataError

BODY = "<annotation><name>{}</name></annotation>"
DECLARATION = '<?xml version="1.0" encoding="{}"?>\n'
ENCODED = [  # as declared, the codec of the bytes, a class name
    ("GB2312", "gb2312", "安全帽"),
    ("gb2312", "gbk", "鎔爐"),  # not in GB2312: such files are GBK under the smaller label
    ("GBK", "gbk", "杯子"),
    ("GB18030", "gb18030", "𠮷野家"),
    ("Big5", "big5", "安全帽"),
    ("Shift_JIS", "shift_jis", "ヘルメット"),
    ("Shift_JIS", "cp932", "①ヘルメット"),
    ("EUC-JP", "euc_jp", "ヘルメット"),
    ("EUC-KR", "euc_kr", "안전모"),
    ("ks_c_5601-1987", "cp949", "똠방각하"),
    ("windows-1251", "cp1251", "каска"),
    ("KOI8-R", "koi8_r", "каска"),
    ("ISO-8859-1", "latin_1", "Straße"),
    ("utf8", "utf-8", "helmet"),
    ("US-ASCII", "ascii", "helmet"),
    ("UTF-8", "utf-8-sig", "安全帽"),
    ("UTF-16", "utf-16", "安全帽"),
    ("UTF-8", "utf-16", "安全帽"),  # saved by an editor that leaves the declaration
    ("utf-16", "utf-8", "安全帽"),  # .NET declares utf-16 whatever it writes
    ("UTF-16", "utf-16-le", "안전모"),  # without a byte order mark
    ("UTF-16", "utf-16-be", "안전모"),
]


@pytest.mark.parametrize(("declared", "codec", "name"), ENCODED)
def test_declared_encodings(tmp_path: Path, declared: str, codec: str, name: str):
    path = tmp_path / "a.xml"
    path.write_bytes((DECLARATION.format(declared) + BODY.format(name)).encode(codec))
    assert xml_files.root_tag(path) == "annotation"
    assert xml_files.parse(path).findtext("name") == name
    assert [child.text for child in xml_files.children(path)] == [name]


def test_without_a_declaration_a_mark_or_utf_8(tmp_path: Path):
    path = tmp_path / "a.xml"
    for content in (
        BODY.format("Straße").encode(),
        b"\n  <?xml version='1.0'?>\n" + BODY.format("Straße").encode(),
        codecs.BOM_UTF16_BE + BODY.format("Straße").encode("utf-16-be"),
        codecs.BOM_UTF32_LE + BODY.format("Straße").encode("utf-32-le"),
    ):
        path.write_bytes(content)
        assert xml_files.parse(path).findtext("name") == "Straße"


UNREADABLE = {
    b"": "file: empty file",
    b" \n ": "file: empty file",
    b"\0" * 40: "not XML",
    b"<annotation>\0</annotation>": "zero byte|not XML",
    b"<annotation>": r"line 1 column 13: not XML \(no element found\)",
    b"{}": r"line 1 column 1: not XML",
    b"<a>&nbsp;</a>": "undefined entity",
    b"<a><b></a></b>": "mismatched tag",
    "<a>каска</a>".encode("cp1251"): "byte 3: not UTF-8; declare its encoding",
    DECLARATION.format("gbk").encode() + b"<a>\xff\xff</a>": "byte 40: not gbk, which its first",
    DECLARATION.format("ascii").encode() + "<a>ß</a>".encode(): "not ascii, which",
    DECLARATION.format("utf8mb4").encode() + b"<a/>": "line 1: unknown encoding utf8mb4",
    DECLARATION.format("ANSI").encode() + b"<a/>": "unknown encoding ANSI",
    DECLARATION.format("hex").encode() + b"<a/>": "unknown encoding hex",
    DECLARATION.format("rot13").encode() + b"<a/>": "unknown encoding rot13",
    DECLARATION.format("undefined").encode() + b"<a/>": "not undefined, which",
    DECLARATION.format("utf-7").encode() + b"<a>+2AA-</a>": "not utf-7|not XML",
    codecs.BOM_UTF16_LE + b"<\0a\0>": "not UTF-16",
    codecs.BOM_UTF8 + b"\xff<a/>": "not UTF-8",
}


@pytest.mark.parametrize("content", UNREADABLE, ids=range(len(UNREADABLE)))
def test_what_cannot_be_read_is_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    for read in (xml_files.parse, lambda path: [*xml_files.children(path)]):
        with pytest.raises(DataError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: ")
        assert re.search(UNREADABLE[content], str(error.value))
        assert "\n" not in str(error.value)
    xml_files.root_tag(path)  # raises nothing


LAUGHS = '<!DOCTYPE a [<!ENTITY x0 "ha">{}]><a>&x20;</a>'.format(
    "".join(f'<!ENTITY x{k} "{f"&x{k - 1};" * 10}">' for k in range(1, 21))
)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (LAUGHS, "entities are not read"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "entities are not"),
        ("<a>" * 20_000, "not XML|nested too deeply"),
    ],
    ids=("laughs", "external", "deep"),
)
def test_attacks_end_in_one_line(tmp_path: Path, content: str, what: str):
    path = tmp_path / "a.xml"
    path.write_text(content)
    for read in (xml_files.parse, lambda path: [*xml_files.children(path)]):
        with pytest.raises(xml_files.NotXml, match=what):
            read(path)


def test_deep_elements_are_read_where_that_is_possible(tmp_path: Path):
    path = tmp_path / "a.xml"
    path.write_text("<a>" * 20_000 + "</a>" * 20_000)
    assert xml_files.parse(path).findtext("name", "none") == "none"
    with pytest.raises(xml_files.NotXml, match="nested too deeply"):
        next(xml_files.children(path))


def test_a_huge_file_about_one_image_is_refused(tmp_path: Path):
    path = tmp_path / "a.xml"
    with path.open("wb") as file:
        file.write(b"<a>")
        file.truncate(17 * 2**20)
    with pytest.raises(xml_files.NotXml, match="larger than 16 MiB"):
        xml_files.parse(path)


def test_children_of_a_file_of_many_chunks(tmp_path: Path):
    path = tmp_path / "a.xml"
    long = "x" * 500
    items = (f'<i k="{k}">{long}</i>' for k in range(5000))
    path.write_text("<r>" + "".join(items) + "</r>")
    assert path.stat().st_size > 2 * 2**20
    assert [int(child.attrib["k"]) for child in xml_files.children(path)] == list(range(5000))


@pytest.mark.parametrize("written", ["12px", "", "1_000", "\uff11\uff12", "0x10", "1,5", None])
def test_what_is_no_number(written: str | None):
    with pytest.raises(ValueError):
        xml_files.number(written)
    with pytest.raises(ValueError):
        xml_files.coordinate(written)


@pytest.mark.parametrize("written", ["1e400", "-1e9", "nan", "inf", "9" * 50])
def test_what_is_no_coordinate(written: str):
    with pytest.raises(ValueError):
        xml_files.coordinate(written)
    assert xml_files.coordinate(" 12.50 ") == 12.5


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        ("40", "60", (40, 60)),
        ("40.0", " 60 ", (40, 60)),
        ("0", "0", None),
        ("", "", None),
        ("0", "60", None),
        ("-40", "60", "-40 x 60"),
        ("40.5", "60", "40.5 x 60"),
        ("tall", "60", "tall x 60"),
        ("9" * 5000, "60", f"{'9' * 5000} x 60"),
    ],
    ids=range(9),
)
def test_sizes(height: str, width: str, size: object):
    assert xml_files.size(height, width) == size


def test_entities_are_not_read_to_find_the_root_either(tmp_path: Path):
    """Expanding them took 0.5 GB."""
    path = tmp_path / "x.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>')
    assert xml_files.root_tag(path) is None
