"""TIFF files of many bands, written here in every layout, and what becomes of damaged ones."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasterrcnn.data import images
from fasterrcnn.data.bands import Layout
from fasterrcnn.data.pixel_values import BYTE, FLOAT, INTEGER
from fasterrcnn.pixel_format import AS_STORED, PixelFormat
from tests.faults import hostile_images
from tests.faults.places import Place

H, W = 37, 50
RANDOM = np.random.default_rng(0)
_KINDS = {"u": 1, "i": 2, "f": 3}


def values(dtype: str, bands: int) -> np.ndarray:
    """An image ``(H, W, bands)``."""
    scale = {"u1": 255, "u2": 65535, "i2": 30000}.get(dtype, 1)
    return (RANDOM.random((H, W, bands)) * scale).astype(dtype)


def predicted(block: np.ndarray, predictor: int, order: str) -> bytes:
    """A block ``(rows, columns, N)`` as it is compressed."""
    dtype = block.dtype
    if predictor == 2:
        bits = np.ascontiguousarray(block).view(f"u{dtype.itemsize}")
        block = np.diff(bits, axis=1, prepend=np.zeros_like(bits[:, :1])).view(dtype)
    if predictor < 3:
        return block.astype(dtype.newbyteorder(order)).tobytes()
    rows, _, samples = block.shape
    raw = block.astype(dtype.newbyteorder(">")).view(np.uint8).reshape(rows, -1, dtype.itemsize)
    ranks = raw.transpose(0, 2, 1).reshape(rows, -1, samples)
    return np.diff(ranks, axis=1, prepend=np.zeros_like(ranks[:, :1])).tobytes()


def write(
    path: Path,
    pages: list[np.ndarray],
    *,
    planar: bool = False,
    tile: int = 0,
    predictor: int = 0,
    order: str = "<",
    photometric: int = 1,
    extra: int = 0,
    compression: int | None = None,
    orientation: int = 1,
    bits: int | None = None,
) -> Path:
    """A TIFF file of pages ``(H, W, N)``; with a `predictor` (1: none) deflated; `tile`: the side
    of tiles (px), 0: strips of 16 rows."""
    body = b""
    directories = []
    for array in pages:
        height, width, samples = array.shape
        offsets, counts = [], []
        for plane in np.split(array, samples, axis=2) if planar else [array]:
            rows, columns = (tile, tile) if tile else (16, width)
            for y in range(0, height, rows):
                for x in range(0, width, columns):
                    block = plane[y : y + rows, x : x + columns]
                    if tile:
                        missing = [(0, tile - side) for side in block.shape[:2]]
                        block = np.pad(block, (*missing, (0, 0)))
                    raw = predicted(block, predictor, order)
                    data = zlib.compress(raw) if predictor else raw
                    offsets.append(8 + len(body))
                    counts.append(len(data))
                    body += data + b"\0" * (len(data) % 2)
        kind = bits or array.itemsize * 8
        tags = {256: [width], 257: [height], 258: [kind] * samples,
                259: [compression or (8 if predictor else 1)], 262: [photometric],
                274: [orientation], 277: [samples], 284: [2 if planar else 1],
                339: [_KINDS[array.dtype.kind]] * samples}  # fmt: skip
        if predictor:
            tags[317] = [predictor]
        if samples > 1:
            tags[338] = [extra] * (samples - (3 if photometric == 2 else 1))
        tags |= (
            {322: [tile], 323: [tile], 324: offsets, 325: counts}
            if tile
            else {273: offsets, 278: [16], 279: counts}
        )
        directories.append({tag: numbers for tag, numbers in tags.items() if numbers})
    place, out = 8 + len(body), b""
    for k, tags in enumerate(directories):
        start = place + len(out)
        behind, entries, more = start + 2 + 12 * len(tags) + 4, b"", b""
        for tag, numbers in sorted(tags.items()):
            packed = struct.pack(f"{order}{len(numbers)}L", *numbers)
            if len(packed) > 4:
                packed, more = struct.pack(f"{order}L", behind + len(more)), more + packed
            entries += struct.pack(f"{order}HHL", tag, 4, len(numbers)) + packed
        after = behind + len(more) if k + 1 < len(directories) else 0
        out += (
            struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}L", after) + more
        )
    head = struct.pack(f"{order}2sHL", b"II" if order == "<" else b"MM", 42, place)
    path.write_bytes(head + body + out)
    return path


def stored(path: Path, wanted: PixelFormat = AS_STORED) -> np.ndarray:
    return (
        images.decode(path, apply_orientation=False, pixel_format=wanted).permute(1, 2, 0).numpy()
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("predictor", [0, 1, 2, 3])
@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize(("dtype", "depth"), [("u1", BYTE), ("u2", INTEGER), ("i2", INTEGER),
                                              ("f4", FLOAT)])  # fmt: skip
def test_every_layout_gives_the_same_values(
    tmp_path: Path, dtype: str, depth: int, planar: bool, tile: int, predictor: int, order: str
):
    if predictor == 3 and dtype != "f4":
        return
    for bands in (2, 4, 10):
        array = values(dtype, bands)
        path = write(tmp_path / "x.tif", [array], planar=planar, tile=tile, predictor=predictor,
                     order=order)  # fmt: skip
        assert images.inspect(path).header[:6] == (H, W, 1, depth, bands, Layout.PLAIN)
        assert np.array_equal(stored(path), array)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize("bands", [1, 4])
def test_every_type_gives_the_same_values(tmp_path: Path, bands: int, tile: int, order: str):
    """Of one band too, which Pillow reads of some types, and of others wrongly."""
    for dtype in ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"):
        array = (RANDOM.random((H, W, bands)) * 200 - (0 if dtype[0] == "u" else 100)).astype(dtype)
        array[0, 0] = 2**31 if dtype == "u4" else array[0, 0]
        path = write(tmp_path / "x.tif", [array], tile=tile, order=order)
        depth = {"u1": BYTE, "f": FLOAT}.get(dtype if dtype == "u1" else dtype[0], INTEGER)
        assert images.inspect(path).header[3:5] == (depth, bands)
        assert np.array_equal(stored(path), array.astype("u1" if dtype == "u1" else "f4"))
    path = write(tmp_path / "x.tif", [values("u1", bands).astype("u8")])
    with pytest.raises(ValueError, match=r"64,.* bits: needs tifffile"):
        stored(path)


def test_sixteen_bits_of_color_are_not_rounded(tmp_path: Path):
    array = values("u2", 3)
    path = write(tmp_path / "x.tif", [array], photometric=2)
    assert images.inspect(path).header[3:6] == (INTEGER, 3, Layout.PLAIN)
    assert np.array_equal(stored(path, PixelFormat()), array)


def test_as_rgb_the_first_three_of_four_bands_are_those_of_pillow(tmp_path: Path):
    path = write(tmp_path / "x.tif", [values("u1", 4)], photometric=2)
    assert np.array_equal(stored(path, PixelFormat()), np.asarray(Image.open(path).convert("RGB")))
    with pytest.raises(ValueError, match="4 bands, where 5 are expected"):
        stored(path, PixelFormat(None, 5))
    with pytest.raises(ValueError, match="4 bands, and band 6 is expected"):
        stored(path, PixelFormat(None, 2, (6, 1)))
    chosen = stored(path, PixelFormat(None, 2, (4, 1)))
    assert np.array_equal(chosen, stored(path)[:, :, [3, 0]])


def test_ten_bands_are_no_rgb(tmp_path: Path):
    path = write(tmp_path / "x.tif", [values("u1", 10)], planar=True)
    with pytest.raises(ValueError, match="10 bands, where RGB or gray is expected"):
        stored(path, PixelFormat())


def test_alpha_is_known(tmp_path: Path):
    path = write(tmp_path / "x.tif", [values("u2", 4)], photometric=2, extra=2)
    assert images.inspect(path).header[4:6] == (4, Layout.ALPHA)


def test_pages_are_bands_where_asked_for(tmp_path: Path):
    array = values("u2", 5)
    path = write(tmp_path / "x.tif", np.split(array, 5, axis=2))
    assert images.inspect(path).header[:6] == (H, W, 1, INTEGER, 5, Layout.PAGES)
    assert np.array_equal(stored(path), array)
    gray = stored(path, PixelFormat())
    assert np.array_equal(gray, array[:, :, :1].repeat(3, axis=2))  # the first page, as ever


def test_a_page_of_another_size_is_named(tmp_path: Path):
    array = values("u1", 3)
    path = write(tmp_path / "x.tif", [array[:, :, :1], array[:, :, 1:2], array[:20, :, 2:]])
    assert images.inspect(path).header[4:6] == (1, Layout.PLAIN)
    assert images.odd_page(path) == f"page 3 has height 20, width {W}, and the first {H}, {W}"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(tmp_path: Path, orientation: int):
    array = values("u1", 3)
    path = write(tmp_path / "three.tif", [array], photometric=2, orientation=orientation)
    shown = np.asarray(Image.open(path).convert("RGB"))
    four = np.concatenate([array, array[:, :, :1]], axis=2)
    path = write(tmp_path / "four.tif", [four], photometric=2, orientation=orientation)
    assert images.inspect(path).header.stored == shown.shape[:2]
    assert np.array_equal(stored(path)[:, :, :3], shown)


def test_damaged_files_are_refused_in_a_phrase(tmp_path: Path):
    for predictor in (0, 1):
        path = write(tmp_path / "x.tif", [values("u1", 5)], predictor=predictor)
        whole = bytearray(path.read_bytes())
        whole[8:600] = b"\xff" * 592
        path.write_bytes(whole)
        if predictor:
            with pytest.raises(ValueError, match="cannot be decoded"):
                stored(path)
    path.write_bytes(whole[:600])
    assert isinstance(images.inspect(path).header, str)


def test_the_limit_of_pixels_counts_no_bytes(tmp_path: Path, monkeypatch):
    """Bands are decoded as a gray image of their bytes."""
    array = values("u2", 9)
    path = write(tmp_path / "x.tif", [array], tile=16, predictor=2)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # Pillow refuses twice as many
    assert np.array_equal(stored(path), array)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ValueError, match="much larger than the image"):
        stored(path)


def test_nan_is_counted(tmp_path: Path):
    array = values("f4", 4)
    array[3, 4, 2] = np.nan
    path = write(tmp_path / "x.tif", [array])
    with pytest.raises(ValueError, match="1 of its pixels are NaN or infinite"):
        stored(path)


def test_what_needs_the_extra_names_it(tmp_path: Path):
    path = write(tmp_path / "x.tif", [values("u1", 5)], compression=7)
    try:
        import tifffile  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ValueError, match="needs tifffile and imagecodecs; pip install"):
            stored(path)
    else:
        with pytest.raises(ValueError, match="cannot be decoded"):  # it is no JPEG
            stored(path)


def test_bands_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A few pixels of 65,535 bands are refused before memory is taken for them."""
    (tmp_path / "given").mkdir()
    path = hostile_images.tiff_of_many_bands(Place(tmp_path, tmp_path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", images.MAX_PIXELS)
    with pytest.raises(ValueError, match=r"61.0 GiB of pixels; .* --max-image-pixels"):
        images.decode(path, apply_orientation=True, pixel_format=PixelFormat(channels=65535))
