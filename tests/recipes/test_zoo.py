"""Every recipe of the zoo: its size, its schedule, and that it trains on real images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fasterrcnn import recipes, schedule
from fasterrcnn.data import augment, formats, loader, proposals
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.sampler import MicroBatch
from fasterrcnn.engine import initial_weights, runtime
from fasterrcnn.engine.step import make_training, train_step
from fasterrcnn.models.build import build
from fasterrcnn.models.cost import cost

STEPS = 7330  # of 16 images, per epoch of COCO's 117,266 with boxes


@pytest.mark.parametrize(("name", "parameters"), [
    ("fasterrcnn_r50_fpn_torchvision", 41_755_286),
    ("fasterrcnn_r50_fpn_v2_torchvision", 43_712_278),
    ("fasterrcnn_mobilenet_v3_large_fpn_torchvision", 19_386_354),
])  # fmt: skip
def test_published_sizes(name: str, parameters: int):
    """`num_params` of torchvision's weights, at 91 outputs."""
    assert cost(recipes.get(name), 91, (800, 1344))[0] == parameters


def needs_timm(name: str) -> None:
    if recipes.get(name).backbone.name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm, an extra, is not installed")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_builds_on_the_meta_device(name: str):
    needs_timm(name)
    parameters, operations = cost(recipes.get(name), 81, (800, 1344))
    assert parameters > 5e6
    assert operations > 1e9


def test_bodies_are_in_order_of_cost():
    """The order of the published tables' fps, turned round."""
    bodies = ("r50", "r101", "x101_32x4d", "x101_64x4d")
    costs = [cost(recipes.get(f"rpn_{body}_fpn_1x_mmdetection"), 2, (800, 1344)) for body in bodies]
    assert sorted(c[1] for c in costs) == [c[1] for c in costs]


def test_operations_are_counted_as_the_papers_do():
    """The stem of ResNet-50 on 800 x 1344 px: 7 * 7 * 3 * 64 multiply-adds at each of 400 x 672."""
    with torch.device("meta"):
        body = build(recipes.get("rpn_r50_fpn_1x_mmdetection"), 2).backbone.body
    recipe = recipes.get("rpn_r50_fpn_1x_mmdetection")
    whole = cost(recipe, 2, (800, 1344))[1]
    stem = 7 * 7 * 3 * 64 * 400 * 672
    assert body.conv1.weight.numel() * 400 * 672 == stem
    assert whole > 50 * stem
    half = cost(recipe, 2, (800, 672))[1]
    assert whole / half == pytest.approx(2, rel=0.01)


