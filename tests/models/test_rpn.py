"""Anchors, the sparse head and the choice of proposals."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.models import boxes
from fasterrcnn.models.rpn import RegionProposalNetwork
from fasterrcnn.models.sparse import Pyramid
from fasterrcnn.models.transform import PaddedImages

RECIPE = recipes.fasterrcnn_r50_fpn_1x().rpn


@pytest.fixture
def rpn() -> RegionProposalNetwork:
    torch.manual_seed(0)
    rpn = RegionProposalNetwork(RECIPE, 8, (4, 8, 16, 32, 64))
    for parameter in rpn.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return rpn


def pyramid(n: int = 2, size: tuple[int, int] = (128, 192)) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [
        torch.randn(n, 8, size[0] // s, size[1] // s).requires_grad_() for s in (4, 8, 16, 32, 64)
    ]


def test_anchors_are_torchvisions_and_made_once(rpn):
    pixels, features = torch.zeros(2, 3, 128, 192), pyramid()
    shapes = Pyramid(features).shapes
    mine = rpn.anchors(pixels, shapes)
    assert rpn.anchors(pixels, shapes) is mine
    yours = rpn.anchor_generator(ImageList(pixels, [(128, 192)] * 2), features)
    assert all(torch.cat(mine).equal(own) for own in yours)


def test_several_anchor_sizes_of_each_level():
    config = recipes.RPN(anchor_sizes=(8, 12, 16, 24.5), round_anchors=False)
    rpn = RegionProposalNetwork(config, 8, (4, 8))
    assert rpn.head.cls_logits.out_channels == 6
    for anchors, sizes in zip(
        rpn.anchor_generator.cell_anchors, ((8, 12), (16, 24.5)), strict=True
    ):
        side = ((anchors[:, 2] - anchors[:, 0]) * (anchors[:, 3] - anchors[:, 1])).sqrt()
        torch.testing.assert_close(side, torch.tensor(sizes * 3, dtype=torch.float32))
    with pytest.raises(UsageError, match="3 given, this backbone has 2 levels"):
        RegionProposalNetwork(recipes.RPN(anchor_sizes=(8, 12, 16)), 8, (4, 8))


def test_the_sparse_head_is_the_dense_one_values_and_gradients(rpn):
    """Corners, borders and every level among the anchors."""
    dense, sparse = pyramid(), pyramid()
    objectness, deltas = (torch.cat(parts, dim=1) for parts in rpn.dense_head(dense))
    count = objectness.shape[1]
    index = torch.stack([torch.randperm(count)[:400], torch.arange(count - 400, count)])
    index[0, :3] = torch.tensor([0, count - 1, 0])  # one twice
    some_objectness, some_deltas = rpn.sparse_head(Pyramid(sparse), index)
    torch.testing.assert_close(some_objectness, objectness.gather(1, index))
    torch.testing.assert_close(some_deltas, boxes.take(deltas, index))

    gradients = []
    for o, d, features in (
        (objectness.gather(1, index), boxes.take(deltas, index), dense),
        (some_objectness, some_deltas, sparse),
    ):
        rpn.zero_grad()
        ((o * torch.linspace(0, 1, 400)).sum() + (d.sin()).sum()).backward()
        gradients.append([p.grad.clone() for p in rpn.parameters()] + [f.grad for f in features])
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm()


def test_few_proposals_are_padded(rpn):
    features = [f[:, :, :2, :2].detach() for f in pyramid()]
    padded = PaddedImages(
        torch.zeros(2, 3, 128, 128),
        torch.tensor([[128.0, 128.0], [0.0, 0.0]]),  # the second has no room for a box
        torch.tensor([[128.0, 128.0], [1.0, 1.0]]),
        torch.zeros(2, 8, 4),
        torch.zeros(2, 8, dtype=torch.int64),
        torch.zeros(2, 8, dtype=torch.bool),
    )
    proposals, valid, _ = rpn.proposals(padded, features, training=True)
    assert proposals.shape == (2, 5 * 12, 4)
    assert 0 < valid[0].sum() <= 60
    assert not valid[1].any()
    assert valid[0].int().diff().max() <= 0  # padding last
