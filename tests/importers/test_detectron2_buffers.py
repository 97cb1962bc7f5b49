"""Detectron2's buffers say with what pixels and anchors a detector computes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fasterrcnn import recipes
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.importers import recognize, translate
from fasterrcnn.importers.recognize import Hints
from fasterrcnn.safe_load.reading import File
from tests.importers import synthetic

PREFIX = "proposal_generator.anchor_generator.cell_anchors."


def anchors(sizes: tuple[float, ...], ratios: tuple[float, ...] = (0.5, 1.0, 2.0)) -> Tensor:
    """As Detectron2's `generate_cell_anchors`: size by size."""
    found = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2 / ratio)
            found.append([-width / 2, -ratio * width / 2, width / 2, ratio * width / 2])
    return torch.tensor(found)


def file_of(buffers: dict[str, Tensor], neck: str = "fpn", per_cell: int | None = None) -> File:
    shapes = synthetic.detectron2(detector="rpn", neck=neck)
    if per_cell:
        rpn = "proposal_generator.rpn_head"
        for name, rows in (("objectness_logits", per_cell), ("anchor_deltas", 4 * per_cell)):
            shapes[f"{rpn}.{name}.weight"] = (rows, *shapes[f"{rpn}.{name}.weight"][1:])
            shapes[f"{rpn}.{name}.bias"] = (rows,)
    return File(Path("x.pth"), synthetic.filled(shapes) | buffers, "0" * 64)


def levels(*sizes: tuple[float, ...], **ratios: tuple[float, ...]) -> dict[str, Tensor]:
    return {f"{PREFIX}{i}": anchors(own, **ratios) for i, own in enumerate(sizes)}


PIXELS = {"pixel_mean": torch.tensor([103.53, 110.0, 120.5]).view(3, 1, 1),
          "pixel_std": torch.tensor([57.375, 57.12, 58.395]).view(3, 1, 1)}  # fmt: skip


def test_pixels_and_anchors():
    buffers = PIXELS | levels((24,), (48,), (96,), (192,), (384,), ratios=(1 / 3, 1.0, 3.0))
    file = file_of(buffers)
    found = recognize.recognize(file, Hints())
    assert found.recipe.input.image_mean == (103.53, 110.0, 120.5)
    assert found.recipe.input.image_std == (57.375, 57.12, 58.395)
    assert found.recipe.rpn.anchor_sizes == (24, 48, 96, 192, 384)
    assert "the file states anchors, pixel values; image sizes" in found.rule
    model, report = translate.load(file, found)
    for own, name in zip(model.rpn.anchor_generator.cell_anchors, levels(*[()] * 5), strict=True):
        assert (own - buffers[name]).abs().max() < 1e-3
    assert {*report["not_used"]} == {*buffers}
    assert model.transform.mean.flatten().equal(PIXELS["pixel_mean"].flatten())


def test_the_zoos_own_buffers_change_nothing():
    mean = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
    buffers = {"pixel_mean": mean, "pixel_std": torch.ones(3, 1, 1)}
    buffers |= levels((32,), (64,), (128,), (256,), (512,))
    plain = recognize.recognize(file_of({}), Hints()).recipe
    assert recognize.recognize(file_of(buffers), Hints()).recipe == plain


def test_several_sizes_of_a_level_change_places():
    """Detectron2 goes size by size, here ratio by ratio; the head's rows go with them."""
    sizes = ((16, 32), (32, 64), (64, 128), (128, 256), (256, 500))
    file = file_of(levels(*sizes), per_cell=6)
    found = recognize.recognize(file, Hints())
    assert found.recipe.rpn.anchor_sizes == tuple(size for level in sizes for size in level)
    model, _ = translate.load(file, found)
    logits = file.tensors["proposal_generator.rpn_head.objectness_logits.bias"]
    for level, own in enumerate(model.rpn.anchor_generator.cell_anchors):
        theirs = file.tensors[f"{PREFIX}{level}"]
        for row in range(6):
            (same,) = ((theirs - own[row]).abs().amax(1) < 1e-3).nonzero().flatten().tolist()
            assert model.rpn.head.cls_logits.bias[row] == logits[same]
    again = translate.dump(model, found.recipe, "detectron2")
    assert all(again[name].equal(file.tensors[name]) for name in again)


@pytest.mark.parametrize(("buffers", "message"), [
    ({f"{PREFIX}0": anchors((32,)).round() + 3}, "cell_anchors: are not sizes times aspect"),
    ({f"{PREFIX}0": torch.zeros(0, 4)}, "cell_anchors: are not sizes times aspect"),
    ({f"{PREFIX}0": torch.zeros(4)}, "cell_anchors: are not sizes times aspect"),
    ({f"{PREFIX}0": torch.zeros(3, 5)}, "cell_anchors: are not sizes times aspect"),
    (levels((32,), (64,)) | {f"{PREFIX}2": anchors((128,), (1.0,))}, "cell_anchors: levels have"),
    ({"pixel_mean": torch.ones(1, 1, 1)}, "number of values of pixel_mean is 1; only 3"),
], ids=["moved", "none", "one list", "five corners", "other ratios", "gray"])  # fmt: skip
def test_what_is_not_computed_here_is_refused(buffers: dict[str, Tensor], message: str):
    with pytest.raises(CheckpointError, match=message):
        recognize.recognize(file_of(buffers), Hints())


def test_flags_say_what_the_file_does_not():
    sizes = (16.0, 32.0, 64.0, 128.0, 256.0)
    given = {"rpn.anchor_sizes": sizes, "input.min_size": 400, "input.max_size": 600}
    found = recognize.recognize(file_of({}), Hints(fields=given)).recipe
    assert found.rpn.anchor_sizes == sizes
    assert (found.input.min_size, found.input.train_min_sizes) == (400, ())
    stated = file_of(levels((24,), (48,), (96,), (192,), (384,)))
    with pytest.raises(UsageError, match=r"--rpn.anchor-sizes: .*: x.pth says 24,48,96,192,384"):
        recognize.recognize(stated, Hints(fields=given))
    source = "detectron2:rpn_R_50_FPN_1x"
    named = recognize.recognize(stated, Hints(source)).recipe
    assert recipes.difference(recipes.get("rpn_r50_fpn_1x_detectron2"), named) == [
        "rpn.anchor_sizes: (32, 64, 128, 256, 512) -> (24, 48, 96, 192, 384)"
    ]