# Steps at which the source changes the learning rate, and the rates before and after.
SOURCES = {
    "1x": (12, (8 * STEPS, 11 * STEPS)),
    "2x": (24, (16 * STEPS, 22 * STEPS)),
    "ms-1x": (12, (8 * STEPS, 11 * STEPS)),
    "ms-3x": (36, (27 * STEPS, 33 * STEPS)),
    "ms-2x": (24, (16 * STEPS, 23 * STEPS)),
    "ms-range-1x": (12, (8 * STEPS, 11 * STEPS)),
    "6x": (73, (65 * STEPS, 71 * STEPS)),
    "20e": (20, (16 * STEPS, 19 * STEPS)),
    "26 epochs": (26, (16 * STEPS, 22 * STEPS)),
}
RATES = {  # learning rate and weight decay of AdamW
    "fasterrcnn_r50_tnr_pre_fpn_1x_mmdetection": (1e-4, 0.1),
    "fasterrcnn_r50_rsb_pre_fpn_1x_mmdetection": (2e-4, 0.05),
}
DETECTRON2 = {
    "1x": (90_000, (60_000, 80_000)), "3x": (270_000, (210_000, 250_000)),
    "100ep": (184_375, (163_889, 177_546)), "400ep": (737_500, (655_556, 710_184)),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [n for n in recipes.RECIPES if not n.endswith("_shapes") and "_voc" not in n]
)
def test_learning_rates_are_the_sources(name: str):
    entry, recipe = recipes.RECIPES[name], recipes.get(name)
    plan, per_epoch = recipe.schedule, STEPS
    if name.endswith("_detectron2"):
        total, drops = DETECTRON2[entry.schedule]
        per_epoch = 1833 if name.endswith("_lsj_detectron2") else STEPS
    elif name == "fasterrcnn_r50_fpn_v2_torchvision":  # 64 images per step
        per_epoch = 1833
        total, drops = 400 * per_epoch, (352 * per_epoch, 384 * per_epoch)
    else:
        epochs, drops = SOURCES[entry.schedule]
        total = epochs * STEPS
    base, decay = RATES.get(name, (0.1, 4e-5) if plan.images_per_step == 64 else (0.02, 1e-4))
    first = 0.067 if "_lsj_" in name else 0.001
    assert schedule.total_steps(plan, per_epoch) == total
    mmengine = entry.framework == "mmdetection"
    last_warm = 499 if mmengine else 500 if not entry.framework or "_lsj_" in name else 1000

    def rate(step: int) -> float:
        return schedule.lr_at(step, plan, per_epoch)

    assert rate(0) == pytest.approx(base * first)
    half = base * (first + (1 - first) * (last_warm // 2) / last_warm)
    assert rate(last_warm // 2) == pytest.approx(half)
    assert rate(last_warm) == base
    for i, drop in enumerate(drops):
        assert rate(drop - 1) == pytest.approx(base * 0.1**i)
        assert rate(drop) == pytest.approx(base * 0.1 ** (i + 1))
    assert plan.weight_decay == (5e-5 if "regnetx" in name else decay)
    assert plan.optimizer == ("adamw" if "_pre_" in name else "sgd")
    assert plan.momentum == 0.9


# py-faster-rcnn's solvers, and MMDetection's VOC schedule: images per step, rate, steps per epoch,
# steps in all, the step of the drop. VOC 2007 trainval has 5,011 images, with 2012's 16,551.
VOC = {
    "fasterrcnn_vgg16_voc": (2, 0.001, 5011 / 2, 70_000, 50_000),
    "rpn_vgg16_voc": (1, 0.001, 5011, 80_000, 60_000),
    "fast_rcnn_vgg16_voc": (2, 0.001, 5011 / 2, 40_000, 30_000),
    "fasterrcnn_r50_fpn_voc": (16, 0.01, 1035, 12 * 1035, 9 * 1035),
    "rpn_r50_fpn_voc": (16, 0.01, 1035, 12 * 1035, 9 * 1035),
    "fast_rcnn_r50_fpn_voc": (16, 0.01, 1035, 12 * 1035, 9 * 1035),
}


@pytest.mark.parametrize("name", [n for n in recipes.RECIPES if n.endswith("_voc")])
def test_learning_rates_on_voc_are_the_sources(name: str):
    images, base, per_epoch, total, drop = VOC[name]
    plan = recipes.get(name).schedule
    assert plan.images_per_step == images
    assert schedule.total_steps(plan, per_epoch) == total
    rates = [schedule.lr_at(step, plan, per_epoch) for step in (0, drop - 1, drop)]
    assert rates == [base, base, pytest.approx(base / 10)]
    assert plan.momentum == 0.9
    assert plan.weight_decay == (5e-4 if "vgg16" in name else 1e-4)


def test_fast_rcnn_samples_128_rois_of_a_step_of_two_images():
    """`TRAIN.BATCH_SIZE` of py-faster-rcnn is that of the step."""
    for name, images in (("fasterrcnn_vgg16_voc", 1), ("fast_rcnn_vgg16_voc", 2)):
        recipe = recipes.get(name)
        assert recipe.schedule.images_per_gpu == images
        assert recipe.roi_heads.batch_size_per_image * images == 128
        assert recipe.roi_heads.positive_fraction == 0.25


def distinct() -> list[str]:
    """Recipes that differ in more than their schedule."""
    seen, names = set(), []
    for name in recipes.RECIPES:
        r = recipes.get(name)
        key = (r.detector, r.input, r.backbone, r.rpn, r.roi_heads)
        if key not in seen:
            seen.add(key)
            names.append(name)
    return names


QUICK = (
    "fasterrcnn_r50_fpn_v2_torchvision", "fasterrcnn_mobilenet_v3_large_320_fpn_torchvision",
    "rpn_r50_fpn_1x_mmdetection", "fasterrcnn_r50_fpn_ms_3x_mmdetection",
    "fasterrcnn_r50_fpn_3x_detectron2", "rpn_r50_c4_1x_detectron2",
)  # fmt: skip


@pytest.fixture(scope="module")
def coco(coco_tiny: Path) -> Annotations:
    data = formats.read(coco_tiny, "train", "auto", (), Problems(skip=True))
    return data.select(data.with_boxes())


def stored_gt(data: Annotations, path: Path) -> proposals.StoredProposals:
    """The boxes of every image as its proposals."""
    images = [
        proposals.ImageProposals(boxes, np.ones(len(boxes)), tuple(size))
        for boxes, size in ((data.training_boxes(i)[0], data.sizes[i]) for i in range(len(data)))
    ]
    proposals.write(path, data.ids, images, {})
    return proposals.read(path)


def trains(name: str, data: Annotations, folder: Path) -> None:
    """Two steps on two real images at a reduced size: the losses are finite and move."""
    needs_timm(name)
    recipe = recipes.change(
        recipes.get(name),
        weights="none",
        amp="off",
        input=dict(min_size=128, max_size=192, train_min_sizes=()),
        augment=dict(jitter_size=192),
        backbone=dict(norm="batch") if recipes.get(name).backbone.name.startswith("timm:") else {},
        roi_heads=dict(batch_size_per_image=32),
    )
    torch.manual_seed(0)
    model = build(recipe, data.classes.num_classes)
    initial_weights.initialize(model, recipe, data.classes)
    rt = runtime.start("cpu")
    training = make_training(rt.place(model), recipe, rt)
    alone = recipe.detector == "fast_rcnn"
    images = loader.Images(
        data,
        proposals=stored_gt(data, folder / "p") if alone else None,
        augment=augment.of(recipe),
    )
    batch = images[MicroBatch(0, 0, 0, (0, 1))]
    losses = []
    for _ in range(3):  # the last only to look
        (scalars,), norm = train_step(training, [batch], recipe, 1e-3, rt, micro_batches=1)
        losses.append({k: float(v) for k, v in scalars.items() if k.startswith("loss_")})
        assert math.isfinite(norm)
    assert len(losses[0]) == (4 if recipe.detector == "faster_rcnn" else 2)
    assert all(math.isfinite(value) for each in losses for value in each.values())
    assert sum(losses[0].values()) != sum(losses[1].values()) != sum(losses[2].values())


@pytest.mark.parametrize("name", QUICK)
def test_trains_on_real_images(name: str, coco: Annotations, tmp_path: Path):
    trains(name, coco, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in distinct() if name not in QUICK])
def test_every_other_network_trains_on_real_images(name: str, coco: Annotations, tmp_path: Path):
    trains(name, coco, tmp_path)
