"""A synthetic data set in COCO layout, for the demo and the tests: shapes on textured backgrounds.

Six classes, sizes over a factor of 4, occlusion, images of several aspect ratios, crowd boxes and
images without objects. An image is a function of its seed alone: drawn from numpy's frozen
RandomState by arithmetic on pixel grids, so no drawing library can change it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("circle", "square", "triangle", "star", "cross", "ring")
_RADIUS = (8.0, 32.0)  # px
_SIDES = ((160, 120), (160, 160), (120, 160), (160, 136), (136, 160))  # width, height
_MIN_VISIBLE = 0.5  # fraction of a shape that later ones must leave visible

# Inside each shape, in coordinates where its radius is 1; the caller rotates them.
_INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.8,
    "triangle": lambda x, y: np.maximum(abs(x) * 3**0.5 + y, -2 * y) <= 1,
    "star": lambda x, y: np.hypot(x, y) <= 0.7 + 0.3 * np.cos(5 * np.arctan2(y, x)),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1),
    "ring": lambda x, y: abs(x * x + y * y - 0.65) <= 0.35,
}


def write(root: Path, *, train: int, val: int) -> None:
    """``root/annotations/instances_{train,val}.json`` with ``root/{train,val}/*.png``.

    The two splits use different seeds. Existing files are overwritten.
    """
    for split, seeds in (("train", range(train)), ("val", range(10**6, 10**6 + val))):
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        images: list[dict] = []
        annotations: list[dict] = []
        for seed in seeds:
            pixels, objects = draw(seed)
            name = f"{seed:07d}.png"
            Image.fromarray(pixels).save(folder / name)
            height, width = pixels.shape[:2]
            images.append({"id": seed, "file_name": name, "height": height, "width": width})
            for item in objects:
                annotations.append({"id": len(annotations) + 1, "image_id": seed, **item})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def draw(seed: int) -> tuple[np.ndarray, list[dict]]:
    """An image, uint8 RGB ``(H, W, 3)``, and its COCO annotations without ids.

    Of 16 images, one is empty and one has a crowd on average.
    """
    random = np.random.RandomState(seed)
    width, height = _SIDES[random.randint(len(_SIDES))]
    image = _background(random, height, width)
    kind = random.randint(16)
    owner = np.zeros((height, width), int)  # which shape is on top of each pixel, from 1
    shapes: list[tuple[int, int]] = []  # label, area
    for _ in range(0 if kind == 0 else random.randint(3, 10)):
        radius = _RADIUS[0] * (_RADIUS[1] / _RADIUS[0]) ** random.rand()
        _place(random, image, owner, shapes, radius)
    objects = [_annotation(label, owner == k) for k, (label, _) in enumerate(shapes, start=1)]
    if kind == 1:
        objects.append(_crowd(random, image, owner))
    return image, objects


def _background(random: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Three octaves of smooth noise between two colors, and pixel noise."""
    texture = np.zeros((height, width))
    for cell in (32, 12, 4):
        grid = random.rand(height // cell + 2, width // cell + 2)
        y, x = np.arange(height) / cell, np.arange(width) / cell
        rows, columns = y.astype(int), x.astype(int)
        fy, fx = (y - rows)[:, None], (x - columns)[None]
        top = grid[rows][:, columns] * (1 - fx) + grid[rows][:, columns + 1] * fx
        bottom = grid[rows + 1][:, columns] * (1 - fx) + grid[rows + 1][:, columns + 1] * fx
        texture += (top * (1 - fy) + bottom * fy) / 3
    low, high = random.rand(2, 3) * 255
    image = low + (high - low) * texture[..., None] + random.rand(height, width, 1) * 20 - 10
    return image.clip(0, 255).astype(np.uint8)


def _place(
    random: np.random.RandomState,
    image: np.ndarray,
    owner: np.ndarray,
    shapes: list[tuple[int, int]],
    radius: float,
) -> None:
    """Draw one shape on top, unless it would hide too much of an earlier one. Modifies `image`,
    `owner` and `shapes` in place."""
    label = random.randint(len(CLASSES))
    mask = _mask(random, owner.shape, CLASSES[label], radius)
    color = random.rand(3) * 255
    shade = 0.85 + 0.3 * random.rand(*owner.shape, 1)
    visible = [((owner == k) & ~mask).sum() for k in range(1, len(shapes) + 1)]
    hidden = any(v < _MIN_VISIBLE * area for v, (_, area) in zip(visible, shapes, strict=True))
    if hidden or mask.sum() < 30:
        return
    contrast = abs(image[mask].mean(axis=0) - color).max()
    if contrast < 40:  # never the color of what is behind
        color = (color + 128) % 256
    image[mask] = (color * shade).clip(0, 255).astype(np.uint8)[mask]
    shapes.append((label + 1, int(mask.sum())))
    owner[mask] = len(shapes)


def _mask(
    random: np.random.RandomState, size: tuple[int, int], name: str, radius: float
) -> np.ndarray:
    """Bool ``(H, W)``: a rotated shape, of which the border cuts off at most a fifth."""
    height, width = size
    margin = 0.6 * radius
    center_x = margin + random.rand() * (width - 2 * margin)
    center_y = margin + random.rand() * (height - 2 * margin)
    angle = random.rand() - 0.5
    y, x = np.mgrid[:height, :width] + 0.5
    x, y = (x - center_x) / radius, (y - center_y) / radius
    cosine, sine = np.cos(angle), np.sin(angle)
    return _INSIDE[name](cosine * x + sine * y, cosine * y - sine * x)


def _annotation(label: int, mask: np.ndarray, crowd: int = 0) -> dict:
    """COCO annotation, without ids, of the pixels in `mask`."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
    return {"category_id": label, "bbox": box, "area": int(mask.sum()), "iscrowd": crowd}


def _crowd(random: np.random.RandomState, image: np.ndarray, owner: np.ndarray) -> dict:
    """Draw a heap of small shapes of one class into a corner of `image`, in place; its annotation
    as one crowd box."""
    label = random.randint(len(CLASSES))
    heap = np.zeros(owner.shape, bool)
    for _ in range(12):
        mask = _mask(random, (48, 48), CLASSES[label], 6.0)
        free = mask & (owner[:48, :48] == 0)
        image[:48, :48][free] = (random.rand(3) * 255).astype(np.uint8)
        heap[:48, :48] |= free
    heap[0, 0] = True  # never empty
    return _annotation(label + 1, heap, crowd=1)
