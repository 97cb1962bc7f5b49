"""The detector is torchvision's: same names, same mathematics, weights to and fro."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.models import boxes
from fasterrcnn.models.backbones import BODIES
from fasterrcnn.models.build import build
from fasterrcnn.models.sparse import Pyramid
from tests.models.stock import feed_padded, feed_samples, randomize_norms, stock

R50 = recipes.fasterrcnn_r50_fpn_1x()
DEMO = recipes.fasterrcnn_r10_fpn_shapes()
FROZEN = recipes.change(
    R50,
    input=dict(min_size=160, max_size=256),
    backbone=dict(name="resnet18"),
    rpn=dict(pre_nms_top_n_train=300, post_nms_top_n_train=400, post_nms_top_n_test=300),
)


SEEDS = (7, 8, 9)  # rounding flips a ReLU or a near tie for one of them; more would be a mistake


def example(counts: tuple[int, ...] = (4, 8), size: tuple[int, int] = (96, 128), seed: int = 7):
    """Random images with that many boxes of 6 classes each."""
    torch.manual_seed(seed)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in counts]
    targets = []
    for count in counts:
        corner, side = torch.rand(count, 2) * 50, 5 + torch.rand(count, 2) * 40
        labels = torch.randint(1, 7, (count,))
        targets.append({"boxes": torch.cat([corner, corner + side], 1), "labels": labels})
    return images, targets


def pair(recipe: recipes.Recipe, num_classes: int = 7):
    """Ours and torchvision's with the same weights."""
    torch.manual_seed(0)
    ours, theirs = build(recipe, num_classes), stock(recipe, num_classes)
    randomize_norms(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def test_parameters_are_those_of_torchvision():
    ours, theirs = build(R50, 91), stock(R50, 91)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert sum(p.numel() for p in ours.parameters()) == 41_755_286
    for (name, mine), yours in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.requires_grad == yours.requires_grad, name


@pytest.mark.parametrize("recipe", [FROZEN, DEMO], ids=["frozen norm", "batch norm"])
@pytest.mark.parametrize("counts", [(5,), (4, 0), (0, 0), (3, 300, 0)], ids=str)
def test_losses_and_gradients_are_torchvisions(monkeypatch, recipe, counts: tuple[int, ...]):
    """On the same padded input, with the same proposals and samples fed to both."""
    different = {}
    for seed in SEEDS:
        different[seed] = _different_gradients(monkeypatch, recipe, *example(counts, seed=seed))
        if not different[seed]:
            return
        assert max(different[seed].values()) < 0.01, different
    raise AssertionError(different)


def _different_gradients(monkeypatch, recipe: recipes.Recipe, images, targets) -> dict[str, float]:
    """By what share of its norm a gradient differs, where it is more than 1e-4; losses must not."""
    ours, theirs = (model.train() for model in pair(recipe))
    sampled, draw = [], boxes.sample

    def sample(*arguments):
        sampled.append(draw(*arguments))
        return sampled[-1]

    padded = ours.transform(images, targets)
    features = ours.features(padded)
    proposals = ours.rpn.proposals(padded, features, training=True)
    with monkeypatch.context() as patch:
        patch.setattr(boxes, "sample", sample)
        mine, _ = ours.losses(padded, features)
    sum(mine.values()).backward()

    feed_padded(theirs, padded)
    feed_samples(theirs, proposals.boxes, proposals.valid, *sampled)
    yours = theirs(images, targets)
    sum(yours.values()).backward()
    assert set(mine) == set(yours)
    for name, loss in yours.items():
        assert float(mine[name].detach()) == pytest.approx(float(loss.detach()), rel=1e-5), name
    different = {}
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if b.grad is not None and (a.grad - b.grad).norm() > 1e-4 * b.grad.norm():
            different[name] = float((a.grad - b.grad).norm() / b.grad.norm())
    return different


@pytest.mark.parametrize("recipe", [FROZEN, DEMO], ids=["frozen norm", "batch norm"])
def test_detections_are_torchvisions(recipe):
    ours, theirs = (model.eval() for model in pair(recipe))
    ours.roi_heads.score_thresh = theirs.roi_heads.score_thresh = 0.0
    worst = {}
    for seed in SEEDS:
        images, _ = example(seed=seed)
        with torch.no_grad():
            found = [*zip(ours(images), theirs([i / 255 for i in images]), strict=True)]
        assert all(len(a["labels"]) == len(b["labels"]) > 10 for a, b in found)
        worst[seed] = labels, scores, box = [
            max(float((a[key].float() - b[key]).abs().max()) for a, b in found)
            for key in ("labels", "scores", "boxes")
        ]
        if labels == 0 and scores < 1e-5 and box < 1e-2:
            return
    raise AssertionError(worst)


def test_loss_at_step_0_is_what_theory_says(shapes_folder: Path):
    """Fresh heads know nothing: objectness ln 2, classifier ln (K + 1)."""
    from fasterrcnn.data import formats, loader
    from fasterrcnn.data.problems import Problems
    from fasterrcnn.data.sampler import MicroBatch

    data = formats.read(shapes_folder, "train", "auto", (), Problems())
    batch = loader.Images(data)[MicroBatch(0, 0, 0, tuple(range(8)))]
    torch.manual_seed(0)
    losses = build(DEMO, data.classes.num_classes).train()(batch.images(), batch.targets())
    assert float(losses["loss_objectness"].detach()) == pytest.approx(math.log(2), rel=0.02)
    assert float(losses["loss_classifier"].detach()) == pytest.approx(math.log(7), rel=0.05)


def test_only_convolutions_and_linear_layers_leave_float32_under_autocast():
    ours, _ = pair(FROZEN)
    ours.train()
    images, targets = example()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        padded = ours.transform(images, targets)
        features = ours.features(padded)
        proposals = ours.rpn.proposals(padded, features, training=True)
        losses, _ = ours.losses(padded, features)
    assert {f.dtype for f in features} == {torch.bfloat16}
    assert {a.dtype for a in ours.rpn.anchors(padded.pixels, Pyramid(features).shapes)} == {
        torch.float32
    }
    assert proposals.boxes.dtype == padded.gt_boxes.dtype == torch.float32
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_under_autocast_every_trained_parameter_has_a_gradient():
    """Proposals are made without gradients, of which the casts of weights must know nothing."""
    images, targets = example()
    detector = build(DEMO, 7).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images, targets)
    sum(losses.values()).backward()
    named = {name: p.grad for name, p in detector.named_parameters() if p.requires_grad}
    assert [name for name, grad in named.items() if grad is None or not grad.any()] == []


