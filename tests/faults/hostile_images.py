"""Hostile image files. Every function writes one file and returns its path."""

from __future__ import annotations

import io
import os
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.places import Place, Skipped

_BOMB = 30_000  # px a side: more than --max-image-pixels
_MUCH = 768 << 20  # bytes: more than a process may take here


def _write(place: Place, name: str, content: bytes) -> Path:
    path = place.given / name
    path.write_bytes(content)
    return path


def _pillow(place: Place, name: str, image: Image.Image, **options: object) -> Path:
    path = place.given / name
    image.save(path, **options)
    return path


def _colors(side: int = 64) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def _zeros(count: int, head: bytes = b"", wbits: int = 15) -> bytes:
    """So many zero bytes, deflated."""
    packer = zlib.compressobj(1, wbits=wbits)
    block = bytes(1 << 20)
    parts = [packer.compress(head), *(packer.compress(block) for _ in range(count >> 20))]
    return b"".join([*parts, packer.compress(bytes(count % len(block))), packer.flush()])


def plain(place: Place) -> Path:
    """A harmless file: what a command takes for it is the base."""
    return _pillow(place, "x.png", _colors())


def _chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    size = struct.pack(">I", len(content) if length is None else length)
    return size + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(*chunks: bytes, width: int = 64, height: int = 64) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + _chunk(b"IEND", b"")


_ROWS = _chunk(b"IDAT", zlib.compress(bytes(64 * 65)))


def png_bomb(place: Place) -> Path:
    """0.9 GB of zeros in 4 MB."""
    data = _zeros(_BOMB * (_BOMB + 1))
    return _write(place, "x.png", _png(_chunk(b"IDAT", data), width=_BOMB, height=_BOMB))


def png_of_more_rows_than_it_says(place: Place) -> Path:
    return _write(place, "x.png", _png(_chunk(b"IDAT", _zeros(_MUCH))))


def png_of_the_largest_sides(place: Place) -> Path:
    return _write(place, "x.png", _png(_ROWS, width=(1 << 31) - 1, height=(1 << 31) - 1))


def png_of_a_thin_line(place: Place) -> Path:
    """Within the number of pixels, but 100 million of them in one row."""
    data = _zeros(100_000_001)
    return _write(place, "x.png", _png(_chunk(b"IDAT", data), width=100_000_000, height=1))


def png_text_bomb(place: Place) -> Path:
    text = _chunk(b"zTXt", b"Comment\0\0" + _zeros(_MUCH))
    return _write(place, "x.png", _png(text, _ROWS))


def png_profile_bomb(place: Place) -> Path:
    profile = _chunk(b"iCCP", b"icc\0\0" + _zeros(_MUCH))
    return _write(place, "x.png", _png(profile, _ROWS))


def png_chunk_of_gigabytes(place: Place) -> Path:
    return _write(place, "x.png", _png(_chunk(b"tEXt", b"a\0b", (1 << 31) - 1), _ROWS))


def gif_of_a_huge_screen(place: Place) -> Path:
    image = _pillow(place, "x.gif", _colors().convert("P"))
    data = bytearray(image.read_bytes())
    data[6:10] = struct.pack("<HH", 65535, 65535)
    return _write(place, "x.gif", bytes(data))


def jpeg_of_the_largest_sides(place: Place) -> Path:
    image = io.BytesIO()
    _colors().save(image, "JPEG")
    data = bytearray(image.getvalue())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 65500, 65500)
    return _write(place, "x.jpg", bytes(data))


def jpeg_of_many_scans(place: Place) -> Path:
    """Its last scan again and again: each goes over the whole image."""
    image = io.BytesIO()
    Image.new("RGB", (3000, 3000), (9, 9, 9)).save(image, "JPEG", progressive=True)
    data = image.getvalue()
    last = data.rindex(b"\xff\xda")
    return _write(place, "x.jpg", data[:last] + data[last:-2] * 2000 + data[-2:])


def jpeg_of_many_sequential_scans(place: Place) -> Path:
    """Its only scan again and again, of the first of three components that have a scan each."""
    image = io.BytesIO()
    Image.new("L", (3000, 3000), 9).save(image, "JPEG")
    data = image.getvalue()
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    component = data[frame + 11 : frame + 13]  # sampling and table, after its number
    three = b"".join(bytes([number]) + component for number in (1, 2, 3))
    head = data[:frame] + b"\xff\xc0\0\x11" + data[frame + 4 : frame + 9] + b"\3" + three
    begin = data[scan : scan + 10]  # without coded data
    return _write(place, "x.jpg", head + data[frame + 13 : scan] + begin * 100_000 + data[-2:])


