"""VGG-16 detectors: the layers of py-faster-rcnn, RoIPool, and the box head on stored proposals."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from fasterrcnn import recipes
from fasterrcnn.data.annotations import Classes
from fasterrcnn.engine import initial_weights
from fasterrcnn.engine.step import make_optimizer
from fasterrcnn.errors import UsageError
from fasterrcnn.models.build import build, split
from fasterrcnn.models.roi_align import pool_cells
from tests.models.stock import narrow_vgg16
from tests.models.test_build import example

WHOLE = recipes.get("fasterrcnn_vgg16_voc")
SMALL = dict(
    input=dict(min_size=96, max_size=160),
    backbone=dict(base_channels=4),
    rpn=dict(anchor_sizes=(16, 32, 64), min_side=2.0, post_nms_top_n_train=50,
             post_nms_top_n_test=40),
    roi_heads=dict(representation_size=16),
)  # fmt: skip
NARROW = recipes.change(WHOLE, **SMALL)

# Weights and biases of models/VGG16/faster_rcnn_alt_opt/faster_rcnn_test.pt for 21 classes; its
# rpn_cls_score has 18 outputs, two per anchor, where ours has a logit of each.
CONVOLUTIONS = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256),
                (512, 256), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512)]  # fmt: skip
LAYERS = [
    *((out, into, 3, 3) for out, into in CONVOLUTIONS),
    (512, 512, 3, 3),  # rpn_conv/3x3
    (9, 512, 1, 1),  # rpn_cls_score: 18 there
    (36, 512, 1, 1),  # rpn_bbox_pred
    (4096, 512 * 7 * 7),  # fc6
    (4096, 4096),  # fc7
    (21, 4096),  # cls_score
    (84, 4096),  # bbox_pred
]


THEIRS = 137_078_239  # parameters, two logits per anchor


def test_layers_are_those_of_py_faster_rcnn():
    with torch.device("meta"):
        model = build(WHOLE, 21)
    found = [(name, p.shape) for name, p in model.named_parameters()]
    assert [tuple(shape) for name, shape in found if name.endswith("weight")] == LAYERS
    assert [shape[0] for name, shape in found if name.endswith("bias")] == [s[0] for s in LAYERS]
    assert (
        sum(p.numel() for p in model.parameters()) == 137_078_239 - 9 * 513
    )  # theirs less the second logits
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    convolutions = [f"backbone.body.{i}" for i in (0, 2, 5, 7)]  # conv1_1 to conv2_2
    assert frozen == [f"{c}.{kind}" for c in convolutions for kind in ("weight", "bias")]


def test_conv5_3_has_stride_16_and_is_torchvisions():
    model = build(NARROW, 4)
    with torch.device("meta"):
        theirs = vgg16().features
    widths = [m.out_channels // 16 for m in theirs if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in model.backbone.body if isinstance(m, nn.Conv2d)] == widths
    for mine, yours in zip(model.backbone.body, theirs[:-1], strict=True):
        assert isinstance(mine, type(yours))
    with torch.no_grad():
        (level,) = model.backbone(torch.randn(2, 3, 96, 160))
    assert level.shape == (2, 32, 6, 10)


def test_imagenet_weights_reach_body_and_box_head(tmp_path: Path):
    theirs = narrow_vgg16(4, 16)
    torch.save(theirs.state_dict(), tmp_path / "vgg.pth")
    recipe = recipes.change(NARROW, weights=str(tmp_path / "vgg.pth"))
    model = build(recipe, 4)
    line, unused = initial_weights.initialize(model, recipe, Classes(("a", "b", "c"), (1, 2, 3)))
    assert line.startswith("weights: body and box head from")
    assert unused == "weights: not used: classifier.6.bias, classifier.6.weight"
    for name, value in model.backbone.body.state_dict().items():
        assert torch.equal(value, theirs.features.state_dict()[name])
    # Fully connected layers see what torchvision's see, when nothing is dropped.
    pooled, head = torch.randn(20, 32, 7, 7), model.roi_heads.box_head
    with torch.no_grad():
        expected = theirs.eval().classifier[:6](pooled.flatten(1))
        torch.testing.assert_close(head.eval()(pooled), expected)
        dropped = (head.train()(pooled) == 0).float().mean()
    assert dropped > (expected == 0).float().mean() + 0.1


def test_roi_pool_takes_the_maximum_of_whole_cells():
    """Against Fast R-CNN's rule: corners rounded to cells, inclusive, and bins that may overlap."""
    torch.manual_seed(0)
    feature = torch.randn(2, 3, 10, 14)
    corner = torch.rand(2, 6, 2) * 100
    rois = torch.cat([corner, corner + torch.rand(2, 6, 2) * 110], dim=-1)
    pooled = pool_cells(feature, rois, 16, 7).view(2, 6, 3, 7, 7)
    for n in range(2):
        for r in range(6):
            x1, y1, x2, y2 = (math.floor(float(v) / 16 + 0.5) for v in rois[n, r])
            height, width = max(y2 - y1 + 1, 1) / 7, max(x2 - x1 + 1, 1) / 7
            for i in range(7):
                for j in range(7):
                    rows = slice(y1 + math.floor(i * height), y1 + math.ceil((i + 1) * height))
                    columns = slice(x1 + math.floor(j * width), x1 + math.ceil((j + 1) * width))
                    cells = feature[n, :, rows, columns].flatten(1)
                    expected = cells.max(dim=1).values if cells.numel() else torch.zeros(3)
                    torch.testing.assert_close(pooled[n, r, :, i, j], expected)


