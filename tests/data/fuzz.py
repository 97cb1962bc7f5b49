"""Damages annotation files at random: `mutate`, and a small data set of each format to damage."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.data import make

NUMBERS = (
    b"nan", b"inf", b"-inf", b"1e999", b"-1", b"0", b"-0.0", b"1.5", b"99999999999999999999",
    b"1e-320", b"0x10", b"1_0", b"NaN", b"", b"null", b"true", b"\xd9\xa3", b"2147483648", b"[]",
)  # fmt: skip
TOKENS = (
    b"\0", b"\xff", b"\xc3", b"\xef\xbf\xbe", b"\\ud800", b'"', b"'", b"{", b"}", b"[", b"]", b":",
    b",", b"&a", b"*a", b"!!python/object:os.system", b"<", b">", b"&#0;", b"&x;", b"<!--", b"\t",
    b"\r", b"\x0b", b"\x1b[31m", b"..", b"/", b"*", b"**", b"?", b"~", b"%", b"\\", b"C:\\x",
    b"- ", b"? ", b"| ", b"[" * 2000, b"<a>" * 2000, b"9" * 5000, b"\xe2\x80\xa8", b"2024-13-45",
)  # fmt: skip
_TOKEN = re.compile(rb"[^\s,:<>\[\]{}\"]+")


def mutate(data: bytes, random: Random) -> bytes:
    """`data` with one to three random kinds of damage."""
    for _ in range(random.randint(1, 3)):
        data = random.choice(_KINDS)(data, random)
    return data


def _flip_bytes(data: bytes, random: Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(random.randint(1, 4) if damaged else 0):
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))]


def _cut_out(data: bytes, random: Random) -> bytes:
    start = random.randint(0, len(data))
    return data[:start] + data[start + random.randint(1, 20) :]


def _change_lines(data: bytes, random: Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    k, other = random.randrange(len(lines)), random.randrange(len(lines))
    change = random.randrange(3)
    if change == 0:
        del lines[k]
    elif change == 1:
        lines.insert(other, lines[k])
    else:
        lines[k], lines[other] = lines[other], lines[k]
    return b"".join(lines)


def _swap_tokens(data: bytes, random: Random) -> bytes:
    tokens = (
        sorted(random.sample(list(_TOKEN.finditer(data)), 2), key=re.Match.start)
        if len(_TOKEN.findall(data)) > 1
        else []
    )
    if not tokens:
        return data
    a, b = tokens
    between = data[a.end() : b.start()]
    return data[: a.start()] + b.group() + between + a.group() + data[b.end() :]


def _replace_token(data: bytes, random: Random) -> bytes:
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return random.choice(NUMBERS)
    token = random.choice(tokens)
    return data[: token.start()] + random.choice(NUMBERS + TOKENS) + data[token.end() :]


def _insert(data: bytes, random: Random) -> bytes:
    place = random.randint(0, len(data))
    return data[:place] + random.choice(TOKENS + NUMBERS) + data[place:]


def _repeat(data: bytes, random: Random) -> bytes:
    start = random.randint(0, len(data))
    piece = data[start : start + random.randint(1, 60)]
    return data[:start] + piece * random.randint(2, 20) + data[start:]


def _encode(data: bytes, random: Random) -> bytes:
    text = data.decode("utf-8", "replace")
    encoding = random.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "latin-1"))
    return text.encode(encoding, "replace").replace(b"\n", random.choice((b"\n", b"\r\n", b"\r")))


_KINDS: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip_bytes, _truncate, _cut_out, _change_lines, _swap_tokens, _replace_token, _insert,
    _repeat, _encode,
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A format to damage: `write` makes a small data set, `files` of which are damaged."""

    write: Callable[[Path], None]
    files: tuple[str, ...]


def _coco(root: Path) -> None:
    content = {**make.CONTENT, "info": {"year": 2024, "description": "Größe"}}
    make.coco(root, json.dumps(content, indent=1, ensure_ascii=False).encode())


