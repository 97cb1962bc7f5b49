"""Pixels of every kind of file against known values, and headers of damaged ones."""

import os
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fasterrcnn.data import formats, images
from fasterrcnn.data.pixel_values import BYTE, FLOAT, INTEGER
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError
from fasterrcnn.pixel_format import PixelFormat
from tests.data import make

RGB = np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)


def pixels(path: Path, *, apply_orientation: bool = False) -> np.ndarray:
    image = images.decode(path, apply_orientation=apply_orientation)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp"])
def test_lossless_formats_are_exact(tmp_path: Path, suffix: str):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(RGB).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert (pixels(path) == RGB).all()
    assert header_of(path) == (40, 60, 1, BYTE)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_what_pillow_decodes(tmp_path: Path, mode: str):
    path = tmp_path / "x.jpg"
    Image.fromarray(RGB).convert(mode).save(path, quality=90)
    assert (pixels(path) == np.array(Image.open(path).convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_png_modes(tmp_path: Path, mode: str):
    path = tmp_path / "x.png"
    Image.fromarray(RGB).convert(mode).save(path)
    assert (pixels(path) == np.array(Image.open(path).convert("RGB"))).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_read_as_stored_or_scaled(tmp_path: Path, suffix: str):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(ramp).save(path)
    stored, full, own = (
        images.decode(path, apply_orientation=False, pixel_format=PixelFormat(value_range))
        for value_range in (None, "full", "1000,1510")
    )
    assert (stored.dtype, full.dtype, own.dtype) == (torch.float32, torch.uint8, torch.float32)
    assert (stored.numpy() == ramp).all()
    assert (full.numpy() == ramp >> 8).all()
    expected = ((ramp.astype(np.float64) - 1000) / 2).clip(-255, 510)
    assert (own.numpy() == expected).all()
    assert images.inspect(path).header[:4] == (256, 256, 1, INTEGER)


def test_sixteen_bits_of_color_are_known_by_the_header(tmp_path: Path):
    """Pillow gives such files the mode of 8 bits."""
    ramp = torch.arange(3 * 256, dtype=torch.int32).reshape(3, 16, 16) * 80
    rows = ramp.permute(1, 2, 0).numpy().astype(">u2").tobytes()
    path = tmp_path / "x.png"
    path.write_bytes(png16(rows, 16, 16))
    assert Image.open(path).mode == "RGB"
    assert images.inspect(path).header[:4] == (16, 16, 1, INTEGER)
    stored = images.decode(path, apply_orientation=False)
    assert stored.equal(ramp.float())
    full = images.decode(path, apply_orientation=False, pixel_format=PixelFormat("full"))
    assert full.equal((ramp >> 8).to(torch.uint8))


def png16(rows: bytes, height: int, width: int) -> bytes:
    """A PNG file of 16-bit RGB pixels, big-endian."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    stride = width * 6
    lines = b"".join(b"\0" + rows[y * stride : (y + 1) * stride] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_floating_point_values(tmp_path: Path):
    values = np.linspace(270, 310, 2400, dtype=np.float32).reshape(40, 60)
    path = tmp_path / "x.tif"
    Image.fromarray(values).save(path)
    assert images.inspect(path).header[:4] == (40, 60, 1, FLOAT)
    found = images.decode(path, apply_orientation=False, pixel_format=PixelFormat("270,310"))
    assert np.allclose(found[1].numpy(), (values - 270) / 40 * 255, atol=1e-4)
    with pytest.raises(ValueError, match="floating-point pixels have no known range"):
        images.decode(path, apply_orientation=False, pixel_format=PixelFormat("full"))
    values[3, 4:6] = np.nan, np.inf
    Image.fromarray(values).save(path)
    with pytest.raises(ValueError, match=r"^2 of its pixels are NaN or infinite$"):
        images.decode(path, apply_orientation=False)


def test_animation_gives_its_first_frame(tmp_path: Path):
    frames = [Image.fromarray(np.full((20, 30, 3), 80 * i, np.uint8)) for i in range(3)]
    frames[1].save(tmp_path / "x.gif", save_all=True, append_images=frames[2:])
    assert (pixels(tmp_path / "x.gif") == 80).all()


def header_of(path: Path) -> tuple | str:
    """Size, orientation and depth, or a phrase, as a reader of annotations gets it."""
    header = images.within_limit(images.inspect(path).header)
    return header if isinstance(header, str) else header[:4]


def with_orientation(path: Path, orientation: int, pixels: np.ndarray = RGB) -> Path:
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_when_asked(tmp_path: Path, suffix: str, orientation: int):
    path = with_orientation(tmp_path / f"x.{suffix}", orientation)
    shown = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert (pixels(path, apply_orientation=True) == shown).all()
    header = images.inspect(path).header
    assert header.displayed == shown.shape[:2]
    assert header.stored == pixels(path).shape[:2]  # of a TIFF, Pillow only gives it turned


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, orientation: int):
    path = with_orientation(tmp_path / "x.png", orientation)
    assert header_of(path) == (40, 60, 1, BYTE)
    assert (pixels(path, apply_orientation=True) == RGB).all()


def test_training_and_prediction_read_the_orientation_in_one_place(tmp_path: Path, monkeypatch):
    """torchvision's decoder reads EXIF too, and not as Pillow does: its answer must not count."""
    path = with_orientation(tmp_path / "x.jpg", 6)
    monkeypatch.setattr(images, "header_of", lambda image: images.Header(40, 60, 3))
    upside_down = pixels(path)[::-1, ::-1]
    assert (pixels(path, apply_orientation=True) == upside_down).all()


def test_a_damaged_exif_block_is_no_reason_to_refuse_an_image(tmp_path: Path):
    path = tmp_path / "x.jpg"
    Image.fromarray(RGB).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert header_of(path) == (40, 60, 1, BYTE)
    assert pixels(path, apply_orientation=True).shape == RGB.shape


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
def test_an_image_of_one_pixel(tmp_path: Path, suffix: str):
    Image.new("RGB", (1, 1), (90, 90, 90)).save(tmp_path / f"x.{suffix}")
    assert header_of(tmp_path / f"x.{suffix}") == (1, 1, 1, BYTE)
    assert abs(pixels(tmp_path / f"x.{suffix}").astype(int) - 90).max() <= 2


def test_headers_of_unusable_files(tmp_path: Path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html></html>")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    expected = {
        "missing.jpg": "missing",
        "empty.jpg": "empty file",
        "page.jpg": "not an image",
        "pipe.jpg": "not a regular file",
        "folder.jpg": "not a regular file",
    }
    found = [header_of(tmp_path / name) for name in expected]
    assert dict(zip(expected, found, strict=True)) == expected


def test_files_are_read_as_far_as_a_header_needs(tmp_path: Path):
    """The end mark says whether the rest must be looked at."""
    for suffix, seen in (("jpg", images.Seen.END), ("png", images.Seen.END), ("bmp", 2)):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(RGB).save(path)
        assert images.inspect(path) == (images.Header(40, 60, 1), seen, "")
    for suffix in ("jpg", "png"):
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(path.read_bytes()[:-9])
        assert images.inspect(path) == (images.Header(40, 60, 1), images.Seen.HEADER, "")
    (tmp_path / "x.jpg").write_bytes(b"no image")
    assert images.inspect(tmp_path / "x.jpg") == ("not an image", images.Seen.PIXELS, "")
    assert images.inspect(tmp_path / "y.jpg") == ("missing", images.Seen.NOTHING, "")


@pytest.fixture
def limit():
    yield images.limit_pixels
    images.limit_pixels(images.MAX_PIXELS)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])  # three ways to decode
