"""Every field in which frameworks differ changes what is computed, and exactly as its source says.

Sources: `fasterrcnn/recipes/conventions.py`.
"""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.ops import roi_align

from fasterrcnn import recipes, schedule
from fasterrcnn.engine.parameter_groups import split_parameters
from fasterrcnn.models import boxes
from fasterrcnn.models.backbones import build_backbone
from fasterrcnn.models.build import build
from fasterrcnn.models.matching import LowQuality, match
from fasterrcnn.models.roi_align import level_of, pyramid_roi_align
from fasterrcnn.models.rpn import RegionProposalNetwork
from fasterrcnn.models.sparse import Pyramid
from fasterrcnn.models.transform import PaddedImages, Transform
from fasterrcnn.recipes import RPN, Backbone, Input, RoIHeads, conventions
from tests.models.test_build import example

FPN = (4, 8, 16, 32, 64)
SMALL = recipes.change(
    recipes.fasterrcnn_r50_fpn_1x(),
    input=dict(min_size=96, max_size=160),
    backbone=dict(name="resnet10", fpn_channels=8),
    roi_heads=dict(representation_size=16),
)


def padded_of(
    size: tuple[int, int], gt_boxes: list[list[float]], inside: tuple[int, int]
) -> PaddedImages:
    """One black image of `inside` in a tensor of `size`, with these gt boxes."""
    sizes = torch.tensor([inside], dtype=torch.float32)
    labels = torch.ones(1, len(gt_boxes), dtype=torch.int64)
    pixels, found = torch.zeros(1, 3, *size), torch.tensor([gt_boxes], dtype=torch.float32)
    return PaddedImages(pixels, sizes, sizes, found, labels, labels > 0)