def bmp_of_the_largest_sides(place: Place) -> Path:
    data = bytearray(_pillow(place, "x.bmp", _colors()).read_bytes())
    data[18:26] = struct.pack("<ii", (1 << 31) - 1, (1 << 31) - 1)
    return _write(place, "x.bmp", bytes(data))


def ppm_of_many_digits(place: Place) -> Path:
    return _write(place, "x.ppm", b"P6 " + b"9" * 100_000 + b" 9 255\n" + bytes(100))


def webp_with_a_lie(place: Place) -> Path:
    data = bytearray(_pillow(place, "x.webp", _colors(), lossless=True).read_bytes())
    data[4:8] = b"\xff" * 4
    data[21:25] = b"\xff" * 4
    return _write(place, "x.webp", bytes(data))


def exif_in_circles(place: Place) -> Path:
    """EXIF whose directories name each other."""
    directory = struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)
    return _pillow(
        place, "x.jpg", _colors(), exif=b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory
    )


def _tiff(tags: dict[int, tuple[int, int, int]], data: bytes = b"", end: int = 0) -> bytes:
    """A TIFF file of one directory: tag -> type, count, value; `end` is the next directory."""
    body = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    start = 8 + len(data)
    directory = struct.pack("<H", len(tags)) + body + struct.pack("<I", end and start)
    return b"II*\0" + struct.pack("<I", start) + data + directory


def _page(width: int, height: int, **more: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1),
            262: (3, 1, 1), 273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height),
            279: (4, 1, width * height % (1 << 32))}  # fmt: skip
    return tags | {int(tag[1:]): entry for tag, entry in more.items()}


def tiff_in_circles(place: Place) -> Path:
    return _write(place, "x.tif", _tiff(_page(8, 8), bytes(64), end=1))


def tiff_of_a_giant_strip(place: Place) -> Path:
    tags = _page(8, 8, t279=(4, 1, (1 << 32) - 1), t278=(4, 1, (1 << 32) - 1))
    return _write(place, "x.tif", _tiff(tags, bytes(64)))


def tiff_of_many_values(place: Place) -> Path:
    tags = _page(8, 8, t273=(4, (1 << 32) - 1, 8), t279=(4, (1 << 32) - 1, 8))
    return _write(place, "x.tif", _tiff(tags, bytes(64)))


def tiff_of_many_bands(place: Place) -> Path:
    """Few pixels of 65,535 bands: 65 GB in 65 kB, deflated."""
    data = _zeros(1 << 26)
    tags = _page(1000, 1000, t277=(3, 1, 65535), t259=(3, 1, 8), t279=(4, 1, len(data)))
    return _write(place, "x.tif", _tiff(tags, data))


def tiff_of_wide_values(place: Place) -> Path:
    """178 million pixels of 8 bytes."""
    data = _zeros(1 << 20)
    tags = _page(13000, 13000, t258=(3, 1, 64), t339=(3, 1, 3), t259=(3, 1, 8),
                 t279=(4, 1, len(data)))  # fmt: skip
    return _write(place, "x.tif", _tiff(tags, data))


def tiff_deflate_bomb(place: Place) -> Path:
    """More bytes in a strip than its rows have."""
    data = _zeros(_MUCH)
    tags = _page(64, 64, t258=(3, 1, 16), t277=(3, 1, 4), t259=(3, 1, 8), t279=(4, 1, len(data)))
    return _write(place, "x.tif", _tiff(tags, data))


def tiff_of_huge_tiles(place: Place) -> Path:
    side = (4, 1, 1 << 24)
    tags = _page(64, 64, t258=(3, 1, 16), t277=(3, 1, 4), t322=side, t323=side, t324=(4, 1, 8),
                 t325=(4, 1, 64))  # fmt: skip
    return _write(place, "x.tif", _tiff(tags, bytes(64)))


def tiff_of_a_thousand_pages(place: Place) -> Path:
    """10,000 directories, each of an image of 64 x 64."""
    one = _page(64, 64)
    size = 2 + 12 * len(one) + 4
    head = b"II*\0" + struct.pack("<I", 8 + 4096) + bytes(4096)
    pages = b""
    for k in range(10_000):
        body = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(one.items()))
        following = 8 + 4096 + (k + 1) * size if k < 9_999 else 0
        pages += struct.pack("<H", len(one)) + body + struct.pack("<I", following)
    return _write(place, "x.tif", head + pages)


def big_tiff_of_exabytes(place: Place) -> Path:
    head = b"II+\0" + struct.pack("<HHQ", 8, 0, 16)
    entries = ((256, 16, 1, 1 << 40), (257, 16, 1, 1 << 40), (258, 16, 1 << 60, 16))
    body = b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    return _write(place, "x.tif", head + struct.pack("<Q", len(entries)) + body + bytes(8))


