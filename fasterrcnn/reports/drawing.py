"""Boxes and their labels on one image, for people to look at.

Small images are enlarged by a whole factor first, so that text on them can be read: pictures are
larger than their images, boxes are always given in pixels of the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fasterrcnn.data.pixel_values import displayable
from fasterrcnn.reports.comparison import Comparison
from fasterrcnn.reports.placement import place_labels

Color = tuple[int, int, int]  # sRGB, 0..255

# Okabe and Ito, "Color Universal Design", 2008, without black; then five of Paul Tol's "muted" and
# "dark" schemes, 2021: any two are at least 17 apart in CIELAB, also as protanopes and deuteranopes
# see them (Machado et al. 2009).
PALETTE: tuple[Color, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0)),
    *((204, 121, 167), (102, 17, 0), (221, 204, 119), (51, 34, 136), (136, 34, 85), (17, 119, 51)),
)
FOUND, MISSED, FALSE, IGNORED = (0, 158, 115), (240, 228, 66), (213, 94, 0), (153, 153, 153)
# matplotlib's viridis at 0, 1/4 ... 1: from dark to bright for any eye
_VIRIDIS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
_NO_BOX = (255, 255, 255)  # in a legend: text alone
_IN_LEGEND = 6  # classes
_READABLE = 640  # px: the long side that small images are enlarged to, about


class _Mark(NamedTuple):
    box: Sequence[float]  # x1 y1 x2 y2, px of the image
    text: str  # "": no label
    color: Color
    dashed: bool = False
    rim: bool = True  # a thin contrasting line on both sides, to be seen on any background


def draw(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    names: Sequence[str],
    scores: Tensor | None = None,
    truth: dict[str, Tensor] | None = None,
    *,
    legend: bool = True,
) -> Image.Image:
    """Detections or ground truth on their image, a color per class.

    `image` uint8 ``(3, H, W)``; `boxes` ``(D, 4)`` x1 y1 x2 y2 in its pixels, the most important
    first: they lie on top and their labels choose their places first; `labels` ``(D,)``, label 1 is
    ``names[0]``; `scores` ``(D,)`` are written behind the names. `truth`: ``boxes`` and ``labels``
    of the ground truth, dashed, above a line that says so. Where not every box has room for its
    label, a line below counts the classes, unless `legend` is False.
    """
    kinds = [int(label) for label in labels]
    texts = [names[label - 1] for label in kinds]
    if scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores.tolist(), strict=True)]
    marks = [*map(_Mark, boxes.tolist(), texts, map(_color, kinds))]
    line = []
    if truth is not None:
        for box, label in zip(truth["boxes"].tolist(), truth["labels"].tolist(), strict=True):
            marks.append(_Mark(box, names[label - 1], _color(label), dashed=True))
        line = [
            _Mark((), f"{len(boxes)} detected", IGNORED),
            _Mark((), f"{len(truth['boxes'])} annotated", IGNORED, dashed=True),
        ]
    picture, is_labeled = _labeled_picture(image, marks)
    if not is_labeled:
        line += _classes(kinds, names)
    return _with_legend(picture, line) if legend and line else picture


def _color(label: int) -> Color:
    """The color of a class, the same in every picture."""
    return PALETTE[(label - 1) % len(PALETTE)]


def _classes(labels: Sequence[int], names: Sequence[str]) -> list[_Mark]:
    """The most frequent classes and how many there are of each, for a legend."""
    counts = Counter(labels).most_common()
    shown = [_Mark((), f"{n} {names[k - 1]}", _color(k)) for k, n in counts[:_IN_LEGEND]]
    if len(counts) > _IN_LEGEND:
        shown.append(_Mark((), f"and {len(counts) - _IN_LEGEND} more classes", _NO_BOX))
    return shown


def draw_proposals(image: Tensor, boxes: Tensor, scores: Tensor) -> Image.Image:
    """Boxes without classes, from dark (the last) to bright (the best), above a line that says so.

    `image` uint8 ``(3, H, W)``; `boxes` ``(D, 4)`` x1 y1 x2 y2 in its pixels and `scores` ``(D,)``,
    best first.
    """
    ranks = np.linspace(1, 0, max(2, len(boxes)))[: len(boxes)] * (len(_VIRIDIS) - 1)
    channels = [np.interp(ranks, range(len(_VIRIDIS)), _VIRIDIS[:, c]) for c in range(3)]
    colors: list[Color] = [(int(r), int(g), int(b)) for r, g, b in zip(*channels, strict=True)]
    pairs = zip(boxes.tolist(), colors, strict=True)
    marks = [_Mark(box, "", color, rim=False) for box, color in pairs]  # many: rims would hide
    ends = [("best", 0), ("last", -1)][: len(marks)]
    legend = [_Mark((), f"{word} {scores[k]:.2f}", colors[k], rim=False) for word, k in ends]
    legend.append(_Mark((), f"{len(marks)} proposals", _NO_BOX))
    return _with_legend(_picture(image, marks), legend)


def draw_comparison(image: Tensor, comparison: Comparison, names: Sequence[str]) -> Image.Image:
    """What was found, missed (dashed) and falsely detected, above a line that counts them.

    `image` uint8 ``(3, H, W)``; label 1 is ``names[0]``. An object that was found is drawn once, as
    it was detected. The color says which of the three a box is, not its class; a detection that
    counts as none of them is gray. Of proposals only those that found an object are drawn.
    """
    found, missed, others = [], [], []
    for box, score, label, is_found, is_ignored in zip(
        comparison.boxes.tolist(),
        comparison.scores.tolist(),
        comparison.labels.tolist(),
        comparison.found.tolist(),
        comparison.ignored.tolist(),
        strict=True,
    ):
        text = f"{names[label - 1]} {score:.2f}" if comparison.by_class else f"{score:.2f}"
        if is_found:
            found.append(_Mark(box, text, FOUND))
        elif comparison.by_class:  # other proposals would hide the image
            kind, color = ("", IGNORED) if is_ignored else ("false: ", FALSE)
            others.append(_Mark(box, kind + text, color))
    for box, label in zip(
        comparison.missed_boxes.tolist(), comparison.missed_labels.tolist(), strict=True
    ):
        missed.append(_Mark(box, f"missed: {names[label - 1]}", MISSED, dashed=True))
    n_found, n_missed, n_false = comparison.counts
    legend = [
        _Mark((), f"{n_found} found", FOUND),
        _Mark((), f"{n_missed} missed", MISSED, dashed=True),
    ]
    if comparison.by_class:
        legend.append(_Mark((), f"{n_false} false", FALSE))
    else:
        legend.append(_Mark((), f"{len(comparison.boxes) - n_found} other proposals", _NO_BOX))
    if comparison.by_class and comparison.ignored.any():
        legend.append(_Mark((), f"{comparison.ignored.sum()} not counted", IGNORED))
    ordered = [*missed, *others, *found]  # errors are what one looks for: on top
    return _with_legend(_picture(image, ordered), legend)


@cache
def text_color(background: Color) -> Color:
    """Black or white, whichever has more contrast (WCAG 2.1: at least 4.5 to 1 on any color)."""
    channels = np.array(background) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def _picture(image: Tensor, marks: Sequence[_Mark]) -> Image.Image:
    """`_labeled_picture` without the question whether all labels are on it."""
    return _labeled_picture(image, marks)[0]


def _labeled_picture(image: Tensor, marks: Sequence[_Mark]) -> tuple[Image.Image, bool]:
    """The image, enlarged, with all boxes and then all labels, the first on top; and whether there
    was room for every label."""
    picture = Image.fromarray(displayable(image).permute(1, 2, 0).contiguous().cpu().numpy())
    factor = max(1, round(_READABLE / max(picture.size)))
    picture = picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
    boxes = np.array([mark.box for mark in marks], np.float64).reshape(-1, 4) * factor
    canvas = ImageDraw.Draw(picture)
    font, line = _font(picture), _line(picture)
    for mark, box in reversed(list(zip(marks, boxes, strict=True))):
        _outline(canvas, _pixels(box, picture), mark, line)
    texts = [(mark, box) for mark, box in zip(marks, boxes, strict=True) if mark.text]
    sizes = [_label_size(mark.text, font) for mark, _ in texts]
    places = place_labels(np.array([box for _, box in texts]), sizes, *picture.size)
    for (mark, _), place in zip(texts, places, strict=True):
        if place is not None:
            x1, y1, x2, y2 = place
            ink, middle = text_color(mark.color), ((x1 + x2) / 2, (y1 + y2) / 2)
            canvas.rectangle((x1, y1, x2 - 1, y2 - 1), fill=mark.color, outline=ink)
            canvas.text(middle, mark.text, ink, font, anchor="mm")
    return picture, None not in places


def _with_legend(picture: Image.Image, marks: Sequence[_Mark]) -> Image.Image:
    """The picture above a white line of boxes as it has them and what they mean."""
    font, line = _font(picture), _line(picture)
    unit = round(font.size)
    lengths = [
        font.getlength(mark.text) + (0 if mark.color == _NO_BOX else 2.5) * unit for mark in marks
    ]
    width = int(sum(lengths) + unit * len(marks))
    both = Image.new("RGB", (max(picture.width, width), picture.height + 2 * unit), "white")
    both.paste(picture, (0, 0))
    canvas = ImageDraw.Draw(both)
    x, middle = unit / 2, picture.height + unit
    for mark, length in zip(marks, lengths, strict=True):
        text = x
        if mark.color != _NO_BOX:
            box = (int(x), middle - unit // 2, int(x + 2 * unit), middle + unit // 2)
            _outline(canvas, box, mark, line)
            text += 2.5 * unit
        canvas.text((text, middle), mark.text, "black", font, anchor="lm")
        x += length + unit
    return both


def _outline(
    canvas: ImageDraw.ImageDraw, box: tuple[int, int, int, int], mark: _Mark, line: int
) -> None:
    """A box of the mark's color `line` px wide, less if it is so small that it would be filled."""
    x1, y1, x2, y2 = box
    line = min(line, 1 + min(x2 - x1, y2 - y1) // 12)
    if mark.rim:
        rim = max(1, line // 3)
        around = (x1 - rim, y1 - rim, x2 + rim, y2 + rim)
        canvas.rectangle(around, outline=text_color(mark.color), width=line + 2 * rim)
    if not mark.dashed:
        canvas.rectangle(box, outline=mark.color, width=line)
        return
    dash, step, last = 4 * line, 7 * line, line - 1
    for x in range(x1, x2 + 1, step):
        end = min(x + dash, x2)
        canvas.rectangle((x, y1, end, min(y1 + last, y2)), fill=mark.color)
        canvas.rectangle((x, max(y2 - last, y1), end, y2), fill=mark.color)
    for y in range(y1, y2 + 1, step):
        end = min(y + dash, y2)
        canvas.rectangle((x1, y, min(x1 + last, x2), end), fill=mark.color)
        canvas.rectangle((max(x2 - last, x1), y, x2, end), fill=mark.color)


def _pixels(box: np.ndarray, picture: Image.Image) -> tuple[int, int, int, int]:
    """The first and last pixels of a box ``(4,)`` x1 y1 x2 y2: at least one, inside the picture."""
    x1, x2 = np.clip(np.round(box[0::2]) - [0, 1], 0, picture.width - 1).astype(int)
    y1, y2 = np.clip(np.round(box[1::2]) - [0, 1], 0, picture.height - 1).astype(int)
    return int(x1), int(y1), int(max(x1, x2)), int(max(y1, y2))


def _label_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Width and height (px) of a label, the same height for all texts."""
    margin = max(2, round(font.size) // 4)
    return int(font.getlength(text)) + 2 * margin, sum(font.getmetrics()) + margin // 2


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in font, `size` px high."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _font(picture: Image.Image) -> ImageFont.FreeTypeFont:
    """A font whose size grows with the picture, which is looked at as a whole."""
    return load_font(max(14, round(_side(picture) / 36)))


def _line(picture: Image.Image) -> int:
    """Width of lines (px)."""
    return max(2, round(_side(picture) / 200))


def _side(picture: Image.Image) -> float:
    """The side of a square as large as the picture (px)."""
    return (picture.width * picture.height) ** 0.5