def pyramid(size: tuple[int, int], channels: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(1, channels, size[0] // s, size[1] // s) for s in FPN]


def rpn_of(**changes) -> RegionProposalNetwork:
    torch.manual_seed(0)
    rpn = RegionProposalNetwork(RPN(**changes), 8, FPN)
    for parameter in rpn.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return rpn


# Each difference by itself, against its definition.


def test_base_anchors_are_rounded_or_not():
    rounded, exact = (rpn_of(round_anchors=r).anchor_generator.cell_anchors[0] for r in (1, 0))
    assert rounded[0].tolist() == [-23, -11, 23, 11]
    root = math.sqrt(2) * 16
    torch.testing.assert_close(exact[0], torch.tensor([-root, -root / 2, root, root / 2]))
    assert exact.round().equal(rounded)


@pytest.mark.parametrize(("height", "stride"), [(800, 61), (480, 60), (992, 62), (640, 64)])
def test_the_stride_of_the_last_level(height: int, stride: int):
    """torchvision divides the padded side by P6's cells: half of P5's, rounded up."""
    p6 = (math.ceil(height / 32 / 2), 7)
    shapes = ((height // 4, 112), (height // 8, 56), (height // 16, 28), (height // 32, 14), p6)
    pixels = torch.zeros(1, 3, height, 448)
    steps = {}
    for kind in ("grid", "fixed"):
        anchors = rpn_of(anchor_strides=kind).anchors(pixels, shapes)[4].view(*p6, 3, 4)
        steps[kind] = (anchors[1, 0, 0] - anchors[0, 0, 0])[1].item()
    assert steps == {"grid": stride, "fixed": 64}


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_is_torchvisions_operator(aligned: bool, sampling_ratio: int):
    torch.manual_seed(3)
    feature = torch.randn(2, 4, 20, 30, requires_grad=True)
    corner = torch.rand(2, 30, 2) * 300
    rois = torch.cat([corner, corner + torch.exp(torch.rand(2, 30, 2) * 5)], dim=-1)
    recipe = RoIHeads(aligned=aligned, sampling_ratio=sampling_ratio, pool_size=5)
    mine = pyramid_roi_align([feature], rois, (16,), recipe)
    yours = roi_align(feature, list(rois), 5, 1 / 16, sampling_ratio, aligned)
    torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(mine)
    a, b = (torch.autograd.grad((x * weight).sum(), feature)[0] for x in (mine, yours))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_adaptive_sampling_over_levels_takes_each_roi_from_its_own():
    torch.manual_seed(3)
    features = pyramid((256, 256))[:4]
    corner = torch.rand(1, 40, 2) * 100
    rois = torch.cat([corner, corner + torch.exp(torch.rand(1, 40, 2) * 7)], dim=-1)
    recipe = RoIHeads(aligned=True, sampling_ratio=0)
    level = level_of(rois, FPN[:4])
    assert len(level.unique()) > 2
    expected = torch.cat([
        roi_align(features[i], [rois[0, k : k + 1]], 7, 1 / FPN[i], 0, True)
        for k, i in enumerate(level[0].tolist())
    ])  # fmt: skip
    torch.testing.assert_close(pyramid_roi_align(features, rois, FPN[:4], recipe), expected)


def test_the_level_map_differs_only_at_its_edges():
    """224 px less 1e-4: torchvision's epsilon lifts it a level, Detectron2's and MMDetection's not;
    less 3e-5 MMDetection's lifts it too."""

    def levels(side: float) -> list[int]:
        roi = torch.tensor([[[0.0, 0.0, side, side]]])
        return [
            int(level_of(roi, FPN[:4], kind))
            for kind in ("torchvision", "detectron2", "mmdetection")
        ]

    assert levels(224.0) == [2, 2, 2]
    assert levels(223.0) == [1, 1, 1]
    assert levels(224 - 1e-4) == [2, 1, 1]
    assert levels(224 - 3e-5) == [2, 1, 2]


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_smooth_l1_beta(beta: float):
    """The RPN's regression loss, from its own deltas and targets."""
    rpn = rpn_of(beta=beta, batch_size_per_image=64)
    padded = padded_of((128, 128), [[10.0, 20.0, 90.0, 70.0]], (128, 128))
    levels = Pyramid(pyramid((128, 128)))
    torch.manual_seed(5)
    loss = rpn.losses(padded, levels)[0]["loss_rpn_box_reg"]
    torch.manual_seed(5)
    anchors = torch.cat(rpn.anchors(padded.pixels, levels.shapes))[None]
    (index, positive, valid), gt = rpn.sample(padded, levels.shapes, anchors)
    _, deltas = rpn.sparse_head(levels, index)
    target = boxes.encode(
        boxes.take(padded.gt_boxes, gt), boxes.take(anchors, index), (1.0, 1.0, 1.0, 1.0)
    )
    error = (deltas - target)[positive].abs()
    smooth = torch.where(error < beta, error**2 / (2 * beta or 1), error - beta / 2)
    torch.testing.assert_close(loss, smooth.sum() / valid.sum())


def test_losses_are_divided_by_the_sample_or_by_a_fixed_number():
    padded = padded_of((128, 128), [[10.0, 20.0, 90.0, 70.0]], (128, 128))
    levels = Pyramid(pyramid((128, 128)))
    found = {}
    for kind in ("sampled", "batch-size"):
        torch.manual_seed(5)
        rpn = rpn_of(normalizer=kind, batch_size_per_image=8192)  # more than there are
        found[kind], _ = rpn.losses(padded, levels)
    anchors = torch.cat(rpn.anchors(padded.pixels, levels.shapes))[None]
    valid = rpn.sample(padded, levels.shapes, anchors)[0].valid.sum()
    assert valid < 8192
    for name, loss in found["sampled"].items():
        torch.testing.assert_close(loss * valid / 8192, found["batch-size"][name])


def test_low_quality_matches():
    """Gt box A is far from every box (best IoU 0.2), B and C share their best box, which is nearer
    to B."""
    candidates = torch.tensor([[[0, 0, 1, 10], [20, 0, 30, 10], [30, 0, 50, 10], [80, 0, 81, 1]]])
    gt_boxes = torch.tensor([[[0, 0, 5, 10], [22, 0, 32, 10], [22.5, 0, 32.5, 10]]])
    quality = boxes.iou(gt_boxes, candidates.float())[0]
    assert quality[:, :2].tolist() == [
        [pytest.approx(0.2), 0], [0, pytest.approx(2 / 3)], [0, pytest.approx(0.6)]
    ]  # fmt: skip
    valid = torch.ones(1, 3, dtype=torch.bool)

    def matched(*low_quality):
        return match(
            gt_boxes, valid, candidates.float(), foreground=0.7, background=0.3,
            low_quality=LowQuality(*low_quality),
        )  # fmt: skip

    label, gt = matched(0.0, "own")  # torchvision, Detectron2
    assert label.tolist() == [[1, 1, 0, 0]]
    assert gt[0, :2].tolist() == [0, 1]
    label, gt = matched(0.3, "best")  # MMDetection
    assert label.tolist() == [[0, 1, 0, 0]]
    assert gt[0, 1] == 2


def test_low_quality_matches_of_a_recipe():
    """A gt box of 4 px fits no anchor; two almost equal gt boxes share their best one."""
    levels = Pyramid(pyramid((128, 128)))
    tiny = padded_of((128, 128), [[61.0, 61.0, 65.0, 65.0]], (128, 128))
    for least, positives in ((0.0, True), (0.3, False)):
        rpn = rpn_of(low_quality_iou=least)
        anchors = torch.cat(rpn.anchors(tiny.pixels, levels.shapes))[None]
        assert rpn.sample(tiny, levels.shapes, anchors)[0].positive.any() == positives
    exact = anchors[0, 3 * (16 * 32 + 16) + 1].tolist()  # square, of the first level
    shifted = [x + 1.0 for x in exact]
    twins = padded_of((128, 128), [exact, shifted], (128, 128))
    chosen = []
    for kind in ("own", "best"):
        rpn = rpn_of(low_quality_gt=kind, anchor_sizes=(32, 300, 300, 300, 300))
        anchors = torch.cat(rpn.anchors(twins.pixels, levels.shapes))[None]
        (index, positive, _), gt = rpn.sample(twins, levels.shapes, anchors)
        at = (index == 3 * (16 * 32 + 16) + 1) & positive
        chosen.append(int(gt[at]))
    assert chosen == [0, 1]


def test_clamp_bounds_shrinking_too():
    anchor, bound = torch.tensor([0.0, 0.0, 100.0, 100.0]), math.log(1000 / 16)
    for delta, kind, side in (
        (-9.0, "max", 100 * math.exp(-9)),
        (-9.0, "both", 100 * math.exp(-bound)),
        (9.0, "max", 100 * math.exp(bound)),
        (9.0, "both", 100 * math.exp(bound)),
    ):
        box = boxes.decode(torch.tensor([0.0, 0.0, delta, delta]), anchor, (1,) * 4, kind)
        torch.testing.assert_close(box[2] - box[0], torch.tensor(side), rtol=1e-3, atol=1e-4)


def test_anchors_in_the_padding():
    """MMDetection samples none beyond the image's own size, padded to 32."""
    padded = padded_of((128, 256), [[10.0, 20.0, 90.0, 70.0]], (100, 150))
    levels = Pyramid(pyramid((128, 256)))
    for takes_part in (True, False):
        rpn = rpn_of(padding_anchors=takes_part, batch_size_per_image=100_000)
        anchors = torch.cat(rpn.anchors(padded.pixels, levels.shapes))[None]
        (index, _, valid), _ = rpn.sample(padded, levels.shapes, anchors)
        center = boxes.take(anchors, index).view(-1, 2, 2).mean(dim=1)[valid[0]]
        beyond = (center[:, 0] >= 160 + 32).any()  # 150 padded to 160; a P6 cell starts before it
        assert bool(beyond) == takes_part


def test_the_best_anchor_of_a_gt_box_is_looked_for_inside_only():
    """A gt box whose best anchor of all lies in the padding."""
    padded = padded_of((128, 256), [[150.0, 40.0, 190.0, 60.0]], (128, 160))
    levels = Pyramid(pyramid((128, 256)))
    centers = {}
    for takes_part in (True, False):
        rpn = rpn_of(padding_anchors=takes_part, batch_size_per_image=100_000)
        anchors = torch.cat(rpn.anchors(padded.pixels, levels.shapes))[None]
        (index, positive, _), _ = rpn.sample(padded, levels.shapes, anchors)
        chosen = boxes.take(anchors, index)[positive]
        centers[takes_part] = chosen[:, [0, 2]].mean(dim=1)
    assert (centers[True] > 160).all()
    assert len(centers[False]) > 0
    assert (centers[False] < 160).all()


def test_anchors_beyond_the_border_are_left_out():
    """Of the image, not of the tensor: 128 x 160 in 128 x 256."""
    padded = padded_of((128, 256), [[100.0, 40.0, 140.0, 90.0]], (128, 160))
    levels = Pyramid(pyramid((128, 256)))
    for takes_part in (True, False):
        rpn = rpn_of(border_anchors=takes_part, batch_size_per_image=100_000)
        anchors = torch.cat(rpn.anchors(padded.pixels, levels.shapes))[None]
        (index, _, valid), _ = rpn.sample(padded, levels.shapes, anchors)
        chosen = boxes.take(anchors, index)[valid]
        limit = torch.tensor([0, 0, -160, -128])
        inside = ((chosen * torch.tensor([1, 1, -1, -1])) >= limit).all(dim=1)
        assert len(chosen) > 100
        assert bool(inside.all()) != takes_part


@pytest.mark.parametrize("clamp", ["max", "both"])
def test_clamp_reaches_both_heads(clamp: str):
    rpn = rpn_of(clamp=clamp)
    torch.nn.init.zeros_(rpn.head.bbox_pred.weight)
    rpn.head.bbox_pred.bias.data = torch.tensor([0.0, 0.0, -9.0, -9.0]).repeat(3)
    padded = padded_of((128, 128), [[10.0, 20.0, 90.0, 70.0]], (128, 128))
    proposals = rpn.proposals(padded, pyramid((128, 128)), training=False)
    sides = (proposals.boxes[..., 2:] - proposals.boxes[..., :2])[proposals.valid]
    assert (sides.max() < 0.1) == (clamp == "max")

    torch.manual_seed(0)
    model = build(recipes.change(SMALL, roi_heads=dict(clamp=clamp, score_thresh=0.0)), 3).eval()
    torch.nn.init.zeros_(model.roi_heads.box_predictor.bbox_pred.weight)
    bias = torch.tensor([0.0, 0.0, -45.0, -45.0]).repeat(3)  # deltas of -9, times the weight 5
    model.roi_heads.box_predictor.bbox_pred.bias.data = bias
    images, _ = example(counts=(1,))
    with torch.no_grad():
        (found,) = model(images)
    sides = found["boxes"][:, 2:] - found["boxes"][:, :2]
    assert (sides.max() < 0.1) == (clamp == "max")


def test_the_least_side_of_a_proposal():
    """torchvision drops sides below a thousandth of a pixel, the others only empty boxes."""
    padded = padded_of((128, 128), [[10.0, 20.0, 90.0, 70.0]], (128, 128))
    counts = []
    for least in (1e-3, 0.0):
        rpn = rpn_of(min_side=least)
        torch.nn.init.zeros_(rpn.head.bbox_pred.weight)
        rpn.head.bbox_pred.bias.data = torch.tensor([0.0, 0.0, -11.0, -11.0]).repeat(3)
        counts.append(int(rpn.proposals(padded, pyramid((128, 128)), training=False).valid.sum()))
    assert 0 < counts[0] < counts[1]


def test_beta_reaches_the_box_head():
    images, targets = example()
    losses = []
    for beta in (0.0, 1 / 9, 1.0):
        torch.manual_seed(0)
        model = build(recipes.change(SMALL, roi_heads=dict(beta=beta)), 7).train()
        torch.manual_seed(1)
        losses.append(float(model(images, targets)["loss_box_reg"].detach()))
    assert losses[0] > losses[1] > losses[2] > 0


def test_ranking_by_scores_keeps_the_order_but_for_ties():
    rpn, by_score = rpn_of(), rpn_of(topk_by="scores")
    padded = padded_of((128, 128), [[10.0, 20.0, 90.0, 70.0]], (128, 128))
    a, b = (r.proposals(padded, pyramid((128, 128)), training=False) for r in (rpn, by_score))
    assert a.valid.equal(b.valid)
    torch.testing.assert_close(a.scores[a.valid], b.scores[b.valid])
    assert a.boxes[a.valid].equal(b.boxes[b.valid])
    assert rpn.detect(padded, pyramid((128, 128))).scores.max() <= 1


def test_rpn_score_threshold():
    padded = padded_of((128, 128), [[10.0, 20.0, 90.0, 70.0]], (128, 128))
    for rank in ("logits", "scores"):
        rpn = rpn_of(score_thresh=0.5, topk_by=rank)
        detections = rpn.detect(padded, pyramid((128, 128)))
        kept = detections.scores[detections.valid]
        every = rpn_of(topk_by=rank).detect(padded, pyramid((128, 128)))
        assert 0 < len(kept) < int(every.valid.sum())
        assert kept.min() >= 0.5


@pytest.mark.parametrize(("size", "floor", "nearest"), [
    ((480, 640), (800, 1066), (800, 1067)), ((334, 500), (799, 1197), (800, 1198)),
])  # fmt: skip
def test_rounding_of_resized_sides(size, floor, nearest):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for rounding, expected in (("floor", floor), ("nearest", nearest)):
        padded = Transform(Input(rounding=rounding)).eval()([image])
        assert tuple(padded.sizes[0].int().tolist()) == expected


@pytest.mark.parametrize("resize", ["pillow", "opencv"])
def test_resizing_is_the_librarys(resize: str):
    """On whole-number pixels within one of 255: Pillow's own, or bilinear without smoothing."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    recipe = Input(min_size=40, max_size=60, rounding="nearest", resize=resize, pixel_scale=1.0,
                   image_mean=(0.0,) * 3, image_std=(1.0,) * 3)  # fmt: skip
    mine = Transform(recipe).eval()([image]).pixels[0, :, :40, :53]
    assert mine.round().equal(mine)
    if resize == "pillow":
        small = Image.fromarray(pixels).resize((53, 40), Image.Resampling.BILINEAR)
        yours = torch.from_numpy(np.array(small)).permute(2, 0, 1).float()
    else:
        yours = functional.interpolate(image[None].float(), (40, 53), mode="bilinear")[0]
    assert (mine - yours).abs().max() <= 1
    assert (mine - yours).abs().mean() < 0.3


def test_channel_order_mean_and_std():
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 64, 64)
    recipe = Input(min_size=64, max_size=64, channel_order="bgr", pixel_scale=1.0,
                   image_mean=(1.0, 2.0, 3.0), image_std=(1.0, 2.0, 4.0))  # fmt: skip
    pixel = Transform(recipe).eval()([image]).pixels[0, :, 5, 5]
    assert pixel.tolist() == [29.0, 9.0, 1.75]


def test_size_divisible():
    image = torch.zeros(3, 64, 75, dtype=torch.uint8)
    recipe = Input(min_size=64, max_size=100, size_divisible=1)
    assert Transform(recipe).eval()([image]).pixels.shape[2:] == (64, 75)
    assert Transform(recipe).train()([image]).pixels.shape[3] % 32 == 0


@pytest.mark.parametrize("sampling", ["list", "range"])
def test_short_sides_are_drawn_statelessly(sampling: str):
    sides = (64, 96) if sampling == "range" else (64, 80, 96)
    transform = Transform(Input(min_size=96, max_size=160, train_min_sizes=sides,
                                train_sampling=sampling))  # fmt: skip
    image = torch.zeros(3, 100, 120, dtype=torch.uint8)

    def short(seed: int) -> int:
        torch.manual_seed(seed)
        return int(transform([image, image]).sizes.min())

    seen = {short(seed) for seed in range(60)}
    assert short(7) == short(7)
    assert seen == set(sides) if sampling == "list" else len(seen) > 15
    assert min(seen) >= 64
    assert max(seen) <= 96
    transform.eval()
    assert short(0) == 96
    shapes = set()
    transform.train()
    for seed in range(200):
        torch.manual_seed(seed)
        h, w = [(100, 120), (120, 100), (90, 200)][seed % 3]
        shapes.add(tuple(transform([torch.zeros(3, h, w, dtype=torch.uint8)]).pixels.shape[2:]))
    assert len(shapes) <= 12


def test_caffe_and_pytorch_style_differ_only_where_they_should():
    """The same weights; a stride in the 1x1 convolution sees every other position."""
    torch.manual_seed(0)
    pytorch, _ = build_backbone(Backbone(fpn_channels=8))
    caffe, _ = build_backbone(Backbone(fpn_channels=8, stride_in_1x1=True))
    caffe.load_state_dict(pytorch.state_dict(), strict=True)
    a, b = pytorch.body, caffe.body
    for name, module in a.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            other = b.get_submodule(name)
            moved = name.endswith(("0.conv1", "0.conv2")) and not name.startswith("layer1")
            assert (module.stride != other.stride) == moved, name
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        one, two = a(image), b(image)
        assert one["0"].equal(two["0"])
        for level in ("1", "2", "3"):
            assert one[level].shape == two[level].shape
            assert not torch.allclose(one[level], two[level], atol=1e-3)
        # Fed the same, the first block of a stage agrees where it does not stride, in its shortcut.
        x = one["0"]
        shortcut = a.layer2[0].downsample[0](x)
        assert shortcut.equal(b.layer2[0].downsample[0](x))


def test_norms_of_fixed_statistics_train_their_weights_or_not():
    kinds = {}
    for norm in ("frozen", "affine", "batch"):
        torch.manual_seed(0)
        backbone = build_backbone(Backbone(name="resnet18", norm=norm, fpn_channels=8))[0].train()
        before = backbone.body.layer4[1].bn1.running_mean.clone()
        backbone(torch.randn(2, 3, 64, 64))[3].sum().backward()
        weights = dict(backbone.named_parameters())
        trained = weights.get("body.layer4.1.bn1.weight")
        kinds[norm] = (
            trained is not None and trained.grad is not None,
            backbone.body.layer4[1].bn1.running_mean.equal(before),
        )
        if norm == "affine":  # the frozen stages' are not trained
            assert weights["body.layer1.0.bn1.weight"].grad is None
    assert kinds == {"frozen": (False, True), "affine": (True, True), "batch": (True, False)}


def test_fixed_statistics_compute_the_same_trained_or_not():
    torch.manual_seed(0)
    frozen, affine = (
        build_backbone(Backbone(name="resnet18", norm=n))[0] for n in ("frozen", "affine")
    )
    affine.load_state_dict(frozen.state_dict(), strict=True)
    image = torch.randn(1, 3, 64, 64)
    for a, b in zip(frozen(image), affine(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # folded in float32 and float64


def test_empty_detections():
    """A box wholly outside is clipped to nothing: torchvision drops it before NMS, Detectron2 after
    (it takes up one of the places), MMDetection never."""
    images, _ = example(counts=(1,))
    counts = {}
    for name, changes in {
        "torchvision": {},
        "detectron2": dict(min_side=0.0, drop_empty=True),
        "mmdetection": dict(min_side=0.0),
    }.items():
        torch.manual_seed(0)
        model = build(recipes.change(SMALL, roi_heads=changes), 3).eval()
        model.roi_heads.score_thresh = 0.0
        torch.nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=20.0)
        with torch.no_grad():
            (found,) = model(images)
        sides = found["boxes"][:, 2:] - found["boxes"][:, :2]
        counts[name] = len(sides), int((sides <= 0).any(dim=1).sum())
    assert counts["torchvision"] == (100, 0)
    assert counts["detectron2"][0] < 100
    assert counts["detectron2"][1] == 0
    assert counts["mmdetection"][0] == 100
    assert counts["mmdetection"][1] == 100 - counts["detectron2"][0]


def test_weight_decay_on_norms():
    from fasterrcnn.engine.step import make_optimizer

    model = build(recipes.change(SMALL, backbone=dict(norm="affine")), 3)
    norms, others = split_parameters(model)
    assert len(norms) > 10
    assert all(p.dim() == 1 for p in norms)
    for decay, expected in ((True, 1e-4), (False, 0.0)):
        optimizer = make_optimizer(
            model, recipes.change(SMALL, schedule=dict(decay_norms=decay)).schedule
        )
        by_parameter = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        assert {by_parameter[p] for p in norms} == {expected}
        assert {by_parameter[p] for p in others} == {1e-4}


@pytest.mark.parametrize("changes", [
    dict(backbone=dict(name="resnext101_32x8d")), dict(backbone=dict(fpn_norm="batch")),
    dict(rpn=dict(all_sizes_per_level=True)), dict(rpn=dict(conv_depth=2)),
    dict(roi_heads=dict(head="4conv1fc")), dict(roi_heads=dict(pool_size=14)),
    dict(rpn=dict(all_sizes_per_level=True), backbone=dict(neck="none"),
         roi_heads=dict(head="res5")),
], ids=str)  # fmt: skip
def test_structure_changes_parameters(changes: dict):
    with torch.device("meta"):
        a, b = (build(recipe, 3) for recipe in (SMALL, recipes.change(SMALL, **changes)))
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (a, b)]
    assert shapes[0] != shapes[1]


@pytest.mark.parametrize("training", [True, False])
def test_numbers_of_proposals(training: bool):
    padded = padded_of((256, 256), [[10.0, 20.0, 90.0, 70.0]], (256, 256))
    phase = "train" if training else "test"

    def count(**changes) -> int:
        rpn = rpn_of(**{f"{name}_{phase}": value for name, value in changes.items()})
        return int(rpn.proposals(padded, pyramid((256, 256)), training=training).valid.sum())

    few = count(pre_nms_top_n=50, post_nms_top_n=1000)
    assert few < count(pre_nms_top_n=1000, post_nms_top_n=1000)
    assert count(pre_nms_top_n=1000, post_nms_top_n=20) == 20


def test_every_difference_is_tested():
    """Each field of each convention differs from torchvision's, and a test names it: one above, or
    for the schedule, the smallest image and the kind of norm, those said here."""
    import inspect
    import sys

    default = recipes.flat(recipes.fasterrcnn_r50_fpn_1x())
    tests = [v for k, v in vars(sys.modules[__name__]).items() if k.startswith("test_")]
    text = "".join(map(inspect.getsource, tests[:-1]))
    elsewhere = {
        "min_image_side": "test_train_data",
        "warmup_steps": "test_presets",
        "norm": "above",
    }
    for changes in (conventions.MMDETECTION, conventions.DETECTRON2):
        for group, fields in changes.items():
            for field, value in fields.items():
                assert default[f"{group}.{field}"] != value, f"{group}.{field} is no difference"
                stem = field.removesuffix("_train").removesuffix("_test")
                assert stem in text or field in elsewhere, f"{group}.{field}: no test"


def test_presets_change_learning_rates():
    """Warm-up: MMEngine ends at iteration 499, Detectron2 and torchvision at 1000."""
    for name, last in (
        ("fasterrcnn_r50_fpn_1x_mmdetection", 499),
        ("fasterrcnn_r50_fpn_1x_detectron2", 1000),
        ("fasterrcnn_r50_fpn_torchvision", 1000),
    ):
        plan = recipes.get(name).schedule
        rates = [schedule.lr_at(step, plan, 7330) for step in (0, last - 1, last)]
        assert rates[0] == pytest.approx(0.02 * 0.001)
        assert rates[1] < rates[2] == 0.02
    assert asdict(plan)["decay_norms"]