def _npy(place: Place, header: str, data: bytes = bytes(64), version: int = 1) -> Path:
    text = header.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return _write(place, "x.npy", b"\x93NUMPY" + bytes((version, 0)) + length + text + data)


def npy_of_an_expression(place: Place) -> Path:
    call = f"__import__('os').mkdir({str(place.canary)!r})"
    return _npy(place, f"{{'descr': {call}, 'fortran_order': False, 'shape': (8, 8)}}\n")


def npy_of_objects(place: Place) -> Path:
    path = place.given / "x.npy"
    np.save(path, np.array([[place.canary]], dtype=object), allow_pickle=True)
    return path


def npy_in_brackets(place: Place) -> Path:
    return _npy(place, "(" * 60_000 + ")" * 5_000, version=2)


def npy_of_terabytes(place: Place) -> Path:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (10000, 10000, 60000)}\n"
    return _npy(place, header)


def npy_of_a_negative_shape(place: Place) -> Path:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -64)}\n"
    return _npy(place, header)


def npy_of_a_long_number(place: Place) -> Path:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({'9' * 4000}, 3)}}\n"
    return _npy(place, header)


def _dicom(place: Place, syntax: str, elements: bytes) -> Path:
    if find_spec("pydicom") is None:
        raise Skipped("pydicom is not installed")
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    group = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    return _write(place, "x.dcm", bytes(128) + b"DICM" + group + meta + elements)


def _image_elements(rows: int, columns: int) -> bytes:
    def short(element: int, value: int) -> bytes:
        return struct.pack("<HH2sHH", 0x28, element, b"US", 2, value)

    kind = struct.pack("<HH2sH", 0x28, 4, b"CS", 12) + b"MONOCHROME2 "
    sizes = short(0x10, rows) + short(0x11, columns)
    bits = short(0x100, 8) + short(0x101, 8) + short(0x102, 7) + short(0x103, 0)
    return short(2, 1) + kind + sizes + bits


_PIXELS = b"\xe0\x7f\x10\x00OB\0\0"


def dicom_of_the_largest_sides(place: Place) -> Path:
    data = _PIXELS + struct.pack("<I", 64) + bytes(64)
    return _dicom(place, "1.2.840.10008.1.2.1", _image_elements(65535, 65535) + data)


def dicom_of_undefined_length(place: Place) -> Path:
    data = _PIXELS + b"\xff" * 4 + bytes(4096)
    return _dicom(place, "1.2.840.10008.1.2.1", _image_elements(64, 64) + data)


def dicom_of_gigabytes(place: Place) -> Path:
    data = _PIXELS + struct.pack("<I", (1 << 32) - 2) + bytes(64)
    return _dicom(place, "1.2.840.10008.1.2.1", _image_elements(64, 64) + data)


def dicom_deflate_bomb(place: Place) -> Path:
    head = _image_elements(64, 64) + _PIXELS + struct.pack("<I", _MUCH)
    data = _zeros(_MUCH, head, wbits=-15)
    return _dicom(place, "1.2.840.10008.1.2.1.99", data)


def dicom_of_sequences(place: Place) -> Path:
    """Sequences in sequences, of undefined lengths."""
    one = b"\x28\x00\x00\x30SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return _dicom(place, "1.2.840.10008.1.2.1", one * 50_000)


def pipe(place: Place) -> Path:
    path = place.given / "x.png"
    os.mkfifo(path)
    return path


FILES = (
    png_bomb, png_of_more_rows_than_it_says, png_of_the_largest_sides, png_of_a_thin_line,
    png_text_bomb, png_profile_bomb, png_chunk_of_gigabytes, gif_of_a_huge_screen,
    jpeg_of_the_largest_sides, jpeg_of_many_scans, jpeg_of_many_sequential_scans,
    bmp_of_the_largest_sides, ppm_of_many_digits,
    webp_with_a_lie, exif_in_circles, tiff_in_circles, tiff_of_a_giant_strip, tiff_of_many_values,
    tiff_of_many_bands, tiff_of_wide_values, tiff_deflate_bomb, tiff_of_huge_tiles,
    tiff_of_a_thousand_pages, big_tiff_of_exabytes, npy_of_an_expression, npy_of_objects,
    npy_in_brackets, npy_of_terabytes, npy_of_a_negative_shape, npy_of_a_long_number,
    dicom_of_the_largest_sides, dicom_of_undefined_length, dicom_of_gigabytes, dicom_deflate_bomb,
    dicom_of_sequences, pipe,
)  # fmt: skip
