"""Pixels of every kind of file against known values, and headers of damaged ones."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fasterrcnn.data import images

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
    assert images.read_header(path) == (40, 60, 1)


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
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(ramp).save(path)
    assert (pixels(path) == (ramp >> 8)[..., None]).all()


def test_animation_gives_its_first_frame(tmp_path: Path):
    frames = [Image.fromarray(np.full((20, 30, 3), 80 * i, np.uint8)) for i in range(3)]
    frames[1].save(tmp_path / "x.gif", save_all=True, append_images=frames[2:])
    assert (pixels(tmp_path / "x.gif") == 80).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_when_asked(tmp_path: Path, suffix: str, orientation: int):
    image = Image.fromarray(RGB)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    image.save(path, exif=exif)
    shown = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert (pixels(path, apply_orientation=True) == shown).all()
    header = images.read_header(path)
    assert header.displayed == shown.shape[:2]
    assert header.stored == pixels(path).shape[:2]  # of a TIFF, Pillow only gives it turned


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
    found = [images.read_header(tmp_path / name) for name in expected]
    assert dict(zip(expected, found, strict=True)) == expected


def test_a_decompression_bomb_is_stopped_at_its_header(tmp_path: Path):
    Image.new("1", (30000, 30000)).save(tmp_path / "bomb.png")
    assert "--max-image-pixels" in images.read_header(tmp_path / "bomb.png")


def test_truncated_files_are_named_as_such(tmp_path: Path):
    for suffix in ("jpg", "png"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(RGB).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert images.read_header(path) == (40, 60, 1)
        with pytest.raises(ValueError, match="truncated"):
            images.decode(path, apply_orientation=False)


def test_float_pixels_are_refused(tmp_path: Path):
    Image.fromarray(RGB[..., 0].astype(np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="no known range"):
        images.decode(tmp_path / "x.tif", apply_orientation=False)
