"""Reads the buffers that Detectron2 stores beside weights: pixel values and base anchors.

Present in files of older versions, and of projects that keep them. Sources: `GeneralizedRCNN` and
`DefaultAnchorGenerator` of Detectron2.
"""

from __future__ import annotations

import re

from torch import Tensor

from fasterrcnn.importers.stated import Stated, whole

_CELL_ANCHORS = re.compile(r"(?:.*\.)?cell_anchors\.(\d+)$")


def read(tensors: dict[str, Tensor]) -> Stated:
    """What the buffers among `tensors` state, as fields of a recipe."""
    stated = Stated()
    for name, field in (("pixel_mean", "image_mean"), ("pixel_std", "image_std")):
        if name in tensors:
            values = tensors[name].flatten().tolist()
            stated.must_be(f"number of values of {name}", len(values), 3)
            stated.put("input.pixel_scale", 1.0)
            stated.put(f"input.{field}", tuple(float(f"{value:.7g}") for value in values))
    found = {int(m[1]): v for name, v in tensors.items() if (m := _CELL_ANCHORS.match(name))}
    if found:
        _anchors(stated, [found[level] for level in sorted(found)])
    return stated


def _anchors(stated: Stated, levels: list[Tensor]) -> None:
    """Sizes and aspect ratios of the base anchors ``(A, 4)`` of each level, which go size by
    size."""
    sizes: list[tuple[float, ...]] = []
    ratios: set[tuple[float, ...]] = set()
    for anchors in levels:
        found = _grid(anchors)
        if found is None:
            stated.refused.append("cell_anchors: are not sizes times aspect ratios around 0")
            return
        sizes.append(found[0])
        ratios.add(found[1])
    if len(ratios) > 1 or len({*map(len, sizes)}) > 1:
        stated.refused.append("cell_anchors: levels have other aspect ratios or numbers of anchors")
        return
    same = len(set(sizes)) == 1
    stated.put("rpn.all_sizes_per_level", same)
    stated.put("rpn.anchor_sizes", sizes[0] if same else tuple(s for level in sizes for s in level))
    stated.put("rpn.aspect_ratios", ratios.pop())


def _grid(anchors: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The sizes (px) and ratios (height / width) of which `anchors` are the product, or None."""
    if anchors.dim() != 2 or anchors.shape[1] != 4 or not len(anchors):
        return None
    x1, y1, x2, y2 = anchors.double().unbind(1)
    width, height = x2 - x1, y2 - y1
    if (width <= 0).any() or (height <= 0).any() or max((x1 + x2).abs().max(),
                                                        (y1 + y2).abs().max()) > 1e-2:  # fmt: skip
        return None
    area, ratio = (width * height).sqrt(), height / width
    count = int(((area / area[0] - 1).abs() < 1e-3).long().cumprod(0).sum())
    if len(anchors) % count:
        return None
    rows = area.view(-1, count), ratio.view(-1, count)
    if ((rows[0] / rows[0][:, :1] - 1).abs() > 1e-4).any():
        return None
    if ((rows[1] / rows[1][:1] - 1).abs() > 1e-4).any():
        return None
    sizes = tuple(whole(round(size, 3)) for size in rows[0][:, 0].tolist())
    return sizes, tuple(round(value, 6) for value in rows[1][0].tolist())
