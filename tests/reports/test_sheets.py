"""Sheets: every picture in its place."""

from PIL import Image

from fasterrcnn.reports.sheets import sheet


def tile(color: str, width: int, height: int) -> tuple[Image.Image, str]:
    return Image.new("RGB", (width, height), color), color


def test_rows_and_columns():
    tiles = [tile("red", 200, 100), tile("green", 50, 100), tile("blue", 20, 10)]
    both = sheet([("Best", tiles), ("None", []), ("Worst", tiles[:1])], columns=2, tile=100)
    assert both.width == 12 + 2 * (100 + 12)
    # rows: title 10, caption 6, tiles 100 | caption 6, tile 10 | title 10, caption 6, tile 50
    assert both.height == 12 + (10 + 6 + 100 + 12) + (6 + 10 + 12) + (10 + 6 + 50 + 12)
    colors = {color: count for count, color in both.getcolors(1 << 16)}
    assert colors[(255, 0, 0)] == 2 * 100 * 50  # made to fit, twice
    assert colors[(0, 128, 0)] == 50 * 100
    assert colors[(0, 0, 255)] == 20 * 10  # not enlarged
    assert both.getpixel((12, 12 + 16)) == (255, 0, 0)
    assert both.getpixel((12 + 112, 12 + 16)) == (0, 128, 0)
    assert both.getpixel((12, 12 + 128 + 6)) == (0, 0, 255)


def test_nothing_and_long_captions():
    assert sheet([("Best", [])]).size[1] == 12
    picture, _ = tile("red", 10, 10)
    both = sheet([("", [(picture, "x" * 500)])], columns=1, tile=100)
    margin = both.crop((114, 0, both.width, both.height))
    assert margin.getcolors() == [(margin.width * margin.height, (255, 255, 255))]
