"""The smallest upright box around a shape, for tools that draw more than boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable

Point = tuple[float, float]


def of_points(points: Iterable[Point]) -> list[float]:
    """x y w h of the box around points."""
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def of_rotated(x: float, y: float, w: float, h: float, radians: float) -> list[float]:
    """x y w h of the box around a rectangle of sides w, h, turned about its center (x, y)."""
    cos, sin = abs(math.cos(radians)), abs(math.sin(radians))
    width, height = w * cos + h * sin, w * sin + h * cos
    return [x - width / 2, y - height / 2, width, height]


def of_ellipse(x: float, y: float, rx: float, ry: float, radians: float) -> list[float]:
    """x y w h of the box around an ellipse of half axes rx, ry, turned about its center (x, y)."""
    cos, sin = math.cos(radians), math.sin(radians)
    half_w, half_h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return [x - half_w, y - half_h, 2 * half_w, 2 * half_h]
