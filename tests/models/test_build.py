"""The detector is torchvision's: same names, same computation, weights to and fro."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from fasterrcnn import recipes
from fasterrcnn.models.backbones import BODIES
from fasterrcnn.models.build import build, diagnostics

R50 = recipes.fasterrcnn_r50_fpn_1x()
DEMO = recipes.fasterrcnn_r10_fpn_shapes()


def example(n: int = 2, boxes: int = 4, size: tuple[int, int] = (96, 128)):
    torch.manual_seed(7)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(n)]
    targets = []
    for i in range(n):
        corner = torch.rand(boxes * (i + 1), 2) * 50
        side = 5 + torch.rand(boxes * (i + 1), 2) * 40
        targets.append(
            {
                "boxes": torch.cat([corner, corner + side], 1),
                "labels": torch.randint(1, 7, (boxes * (i + 1),)),
            }
        )
    return images, targets


def stock(recipe: recipes.Recipe, num_classes: int) -> FasterRCNN:
    """torchvision's class with the same settings, around our backbone's architecture."""
    from fasterrcnn.models.backbones import build_backbone

    r, h = recipe.rpn, recipe.roi_heads
    return FasterRCNN(
        build_backbone(recipe.backbone),
        min_size=recipe.input.min_size,
        max_size=recipe.input.max_size,
        rpn_anchor_generator=AnchorGenerator(
            tuple((s,) for s in r.anchor_sizes), (r.aspect_ratios,) * len(r.anchor_sizes)
        ),
        rpn_pre_nms_top_n_train=r.pre_nms_top_n_train,
        rpn_pre_nms_top_n_test=r.pre_nms_top_n_test,
        rpn_post_nms_top_n_train=r.post_nms_top_n_train,
        rpn_post_nms_top_n_test=r.post_nms_top_n_test,
        rpn_batch_size_per_image=r.batch_size_per_image,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], h.pool_size, h.sampling_ratio),
        box_head=TwoMLPHead(recipe.backbone.fpn_channels * h.pool_size**2, h.representation_size),
        box_predictor=FastRCNNPredictor(h.representation_size, num_classes),
        box_batch_size_per_image=h.batch_size_per_image,
        box_positive_fraction=h.positive_fraction,
    )


def test_parameters_are_those_of_torchvision():
    ours = build(R50, 91)
    frozen = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    theirs = FasterRCNN(frozen, 91)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert sum(p.numel() for p in ours.parameters()) == 41_755_286
    for (name, mine), yours in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.requires_grad == yours.requires_grad, name


def test_training_losses_and_gradients_are_torchvisions():
    torch.manual_seed(0)
    ours, theirs = build(DEMO, 7).train(), stock(DEMO, 7).train()
    theirs.load_state_dict(ours.state_dict())
    images, targets = example()
    results = []
    for model, batch in ((ours, images), (theirs, [i / 255 for i in images])):
        torch.manual_seed(3)
        losses = model(batch, targets)
        sum(losses.values()).backward()
        results.append(losses)
    assert {k: float(v.detach()) for k, v in results[0].items()} == {
        k: float(v.detach()) for k, v in results[1].items()
    }
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert a.grad.equal(b.grad), name


def test_detections_are_torchvisions():
    torch.manual_seed(0)
    ours, theirs = build(DEMO, 7).eval(), stock(DEMO, 7).eval()
    ours.roi_heads.score_thresh = theirs.roi_heads.score_thresh = 0.0
    theirs.load_state_dict(ours.state_dict())
    images, _ = example()
    with torch.no_grad():
        for a, b in zip(ours(images), theirs([i / 255 for i in images]), strict=True):
            assert len(a["boxes"]) > 10
            for key in ("boxes", "scores", "labels"):
                assert a[key].equal(b[key])


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


def test_boxes_stay_float32_under_autocast():
    torch.manual_seed(0)
    model = build(DEMO, 7).train()
    seen = {}

    def note(name):
        def hook(_, inputs, output):
            features = inputs[1] if name == "rpn" else inputs[0]
            seen[name] = {f.dtype for f in features.values()}
            seen[name + " boxes"] = {b.dtype for b in output[0]} if name == "rpn" else set()

        return hook

    def note_backbone(_, inputs, output):
        seen["backbone"] = {f.dtype for f in output.values()}

    model.rpn.anchor_generator.register_forward_hook(
        lambda m, i, out: seen.update(anchors={a.dtype for a in out})
    )
    model.backbone.register_forward_hook(note_backbone)
    model.rpn.register_forward_hook(note("rpn"))
    images, targets = example()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images, targets)
    assert seen["backbone"] == {torch.bfloat16}  # the pyramid's convolutions ran in bf16
    assert seen["anchors"] == {torch.float32}
    assert seen["rpn boxes"] == {torch.float32}
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_images_without_boxes_train():
    torch.manual_seed(0)
    model = build(DEMO, 7).train()
    images, targets = example()
    for target in targets:
        target["boxes"], target["labels"] = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    noted = diagnostics(model)
    assert noted["rpn_positives"] == noted["roi_positives"] == noted["roi_accuracy"] == 0


def test_diagnostics_count():
    torch.manual_seed(0)
    model = build(DEMO, 7).train()
    images, targets = example()
    model(images, targets)
    noted = diagnostics(model)
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
