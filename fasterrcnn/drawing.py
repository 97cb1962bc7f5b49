"""Pictures of boxes on images, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

_PALETTE = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


def draw(
    image: Tensor, boxes: Tensor, labels: Tensor, names: Sequence[str], scores: Tensor | None = None
) -> Image.Image:
    """uint8 image ``(3, H, W)`` with boxes ``(D, 4)`` x1 y1 x2 y2 (px), their class (label 1 is
    ``names[0]``) and score; a colour per class."""
    chosen = [int(label) for label in labels]
    texts = [names[label - 1] for label in chosen]
    if scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores.tolist(), strict=True)]
    if chosen:
        width = max(1, min(image.shape[1:]) // 200)
        colours = [_PALETTE[label % len(_PALETTE)] for label in chosen]
        image = draw_bounding_boxes(
            image.contiguous(),
            boxes.cpu(),
            labels=texts,
            colors=colours,
            width=width,
            label_colors="white",
            label_background_colors=colours,
        )
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def beside(left: Image.Image, right: Image.Image, titles: tuple[str, str]) -> Image.Image:
    """Two pictures of the same size side by side, each under its title."""
    bar, gap = 14, 4
    both = Image.new("RGB", (left.width + gap + right.width, left.height + bar), "white")
    for picture, x, title in ((left, 0, titles[0]), (right, left.width + gap, titles[1])):
        both.paste(picture, (x, bar))
        ImageDraw.Draw(both).text((x + 2, 1), title, fill="black")
    return both


def enlarge(image: Tensor, boxes: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Image ``(3, H, W)`` and boxes scaled up by a whole number, so that text on them can be read:
    until the long side has `least` px."""
    factor = -(-least // max(image.shape[1:]))
    repeated = image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    return repeated, boxes * factor
