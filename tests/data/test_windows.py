"""Windows of image files: the same pixels as of the whole file, from the tiles that they need."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn.data import images, pixel_values, tiff_files, tiles, windows
from fasterrcnn.data.annotations import Annotations, Strings
from fasterrcnn.data.bands import Window
from fasterrcnn.errors import StorageError
from fasterrcnn.pixel_format import PixelFormat
from fasterrcnn.progress import Progress
from tests.data import make
from tests.data.test_tiff_files import H, W, values, write

SIZE = np.array([H, W])
RGB = PixelFormat("full")


def saved(path: Path, pixels: np.ndarray, **options) -> Path:
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels.squeeze()).save(path, **options)
    return path


def same_everywhere(path: Path, form: PixelFormat, *, rotate: bool = False, copies=None) -> None:
    """Compare windows with the whole file as `images.decode` gives it."""
    whole = images.decode(path, apply_orientation=rotate, pixel_format=form)
    height, width = whole.shape[1:]
    image = windows.Image(str(path), rotate, form, copies)
    for window in (Window(0, 0, height, width), Window(3, 5, 20, 21), Window(16, 17, 37, 37),
                   Window(0, 15, 1, 16)):  # fmt: skip
        found = windows.read(image, window, np.array([height, width]))
        assert found.dtype == whole.dtype
        top, left, bottom, right = window
        assert found.equal(whole[:, top:bottom, left:right])


def in_windows(path: Path) -> bool:
    with path.open("rb") as file:
        return windows._in_windows(file) is not None


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize(("dtype", "bands"), [("u1", 1), ("u1", 3), ("u2", 1), ("f4", 1)])
def test_a_tiled_tiff_that_pillow_reads_too(tmp_path: Path, dtype, bands, compression):
    path = write(
        tmp_path / "a.tif", [values(dtype, bands)], tile=16, photometric=2 if bands == 3 else 1
    )
    if compression:
        path = tmp_path / "b.tif"
        with Image.open(tmp_path / "a.tif") as image:
            image.save(path, compression=compression, tile=(16, 16))
    same_everywhere(path, RGB if dtype[0] == "u" else PixelFormat("0,1"))
    same_everywhere(path, PixelFormat("image"))


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize(("predictor", "order"), [(0, "<"), (1, ">"), (2, "<")])
def test_a_tiled_tiff_of_many_bands(tmp_path: Path, dtype, planar, predictor, order):
    path = write(
        tmp_path / "a.tif", [values(dtype, 5)], planar=planar, predictor=predictor, tile=16,
        order=order,
    )  # fmt: skip
    assert in_windows(path)
    same_everywhere(path, PixelFormat(None, 3, (4, 3, 2)))
    same_everywhere(path, PixelFormat(None, 5))


def test_a_tiled_tiff_whose_pages_are_bands(tmp_path: Path):
    path = write(tmp_path / "a.tif", [values("u2", 1) for _ in range(4)], tile=16)
    assert in_windows(path)
    same_everywhere(path, PixelFormat(None, 4))


@pytest.mark.parametrize(
    ("dtype", "shape"), [("u1", (H, W)), (">u2", (H, W, 4)), ("f4", (H, W, 3))]
)
def test_an_array(tmp_path: Path, dtype, shape):
    path = saved(tmp_path / "a.npy", (np.random.default_rng(0).random(shape) * 200).astype(dtype))
    same_everywhere(path, PixelFormat(None, 0))
    by_column = saved(tmp_path / "b.npy", np.asfortranarray(np.load(path)))
    same_everywhere(by_column, PixelFormat(None, 0))


@pytest.mark.parametrize("fill", [(), (100.0, 110.0, 120.0)])
@pytest.mark.parametrize("name", ["a.tif", "a.npy", "a.png"])
def test_pixels_without_data(tmp_path: Path, name: str, fill):
    """As in the whole file; of a raw copy too."""
    pixels = values("u1", 3) % 4
    path = tmp_path / name
    if name == "a.tif":
        write(path, [pixels], tile=16, photometric=2)
    else:
        saved(path, pixels)
    form = PixelFormat("full", nodata="0", fill=fill)
    copies = str(tmp_path / "copies")
    missing = windows.Copies([windows.Image(str(path), False, form, copies)], 0)
    windows.make_copies(missing, Progress(1, "images"))
    if fill:  # NaN is not equal to itself
        same_everywhere(path, form, copies=copies)
    file = PixelFormat(None, 0, nodata="0")
    whole = images.decode(path, apply_orientation=False, pixel_format=file)
    found = windows.grid(str(path), file, 10**6)
    assert np.array_equal(found, whole.permute(1, 2, 0).reshape(-1).numpy(), equal_nan=True)
    assert np.isnan(found).any() and windows.check(str(path)) == (name != "a.png")


def test_only_the_tiles_of_the_window_are_read(tmp_path: Path, monkeypatch):
    path = write(tmp_path / "a.tif", [values("u1", 3)], tile=16, photometric=2)
    read, kept = [], tiff_files._read
    monkeypatch.setattr(tiff_files, "_read", lambda *a: (read.append(a[1:]), kept(*a))[1])
    image = windows.Image(str(path), False, RGB)
    windows.read(image, Window(17, 17, 30, 40), SIZE)
    assert len(read) - 1 == 2  # besides the order of bytes
    monkeypatch.setattr(images, "decode", None)  # the whole file is not decoded
    windows.read(image, Window(0, 0, 1, 1), SIZE)


def test_values_are_sampled_some_rows_at_a_time(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(windows, "_ROWS", 5)
    for path in (write(tmp_path / "a.tif", [values("u2", 4)], tile=16),
                 saved(tmp_path / "a.npy", values("u2", 1))):  # fmt: skip
        for form in (PixelFormat(None), PixelFormat(None, 0), PixelFormat(None, 2, (2, 1))):
            if path.suffix == ".npy" and form.bands:
                continue
            whole = images.decode(path, apply_orientation=False, pixel_format=form)
            for count in (10, 100, 500, 10**6):
                expected = pixel_values.sample(whole.permute(1, 2, 0), count)
                assert windows.grid(str(path), form, count).tolist() == expected.tolist()
        assert windows.check(str(path))


def test_pixels_are_read_some_rows_at_a_time(tmp_path: Path, monkeypatch):
    """Their own range of values is that of the whole image; nothing else is decoded for it."""
    monkeypatch.setattr(windows, "_ROWS", 5)
    monkeypatch.setattr(windows, "_PREPARED_ROWS", 2)
    for path in (write(tmp_path / "a.tif", [values("u2", 4)], tile=16),
                 saved(tmp_path / "a.npy", values("f4", 4))):  # fmt: skip
        for form in (PixelFormat("image", 4), PixelFormat("10,90", 2, (4, 1))):
            whole = images.decode(path, apply_orientation=False, pixel_format=form)
            with monkeypatch.context() as patch:
                patch.setattr(images, "decode", None)
                parts = [*windows.pieces(str(path), form)]
            assert len(parts) > H // 3
            assert torch.cat(parts).permute(2, 0, 1).equal(whole)


def test_files_that_have_no_windows(tmp_path: Path):
    strips = write(tmp_path / "strips.tif", [values("u1", 3)], photometric=2)
    turned = write(tmp_path / "turned.tif", [values("u1", 4)], tile=16, orientation=6)
    divided = write(tmp_path / "rgba.tif", [values("u1", 4)], tile=16, photometric=2, extra=1)
    for path in (strips, turned, divided, saved(tmp_path / "a.png", values("u1", 3))):
        assert not in_windows(path)
        same_everywhere(path, PixelFormat("full", 4) if path == turned else RGB, rotate=True)


def split(
    paths: list[Path], form: PixelFormat, copies: Path | None, *, rotate: bool, side: int = 32
) -> Annotations:
    """Tiles of images without boxes."""
    data = make.annotations_of([[] for _ in paths])
    return tiles.cut(
        dataclasses.replace(
            data,
            files=Strings(map(str, paths)),
            sizes=np.array([[H, W]] * len(paths), np.int32),
            rotate=np.full(len(paths), rotate),
            pixel_format=form,
            copies=copies and str(copies),
        ),
        side,
        8,
    )


def copied(path: Path, form: PixelFormat, folder: Path, *, rotate: bool = False) -> np.ndarray:
    """The raw copy of the file, after windows of it were compared."""
    missing = windows.missing_copies([split([path], form, folder, rotate=rotate)])
    windows.make_copies(missing, Progress(1, "images", "copying"))
    (file,) = folder.glob("*.npy")
    found = np.load(file)
    assert found.nbytes <= missing.size
    assert not windows.missing_copies([split([path], form, folder, rotate=rotate)]).images
    path_of = windows._copy_of(windows.Image(str(path), rotate, form, str(folder)))
    assert path_of == file
    same_everywhere(path, form, rotate=rotate, copies=str(folder))
    return found


def test_a_raw_copy_holds_the_channels_as_stored(tmp_path: Path):
    rgb = saved(tmp_path / "rgb.png", values("u1", 3))
    assert copied(rgb, RGB, tmp_path / "a").shape == (H, W, 3)
    gray = saved(tmp_path / "gray.png", values("u2", 1))
    found = copied(gray, PixelFormat("100,9000"), tmp_path / "b")
    assert (found.dtype, found.shape) == (np.uint16, (H, W, 1))
    copied(gray, PixelFormat("image"), tmp_path / "c")
    strips = write(tmp_path / "strips.tif", [values("f4", 5)])
    assert copied(strips, PixelFormat(None, 3, (5, 1, 2)), tmp_path / "d").shape == (H, W, 3)


def test_a_raw_copy_has_the_range_of_the_bands_that_are_read(tmp_path: Path):
    path = write(tmp_path / "strips.tif", [values("u2", 4) * np.array([1, 9, 1, 1], "u2")])
    copied(path, PixelFormat("image", 2, (4, 1)), tmp_path / "raw")


def test_a_raw_copy_is_as_displayed(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = saved(tmp_path / "a.png", values("u1", 3), exif=exif)
    copied(path, RGB, tmp_path / "turned", rotate=True)
    copied(path, RGB, tmp_path / "plain")


def test_a_changed_file_has_another_copy(tmp_path: Path):
    path = saved(tmp_path / "a.png", values("u1", 3))
    copied(path, RGB, tmp_path / "copies")
    saved(path, values("u1", 3))
    same_everywhere(path, RGB, copies=str(tmp_path / "copies"))


def test_a_damaged_copy_is_no_damage_of_the_image(tmp_path: Path):
    path = saved(tmp_path / "a.png", values("u1", 3))
    copied(path, RGB, tmp_path / "copies")
    (file,) = (tmp_path / "copies").glob("*.npy")
    file.write_bytes(file.read_bytes()[:-100])
    same_everywhere(path, RGB, copies=str(tmp_path / "copies"))
    path.unlink()
    assert not windows.missing_copies([split([path], RGB, tmp_path, rotate=False)]).images


def test_what_needs_no_copy(tmp_path: Path):
    tiled = write(tmp_path / "tiled.tif", [values("u1", 3)], tile=16, photometric=2)
    array = saved(tmp_path / "a.npy", values("u1", 3))
    whole = saved(tmp_path / "a.png", values("u1", 3))
    folder = tmp_path / "copies"
    assert not windows.missing_copies([split([tiled, array], RGB, folder, rotate=False)]).images
    assert not windows.missing_copies([split([whole], RGB, None, rotate=False)]).images
    one_tile = split([whole], RGB, folder, rotate=False, side=64)
    assert not windows.missing_copies([one_tile]).images
    twice = split([whole, whole], RGB, folder, rotate=False)
    assert windows.missing_copies([twice, twice]).size == H * W * 3


def test_a_folder_without_space_or_permission_is_one_line(tmp_path: Path, monkeypatch):
    path = saved(tmp_path / "a.png", values("u1", 3))
    occupied = tmp_path / "file"
    occupied.touch()
    missing = windows.missing_copies([split([path], RGB, occupied / "copies", rotate=False)])
    with pytest.raises(StorageError, match=r"--data.tile-cache: .*: cannot be written to"):
        windows.make_copies(missing, Progress(1, "images", ""))
    missing = windows.missing_copies([split([path], RGB, tmp_path / "b", rotate=False)])
    huge = missing._replace(size=2**70)
    with pytest.raises(StorageError, match=r"GiB free, raw copies need up to 1099511627776\.0 GiB"):
        windows.make_copies(huge, Progress(1, "images", ""))


def test_damage_is_a_phrase(tmp_path: Path):
    path = write(tmp_path / "a.tif", [values("u1", 3)], tile=16, photometric=2, predictor=2)
    path.write_bytes(path.read_bytes().replace(b"x", b"y"))
    with pytest.raises(ValueError, match="cannot be decoded"):
        windows.read(windows.Image(str(path), False, RGB), Window(0, 0, H, W), SIZE)
    path = saved(tmp_path / "a.npy", values("u1", 3))
    with pytest.raises(ValueError, match="height 37, width 50, but it had height 9, width 50"):
        windows.read(windows.Image(str(path), False, RGB), Window(0, 0, 5, 5), np.array([9, W]))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cannot be"):
        windows.read(windows.Image(str(path), False, RGB), Window(0, 0, H, W), SIZE)
    with pytest.raises(images.Unsettled, match="missing"):
        windows.read(windows.Image(str(tmp_path / "b"), False, RGB), Window(0, 0, 5, 5), SIZE)


def test_gray_is_repeated(tmp_path: Path):
    path = saved(tmp_path / "a.npy", values("u1", 1))
    found = windows.read(windows.Image(str(path), False, RGB), Window(0, 0, 4, 4), SIZE)
    assert found.shape == (3, 4, 4)
    assert found.dtype == torch.uint8


def test_an_image_that_stays_in_its_file(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(windows, "_ROWS", 5)
    path = write(tmp_path / "a.tif", [values("u1", 3)], tile=16, photometric=2)
    whole = images.decode(path, apply_orientation=True, pixel_format=RGB)
    image = windows.in_file(str(path), RGB, 32)
    assert image is not None
    assert image.shape == whole.shape
    assert image[:, 3:20, 7:50].equal(whole[:, 3:20, 7:50])
    for longest, step in ((50, 1), (49, 2), (17, 3), (7, 8)):
        small, k = image.reduced(longest)
        assert k == step
        assert small.equal(whole[:, ::step, ::step])
    assert windows.in_file(str(path), RGB, 64) is None
    assert windows.in_file(str(path), RGB, 0) is None
    assert windows.in_file(str(saved(tmp_path / "a.png", values("u1", 3))), RGB, 32) is None


@pytest.mark.slow
def test_tiles_of_48_megapixels_are_read_faster_from_a_raw_copy(tmp_path: Path):
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 255, (600, 800, 3), dtype=np.uint8))
    coarse.resize((8000, 6000), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=90)
    decoded = windows.Image(str(tmp_path / "a.jpg"), False, RGB)
    copied = decoded._replace(copies=str(tmp_path))
    windows._copy(copied)
    corners = random.integers(0, 4976, (100, 2)).tolist()
    seconds = {}
    for image, count in ((decoded, 5), (copied, 100)):
        started = time.process_time()
        for y, x in corners[:count]:
            windows._decoded.cache_clear()
            windows.read(image, Window(y, x, y + 1024, x + 1024), np.array([6000, 8000])).clone()
        seconds[image] = (time.process_time() - started) / count
    print(f"tiles of 1,024 px per second of CPU time: decoding {1 / seconds[decoded]:.1f}, "
          f"raw copy {1 / seconds[copied]:.1f}")  # fmt: skip
    assert seconds[copied] < seconds[decoded] / 10
