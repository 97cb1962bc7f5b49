"""Names of pictures: the images' own, each only once."""

from pathlib import Path

import pytest
from PIL import Image

from fasterrcnn.reports.picture_files import picture_names, save


@pytest.mark.parametrize(
    "images, pictures",
    [
        (["x.png", "sub/b.jpg", "c.JPEG"], ["x.png", "sub/b.jpg", "c.JPEG"]),
        (["x.webp", "a.b.tif", "plain"], ["x.jpg", "a.b.jpg", "plain.jpg"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["a.webp", "a.jpg", "a.bmp"], ["a.webp.jpg", "a.jpg", "a.bmp.jpg"]),
        (["a.webp", "a.jpg", "a.webp.jpg"], ["a-2.jpg", "a.jpg", "a.webp.jpg"]),
        (["a.jpg", "A.jpg", "a.jpg"], ["a.jpg", "A-2.jpg", "a-3.jpg"]),
        (["one/a.jpg", "two/a.jpg"], ["one/a.jpg", "two/a.jpg"]),
        ([], []),
    ],
)
def test_picture_names(images: list[str], pictures: list[str]):
    assert picture_names(images) == pictures


def test_save_writes_what_the_suffix_says(tmp_path: Path):
    picture = Image.new("RGB", (9, 7), "red")
    picture.putpixel((4, 3), (0, 0, 255))
    for name, kind in (("sub/a.png", "PNG"), ("b.jpg", "JPEG"), ("c.JPEG", "JPEG")):
        save(picture, tmp_path / name)
        with Image.open(tmp_path / name) as read:
            assert (read.format, read.size) == (kind, (9, 7))
            red, _, blue = read.convert("RGB").getpixel((4, 3))
            assert red < 60 and blue > 190, "colors of thin lines are kept"
