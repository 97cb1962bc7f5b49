"""The recall of anchors: by hand, and against every anchor that the network has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.metrics import anchors
from fasterrcnn.metrics.anchors import Resized
from fasterrcnn.models import boxes
from fasterrcnn.models.backbones import build_backbone
from fasterrcnn.models.rpn import RegionProposalNetwork
from fasterrcnn.models.transform import PaddedImages
from fasterrcnn.recipes import RPN, Input
from tests.data.make import annotations_of

ONE = RPN(anchor_sizes=(32,), aspect_ratios=(1.0,), anchor_strides="fixed")


def gt(*rows: tuple[float, ...], size: tuple[int, int] = (128, 128)) -> Resized:
    count = len(rows)
    sizes = np.tile(np.array(size), (count, 1))
    return Resized(np.array(rows, float).reshape(-1, 4), sizes, sizes)


def test_two_boxes_by_hand():
    """One anchor shape of 32 px every 16 px. The first box is an anchor. The second, 32 x 16 px
    around the middle of one, shares 512 of 1024 px^2 with it."""
    two = gt((16, 16, 48, 48), (16, 24, 48, 40))
    iou, level = anchors.best(two, ONE, (16,))
    assert iou.tolist() == [1.0, 0.5]
    assert level.tolist() == [0, 0]
    found = anchors.measure(two, ONE, (16,))
    assert (found.boxes, found.recall) == (2, (1.0, 0.5))


def test_the_best_level_and_the_recall_of_each():
    """Anchors of 32 px every 16 px and of 64 px every 32 px. The third box, 32 x 96 px, shares 32 x
    64 with the larger ones: IoU 2048 / 5120 = 0.4."""
    config = replace(ONE, anchor_sizes=(32, 64))
    three = gt((16, 16, 48, 48), (32, 32, 96, 96), (48, 16, 80, 112))
    iou, level = anchors.best(three, config, (16, 32))
    assert iou.tolist() == [1.0, 1.0, 0.4]
    assert level.tolist() == [0, 1, 1]
    found = anchors.measure(three, config, (16, 32))
    assert found.recall == pytest.approx((2 / 3, 2 / 3))
    assert [(one.stride, one.sizes, one.boxes, one.recall) for one in found.levels] == [
        (16, (32,), 1, (1.0, 1.0)),
        (32, (64,), 2, (0.5, 0.5)),
    ]


def test_a_level_without_boxes_has_no_recall():
    found = anchors.measure(gt((16, 16, 48, 48)), replace(ONE, anchor_sizes=(32, 64)), (16, 32))
    assert found.levels[1].recall == (None, None)


def test_boxes_are_resized_and_padded_as_in_training():
    """400 px images made 800: twice as large; the crowd box does not count."""
    data = annotations_of([[(10, 20, 30, 40), (0, 0, 9, 9)], [(390, 0, 20, 5)]], crowd=[1])
    found = anchors.resized_boxes(data, Input())
    assert found.boxes.tolist() == [[20, 40, 80, 120], [780, 0, 800, 10]]
    assert found.sizes.tolist() == [[800, 800]] * 2
    assert found.padded.tolist() == [[800, 1088]] * 2


CONFIGS = {
    "as torchvision": RPN(),
    "fixed strides": RPN(anchor_strides="fixed", round_anchors=False),
    "no anchors in the padding": RPN(padding_anchors=False, aspect_ratios=(0.3, 0.9)),
    "none across the border": RPN(border_anchors=False),
    "all sizes per level": RPN(all_sizes_per_level=True, anchor_sizes=(17, 60, 200)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_best_of_all_anchors_of_the_network(name: str):
    """400 random boxes, padded 160 x 352 px of which 150 x 300 are the image."""
    config, recipe = CONFIGS[name], recipes.get("fasterrcnn_r10_fpn_shapes")
    backbone, _ = build_backbone(recipe.backbone)
    rpn = RegionProposalNetwork(config, backbone.out_channels, backbone.strides)
    rng = np.random.default_rng(0)
    low = rng.uniform(0, (290, 140), (400, 2))
    high = np.minimum(low + rng.uniform(5, 150, (400, 2)), (300, 150))
    own = np.tile([150, 300], (400, 1))
    some = Resized(np.concatenate([low, high], 1), own, np.tile([160, 352], (400, 1)))
    pixels = torch.zeros(1, 3, 160, 352)
    features = backbone.eval()(pixels)
    shapes = tuple((f.shape[2], f.shape[3]) for f in features)
    levels = rpn.anchors(pixels, shapes)
    box = torch.from_numpy(some.boxes).float()[None]
    sizes = torch.tensor([[150.0, 300.0]])
    images = PaddedImages(pixels, sizes, sizes, box, torch.ones(1, 400), torch.ones(1, 400) > 0)
    quality = boxes.iou(box, torch.cat(levels)[None])
    usable = rpn._usable(images, shapes, torch.cat(levels)[None])
    if usable is not None:
        quality = quality.masked_fill(~usable[:, None], 0.0)
    iou, level = anchors.best(some, config, backbone.strides)
    assert iou == pytest.approx(quality.amax(dim=2)[0].double().numpy(), abs=1e-5)
    parts = torch.stack([q.amax(dim=2)[0] for q in quality.split([len(a) for a in levels], dim=2)])
    chosen = parts[torch.from_numpy(level), torch.arange(400)]
    assert torch.allclose(chosen, parts.amax(dim=0), atol=1e-5)


def random_boxes(count: int, seed: int) -> Resized:
    """Flat boxes of 60 to 90 px width in images of 800 px: nothing like the usual anchors."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(100, 600, (count, 2))
    width = rng.uniform(60, 90, count)
    size = np.stack([width, width / rng.uniform(3.5, 4.5, count)], 1)
    sizes = np.full((count, 2), 800)
    return Resized(np.concatenate([low, low + size], 1), sizes, sizes)


