"""Many pictures on one sheet, each under its caption."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from fasterrcnn.reports import drawing

Tile = tuple[Image.Image, str]  # a picture and its caption

_GAP = 12  # px


def sheet(
    sections: Sequence[tuple[str, Sequence[Tile]]], *, columns: int = 3, tile: int = 480
) -> Image.Image:
    """Sections of tiles under their titles, `columns` tiles in a row.

    A picture larger than `tile` x `tile` px is made to fit; a row is as high as its highest
    picture. Sections without tiles are left out, title and all.
    """
    title_font, font = drawing.load_font(tile // 20), drawing.load_font(tile // 30)
    title_height, caption_height = 2 * (tile // 20), 2 * (tile // 30)
    rows: list[tuple[str, list[Tile]]] = []  # title above the row or "", tiles
    for title, tiles in sections:
        for start in range(0, len(tiles), columns):
            row = [(_fit(picture, tile), text) for picture, text in tiles[start : start + columns]]
            rows.append(("" if start else title, row))
    heights = [
        (title_height if title else 0)
        + max(picture.height for picture, _ in row)
        + caption_height
        + _GAP
        for title, row in rows
    ]
    both = Image.new("RGB", (_GAP + columns * (tile + _GAP), _GAP + sum(heights)), "white")
    canvas = ImageDraw.Draw(both)
    y = _GAP
    for (title, row), height in zip(rows, heights, strict=True):
        top = y
        if title:
            canvas.text((_GAP, y + title_height / 2), title, "black", title_font, anchor="lm")
            top += title_height
        for column, (picture, text) in enumerate(row):
            x = _GAP + column * (tile + _GAP)
            text = _shorten(text, font, tile)
            canvas.text((x, top + caption_height / 2), text, "black", font, anchor="lm")
            both.paste(picture, (x, top + caption_height))
        y += height
    return both


def _fit(picture: Image.Image, tile: int) -> Image.Image:
    """The picture, at most `tile` px wide and high."""
    scale = min(1, tile / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The end of a text that is wider than `width` px, as file names differ at the end."""
    shown = text
    while font.getlength(shown) > width and len(text) > 1:
        text = text[1:]
        shown = f"...{text}"
    return shown
