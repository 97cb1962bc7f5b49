"""What `recipes.Input.value_range` may say of images of more than 8 bits."""

from __future__ import annotations

from math import isfinite

DATASET = "dataset"  # to be measured; in the recipe of a run that had nothing to measure: `FULL`
IMAGE = "image"
FULL = "full"
WINDOW = "window"
NAMES = (DATASET, IMAGE, WINDOW, FULL)


def limits(value_range: str) -> tuple[float, float] | None:
    """The values that become 0 and 255; None for one of `NAMES`. Raises ValueError with a
    phrase."""
    if value_range in NAMES:
        return None
    try:
        low, high = map(float, value_range.split(","))
    except ValueError:
        raise ValueError(f"must be {', '.join(NAMES)} or two numbers LOW,HIGH") from None
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ValueError("LOW must be less than HIGH, and both finite")
    return low, high


def as_text(low: float, high: float) -> str:
    """The inverse of `limits`, to 9 digits, which is what float32 has."""
    return f"{low:.9g},{high:.9g}"
