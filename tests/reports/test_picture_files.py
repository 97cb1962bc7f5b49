"""Names of pictures: the images' own, each only once."""

from pathlib import Path

import pytest
from PIL import Image

from fasterrcnn.data.sources import MARK
from fasterrcnn.reports.picture_files import picture_names, save


@pytest.mark.parametrize(
    "images, pictures",
    [
        (["x.png", "sub/b.jpg", "c.JPEG"], ["x.jpg", "sub/b.jpg", "c.jpg"]),
        (["x.webp", "a.b.tif", "plain"], ["x.jpg", "a.b.jpg", "plain.jpg"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png.jpg"]),
        (["a.webp", "a.jpg", "a.bmp"], ["a.webp.jpg", "a.jpg", "a.bmp.jpg"]),
        (["a.webp", "a.jpg", "a.webp.jpg"], ["a-2.jpg", "a.jpg", "a.webp.jpg"]),
        (["a.jpg", "A.jpg", "a.jpg"], ["a.jpg", "A.jpg.jpg", "a-2.jpg"]),
        (["one/a.jpg", "two/a.jpg"], ["one/a.jpg", "two/a.jpg"]),
        ([], []),
    ],
)
def test_picture_names(images: list[str], pictures: list[str]):
    assert picture_names(images) == pictures


def test_names_with_another_suffix():
    assert picture_names(["a.jpg", "b/a.png", "a.png"], ".txt") == ["a.txt", "b/a.txt", "a.png.txt"]


def test_a_picture_is_a_jpeg_with_its_colors_and_its_mark(tmp_path: Path):
    picture = Image.new("RGB", (9, 7), "red")
    picture.putpixel((4, 3), (0, 0, 255))
    save(picture, tmp_path / "sub" / "a.jpg")
    with Image.open(tmp_path / "sub" / "a.jpg") as read:
        assert (read.format, read.size, read.info["comment"]) == ("JPEG", (9, 7), MARK)
        red, _, blue = read.convert("RGB").getpixel((4, 3))
        assert red < 60 and blue > 190, "colors of thin lines are kept"


def test_a_picture_longer_than_a_jpeg_can_be_is_reduced(tmp_path: Path):
    save(Image.new("RGB", (70_000, 140)), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as read:
        assert read.size[0] <= 65_535 and 129 <= read.size[1] <= 132