def _voc(root: Path) -> None:
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (root / "Annotations").mkdir()
    for name in "ab":
        make.image(root / "JPEGImages" / f"{name}.png", 40, 60)
        (root / "Annotations" / f"{name}.xml").write_text(
            f'<?xml version="1.0" encoding="utf-8"?>\n<annotation>\n<filename>{name}.png</filename>'
            "\n<size><width>60</width><height>40</height><depth>3</depth></size>\n<object>\n"
            "<name>cat</name>\n<difficult>0</difficult>\n<bndbox>\n<xmin>1</xmin>\n<ymin>2</ymin>\n"
            "<xmax>30.5</xmax>\n<ymax>20</ymax>\n</bndbox>\n</object>\n</annotation>\n"
        )


def _yolo(root: Path) -> None:
    for name in "ab":
        make.image(root / "images" / "north" / f"{name}.png", 40, 60)
    make.image(root / "images" / "south" / "c.png", 40, 60)
    rows = {
        "north/a": "0 0.5 0.5 0.25 0.5\n1 0.2 0.3 0.1 0.1\n",
        "north/b": "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n0 0.5 0.5 0.5 0.5\n",
        "south/c": "1 0.1 0.1 0.05 5.0e-02\n",
    }
    for name, text in rows.items():
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "data.yaml").write_text(
        "# a comment\npath: .\ntrain:\n  - images/north\n  - south.txt\nval: images/south\nnc: 2\n"
        "names:\n  0: cat\n  1: Größe\n"
    )
    (root / "south.txt").write_text("./images/south/c.png\n")


def _cvat(root: Path) -> None:
    rows = {
        "a.png": '<box label="cat" occluded="0" xtl="1.50" ytl="2" xbr="11" ybr="22"/>\n'
        '<box label="Größe" occluded="0" xtl="5" ytl="6" xbr="12.5" ybr="14.25" z_order="0">'
        '<attribute name="age">3</attribute></box>',
        "sub/b.png": '<polygon label="cat" points="1.0,2.0;30,2;30,20" z_order="1"/>\n'
        '<box label="cat" xtl="20" ytl="10" xbr="50" ybr="30" rotation="45"/>',
    }
    images = ""
    for k, (name, shapes) in enumerate(rows.items()):
        make.image(root / "images" / name, 40, 60)
        images += f'<image id="{k}" name="{name}" width="60" height="40">\n{shapes}\n</image>\n'
    (root / "annotations.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>\n<meta><task>'
        "<id>7</id><labels>\n<label><name>cat</name><attributes/></label>\n"
        f"<label><name>Größe</name></label>\n</labels></task></meta>\n{images}</annotations>\n"
    )


def _image_folder(root: Path) -> None:
    rows = [
        {"file_name": "a.png", "objects": {"bbox": [[1, 2, 10, 20.5]], "categories": [0]}},
        {
            "file_name": "sub/b.png",
            "width": 60,
            "height": 40,
            "objects": {"bbox": [[0, 0, 60, 40], [3, 3, 9, 9]], "categories": [1, 0]},
        },
        {"file_name": "c.png", "objects": {"bbox": [], "categories": []}, "text": "Größe"},
    ]
    for row in rows:
        make.image(root / str(row["file_name"]), 40, 60)
    (root / "metadata.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )


TARGETS = {
    "coco": Target(_coco, ("annotations/instances_train2017.json",)),
    "voc": Target(_voc, ("Annotations/a.xml", "Annotations/b.xml", "ImageSets/Main/train.txt")),
    "yolo": Target(_yolo, ("data.yaml", "labels/north/a.txt", "labels/north/b.txt", "south.txt")),
    "cvat": Target(_cvat, ("annotations.xml",)),
    "imagefolder": Target(_image_folder, ("metadata.jsonl",)),
}