def as_stored(model, images) -> list[dict]:
    """Targets with what `model` proposes, in the network's pixels."""
    with torch.no_grad():
        padded = model.transform(images)
        found = model.rpn.proposals(padded, model.features(padded), training=False)
    return [
        {"proposals": found.boxes[i][found.valid[i]], "proposal_size": tuple(map(int, size))}
        for i, size in enumerate(padded.sizes)
    ]


def pair():
    """A whole detector, and its box head on stored proposals."""
    torch.manual_seed(0)
    whole = build(NARROW, 7).eval()
    for layer in (whole.roi_heads.box_predictor.cls_score, whole.roi_heads.box_predictor.bbox_pred):
        nn.init.normal_(layer.weight, std=0.3)
    alone = build(recipes.change(NARROW, detector="fast_rcnn"), 7).eval()
    tensors = {k: v for k, v in whole.state_dict().items() if not k.startswith("rpn.")}
    alone.load_state_dict(tensors, strict=True)
    return whole, alone


def test_a_box_head_on_stored_proposals_computes_the_same_bits():
    whole, alone = pair()
    images, gt = example((3, 5), size=(70, 90))
    targets = [{**t, **s} for t, s in zip(gt, as_stored(whole, images), strict=True)]
    with torch.no_grad():
        expected = whole(images)
        padded = alone.transform(images, targets)
        found = split(alone.detect(padded, alone.features(padded)))
    assert sum(len(d["scores"]) for d in expected) > 10
    for ours, theirs in zip(found, expected, strict=True):
        for key in ("boxes", "labels", "scores"):
            assert torch.equal(ours[key], theirs[key])


def test_stored_proposals_follow_the_size_of_the_input():
    whole, alone = pair()
    images, gt = example((3,), size=(70, 90))
    (stored,) = as_stored(whole, images)
    height, width = stored["proposal_size"]
    half = {
        "proposals": stored["proposals"] * torch.tensor([0.5, 0.25, 0.5, 0.25]),
        "proposal_size": (height * 0.25, width * 0.5),
    }
    same = alone.transform(images, [{**gt[0], **stored}]).proposals
    other = alone.transform(images, [{**gt[0], **half}]).proposals
    assert torch.equal(same.boxes[0], stored["proposals"])
    torch.testing.assert_close(other.boxes, same.boxes)
    assert same.valid.all()


def test_proposals_are_cut_and_filled_to_a_fixed_number():
    _, alone = pair()
    images, gt = example((2, 2))
    box = torch.tensor([[5.0, 5.0, 60.0, 60.0]])
    stored = [
        {"proposals": box.expand(3, 4), "proposal_size": (96, 128)},
        {"proposals": box.expand(70, 4), "proposal_size": (96, 128)},
    ]
    seen = []
    alone.roi_heads.losses = lambda images, features, proposals: seen.append(proposals) or ({}, {})
    targets = [{**t, **s} for t, s in zip(gt, stored, strict=True)]
    alone.train()(images, targets)
    assert seen[0].boxes.shape == (2, 50, 4)
    assert seen[0].valid.sum(dim=1).tolist() == [3, 50]


def test_a_fixed_backbone_does_not_change():
    demo = recipes.change(
        recipes.fasterrcnn_r10_fpn_shapes(), backbone=dict(fixed=True, fpn_channels=8)
    )
    model = build(demo, 7).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = make_optimizer(model, demo.schedule)
    images, targets = example()
    sum(model(images, targets).values()).backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    for name, value in model.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(model.rpn.head.cls_logits.weight, before["rpn.head.cls_logits.weight"])


def test_biases_learn_faster_where_asked_to():
    model = build(NARROW, 4)
    groups = make_optimizer(model, NARROW.schedule).param_groups
    factor = {p: g.get("lr_factor", 1.0) for g in groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert factor[parameter] == (2.0 if name.endswith("bias") else 1.0), name
    plain = make_optimizer(model, recipes.Schedule()).param_groups
    assert all(g.get("lr_factor", 1.0) == 1.0 for g in plain)


@pytest.mark.parametrize(("changes", "message"), [
    (dict(backbone=dict(neck="fpn")), "pooling: pool: needs --backbone.neck none"),
    (dict(backbone=dict(name="resnet50")), "res5 goes with a ResNet"),
    (dict(roi_heads=dict(head="res5", dropout=0.0)), "res5 goes with a ResNet"),
    (dict(roi_heads=dict(dropout=1.0)), "dropout: 1.0: must be"),
    (dict(rpn=dict(all_sizes_per_level=False)), "needs --rpn.all-sizes-per-level"),
])  # fmt: skip
def test_parts_that_do_not_fit(changes: dict, message: str):
    with pytest.raises(UsageError, match=message):
        recipes.check(recipes.change(WHOLE, **changes))


def test_parts_that_only_some_bodies_have():
    r50 = recipes.fasterrcnn_r50_fpn_1x()
    with pytest.raises(UsageError, match="base-channels: only vgg16"):
        recipes.check(recipes.change(r50, backbone=dict(base_channels=32)))
    with pytest.raises(UsageError, match="pooling: pool: needs"):
        recipes.check(recipes.change(r50, roi_heads=dict(pooling="pool")))
