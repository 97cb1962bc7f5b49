"""Pictures on pages: an image, and the boxes that the page draws on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from fasterrcnn.data.pixel_values import displayable
from fasterrcnn.reports import pages

_AROUND = 64  # px: the least that is shown around a small box
_ENLARGED = 240  # px: the side that crops are enlarged to, about
_BYTES = 30_000  # of a crop


@dataclass(frozen=True)
class Drawn:
    """A box in a picture, in the picture's coordinates."""

    x: float
    y: float
    width: float
    height: float
    label: int
    dashed: bool = False


@dataclass(frozen=True)
class Picture:
    """An image of a page."""

    file: str
    split: str
    uri: str
    width: int  # of the coordinates of its boxes; the JPEG may be smaller
    height: int
    boxes: list[Drawn]
    marks: list[str]  # what was found about it
    note: str = ""

    def counts(self) -> list[tuple[int, int]]:
        """(label, boxes) of the classes in it, by label."""
        return sorted(Counter(box.label for box in self.boxes).items())


def crop(
    image: Tensor,
    around: Sequence[float],
    boxes: Sequence[tuple[Sequence[float], int, bool]],
    *,
    file: str,
    split: str,
    note: str,
) -> Picture:
    """A square of uint8 ``(3, H, W)`` around a box, inside the image, enlarged.

    `around`: x y w h (px). `boxes`: x y w h, label, and whether it is dashed.
    """
    height, width = image.shape[1:]
    x, y, w, h = around
    side = max(_AROUND, 1.5 * max(w, h))
    left, right = (round(min(max(x + w / 2 + s * side / 2, 0), width)) for s in (-1, 1))
    top, bottom = (round(min(max(y + h / 2 + s * side / 2, 0), height)) for s in (-1, 1))
    pixels = displayable(image)[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    factor = max(1, round(_ENLARGED / max(picture.size)))
    enlarged = picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
    drawn = [
        Drawn(round(bx - left, 1), round(by - top, 1), round(bw, 1), round(bh, 1), label, dashed)
        for (bx, by, bw, bh), label, dashed in boxes
    ]
    return Picture(
        file=file,
        split=split,
        uri=pages.data_uri(enlarged, _BYTES),
        width=picture.width,
        height=picture.height,
        boxes=drawn,
        marks=[],
        note=note,
    )