def test_fitted_anchors_are_better_and_as_many():
    train, val, strides = random_boxes(200, 0), random_boxes(100, 1), (4, 8, 16, 32, 64)
    fitted = anchors.fit([train, val], RPN(), strides)
    assert (len(fitted.anchor_sizes), len(fitted.aspect_ratios)) == (5, 3)
    assert (
        replace(fitted, anchor_sizes=(32, 64, 128, 256, 512), aspect_ratios=(0.5, 1.0, 2.0))
        == RPN()
    )
    for part in (train, val):
        before, after = (anchors.measure(part, c, strides).recall for c in (RPN(), fitted))
        assert before[1] == 0.0
        assert after[0] > 0.99
        assert after[1] > 0.9


def test_fitted_anchors_are_on_no_split_worse():
    """Validation holds just the boxes that the given anchors match perfectly."""
    train = random_boxes(200, 0)
    val = gt((16, 16, 48, 48), (32, 32, 96, 96), size=(800, 800))
    config, strides = replace(RPN(), anchor_strides="fixed"), (4, 8, 16, 32, 64)
    fitted = anchors.fit([train, val], config, strides)
    before, after = (anchors.measure(val, c, strides).recall for c in (config, fitted))
    assert before == (1.0, 1.0)
    assert after == (1.0, 1.0)
    trained = [anchors.measure(train, c, strides).recall for c in (config, fitted)]
    assert trained[1] >= trained[0]


def test_where_nothing_is_better_the_given_anchors_stay():
    assert anchors.fit([gt((16, 16, 48, 48))], ONE, (16,)) is ONE


def test_flags_are_what_the_command_line_takes():
    assert anchors.flags(RPN(anchor_sizes=(17, 60), aspect_ratios=(0.5, 1.25))) == (
        "--rpn.anchor-sizes 17,60 --rpn.aspect-ratios 0.5,1.25"
    )