def test_the_limit_of_pixels_holds_for_every_decoder(tmp_path: Path, suffix: str, limit):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(RGB).save(path)
    limit(40 * 60)
    assert header_of(path) == (40, 60, 1, BYTE)
    for count in (40 * 60 - 1, 40 * 60 // 3):  # Pillow itself stops at twice the limit
        limit(count)
        assert f"more than {count} pixels" in header_of(path)
        assert "--max-image-pixels" in header_of(path)
        with pytest.raises(images.Unsettled, match="--max-image-pixels"):
            images.decode(path, apply_orientation=False)


def test_a_decompression_bomb_is_stopped_at_its_header(tmp_path: Path):
    Image.new("1", (30000, 30000)).save(tmp_path / "bomb.png")
    assert "more than 178956970 pixels" in header_of(tmp_path / "bomb.png")


def test_a_large_image_is_read_without_a_warning(tmp_path: Path, shell):
    Image.new("1", (12000, 10000)).save(tmp_path / "large.png")  # Pillow warns from 89 million on
    code = "import sys; from fasterrcnn.data import images; print(images.inspect(sys.argv[1]))"
    done = shell([sys.executable, "-c", code, tmp_path / "large.png"])
    assert (done.out, done.err) == (
        "Verdict(header=Header(height=10000, width=12000, orientation=1, depth=8, "
        "bands=1, layout=<Layout.PLAIN: 0>, nodata='', window=''), "
        "seen=<Seen.END: 2>, damage='')\n",
        "",
    )


def test_no_system_error_is_taken_for_a_damaged_file(tmp_path: Path, monkeypatch):
    path = tmp_path / "x.jpg"
    Image.fromarray(RGB).save(path)
    for error, phrase in (
        (OSError(5, "Input/output error"), "cannot be read (Input/output error)"),
        (MemoryError(), "not enough memory"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(images, "JpegImageFile", raising(error))
            assert phrase in images.inspect(path).header
            assert images.inspect(path).seen == images.Seen.NOTHING


def raising(error: Exception):
    def call(*_):
        raise error

    return call


def test_truncated_files_are_named_as_such(tmp_path: Path):
    for suffix in ("jpg", "png"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(RGB).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert header_of(path) == (40, 60, 1, BYTE)
        with pytest.raises(ValueError, match="truncated"):
            images.decode(path, apply_orientation=False)


def test_a_file_that_decodes_to_another_size_than_its_header_says(tmp_path: Path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "x.png")
    monkeypatch.setattr(images, "header_of", lambda image: images.Header(60, 40, 1))
    with pytest.raises(ValueError, match="height 60, width 40 in its header, but height 40"):
        images.decode(tmp_path / "x.png", apply_orientation=False)


def test_an_image_of_a_split_that_cannot_be_decoded_is_named(tmp_path: Path):
    make.coco(tmp_path)
    data = formats.read(tmp_path, "train", "auto", (), Problems())
    assert images.decode_of(data, 0).shape == (3, 40, 60)
    Path(data.path(0)).write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"^{re.escape(data.path(0))}: "):
        images.decode_of(data, 0)