def test_no_activation_of_a_frozen_norm_network_is_promoted():
    ours, _ = pair(FROZEN)
    seen = set()
    for block in ours.backbone.body.modules():
        if isinstance(block, torch.nn.Sequential):
            block.register_forward_hook(lambda _, i, out: seen.add(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours.backbone(torch.rand(1, 3, 64, 64))
    assert seen == {torch.bfloat16}


def test_images_without_boxes_train():
    torch.manual_seed(0)
    model = build(DEMO, 7).train()
    images, targets = example()
    for target in targets:
        target["boxes"], target["labels"] = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    losses, noted = model.training_losses(model.transform(images, targets))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert noted["rpn_positives"] == noted["roi_positives"] == noted["roi_accuracy"] == 0


def test_diagnostics_count():
    torch.manual_seed(0)
    model = build(DEMO, 7).train()
    images, targets = example()
    _, noted = model.training_losses(model.transform(images, targets))
    assert set(noted) == {"rpn_positives", "roi_positives", "roi_accuracy", "roi_false_negatives"}
    assert 0 < noted["rpn_positives"] <= 32  # half of 64
    assert 4 <= noted["roi_positives"] <= 24  # ground truth is among the proposals
    assert 0 <= noted["roi_accuracy"] + noted["roi_false_negatives"] <= 1


@pytest.mark.parametrize("name", BODIES)
def test_every_backbone_builds_and_loads_into_torchvision(name: str):
    recipe = recipes.change(R50, backbone=dict(name=name))
    with torch.device("meta"):
        ours, theirs = build(recipe, 5), stock(recipe, 5)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }


def test_activations_of_fresh_frozen_norm_networks_stay_in_range():
    """Without pretrained statistics residual branches are made small; else they blow up."""
    from fasterrcnn.models.backbones import shrink_residuals

    torch.manual_seed(0)
    backbone = build(R50, 5).backbone
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        small = backbone.body(image)["3"].std()
        shrink_residuals(backbone.body, 5.0)  # as torchvision leaves them
        large = backbone.body(image)["3"].std()
    assert small < 20
    assert large > 100 * small
