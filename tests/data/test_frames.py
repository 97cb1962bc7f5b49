"""Images are decoded ahead of time and come in the order of their sources."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

import pytest
from PIL import Image

from fasterrcnn.data import frames
from fasterrcnn.data.sources import Source
from fasterrcnn.pixel_format import FULL


def save(folder: Path, count: int) -> list[Source]:
    for k in range(count):
        Image.new("RGB", (k + 1, 3), (k, k, k)).save(folder / f"{k}.png")
    return [Source(str(folder / f"{k}.png"), f"{k}.png") for k in range(count)]


@pytest.mark.parametrize("count", [0, 2])
def test_the_order_is_kept(tmp_path: Path, count: int):
    images = save(tmp_path, 9)
    (tmp_path / "4.png").write_text("no image")
    with frames.workers(count) as pool:
        read = list(frames.read(images, pool, 3, lambda _: None, FULL))
    assert [frame.name for frame in read] == [source.name for source in images]
    assert read[4].image == "not an image"
    for k in (*range(4), *range(5, 9)):
        assert read[k].image.shape == (3, 3, k + 1)
        assert (read[k].image == k).all()


def test_a_picture_of_other_bands(tmp_path: Path):
    Image.new("RGB", (4, 3), (10, 20, 30)).save(tmp_path / "x.png")
    source = Source(str(tmp_path / "x.png"), "x.png")
    shown = FULL.drawn((3, 1, 1))
    (frame,) = frames.read([source], frames.Here(), 1, lambda _: None, FULL, shown)
    assert frame.image[:, 0, 0].tolist() == [10, 20, 30]
    assert frame.picture is not None and frame.picture[:, 0, 0].tolist() == [30, 10, 10]
    (frame,) = frames.read([source], frames.Here(), 1, lambda _: None, FULL, FULL.drawn((4,)))
    assert frame.image == "3 bands, and band 4 is expected"


def test_no_more_than_a_few_are_decoded_ahead(tmp_path: Path):
    class Counting(frames.Here):
        count = 0

        def submit(self, *args, **kwargs):
            self.count += 1
            return super().submit(*args, **kwargs)

    pool = Counting()
    stream = frames.read(save(tmp_path, 9), pool, 3, lambda _: None, FULL)
    for k in range(3):
        next(stream)
        assert pool.count == k + 4


def test_here_failures_wait_for_the_result_as_in_a_process():
    pool: Executor = frames.Here()
    future = pool.submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        future.result()
    assert pool.submit(int, "7").result() == 7


def test_the_orientation_is_that_of_the_annotations(tmp_path: Path):
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    source = Source(str(tmp_path / "x.jpg"), "x.jpg")
    for annotated, size in ((None, (40, 20)), ((40, 20), (40, 20)), ((20, 40), (20, 40)),
                            ((7, 7), (40, 20))):  # fmt: skip
        (frame,) = frames.read([source], frames.Here(), 1, {"x.jpg": annotated}.get, FULL)
        assert frame.image.shape[1:] == size
