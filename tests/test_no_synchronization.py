"""A training step never synchronizes with the device.

Fake tensors have no values: whatever needs one on the host (`.item()`, `nonzero`, a boolean index)
raises. On a GPU torch itself watches.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fasterrcnn import recipes
from fasterrcnn.data import formats, loader, tiles
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.sampler import MicroBatch
from fasterrcnn.engine import fake_gpu, runtime, trials
from fasterrcnn.engine.step import Training, make_training, train_step
from fasterrcnn.models import any_backbone, resize
from fasterrcnn.models.build import Detector, build

SMALL = dict(
    input=dict(min_size=128, max_size=160),
    backbone=dict(name="resnet18"),
    schedule=dict(clip_grad_norm=1.0),
)
RECIPES = {
    "frozen norm": recipes.change(recipes.fasterrcnn_r50_fpn_1x(), **SMALL),
    "batch norm": recipes.fasterrcnn_r10_fpn_shapes(),
    "AdamW": recipes.with_optimizer(recipes.fasterrcnn_r10_fpn_shapes(), "adamw"),
    "MMDetection": recipes.change(recipes.get("fasterrcnn_r50_fpn_1x_mmdetection"), **SMALL),
    "Cascade of MMDetection": recipes.change(
        recipes.get("cascade_rcnn_r50_fpn_1x_mmdetection"), **SMALL
    ),
    "Cascade of Detectron2": recipes.change(recipes.get("cascade_rcnn_r50_fpn_1x"), **SMALL),
    "group norm, OHEM": recipes.change(
        recipes.get("scratch_fasterrcnn_r50_fpn_3x_gn_detectron2"),
        input=dict(min_size=128, max_size=160, train_min_sizes=()),
        backbone=dict(name="resnet18"),
        roi_heads=dict(sampler="ohem"),
    ),
    "deformable": recipes.change(
        recipes.get("fasterrcnn_r50_fpn_1x_dconv_c3_c5_detectron2"),
        input=dict(min_size=128, max_size=160, train_min_sizes=()),
    ),
    "RPN alone": recipes.change(
        recipes.get("rpn_r50_fpn_1x_mmdetection"), **SMALL, rpn=dict(batch_size_per_image=16)
    ),
    "Detectron2": recipes.change(
        recipes.get("fasterrcnn_r50_fpn_1x_detectron2"),
        **{**SMALL, "input": dict(min_size=128, max_size=160, train_min_sizes=(96, 128))},
    ),
}


class HostValues(TorchDispatchMode):
    """Counts tensors made from values of the host: copies to the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


def batch(shapes_folder: Path, start: int = 1) -> loader.Batch:
    """Three images, of different sizes and with different numbers of boxes, one without any."""
    data = formats.read(shapes_folder, "train", "auto", (), Problems())
    empty = int((~data.with_boxes()).nonzero()[0][0])
    return loader.Images(data)[MicroBatch(0, 0, 0, (empty, start, start + 1))]


def training(recipe: recipes.Recipe, rt: runtime.Runtime) -> Training:
    with rt.device:
        detector = build(recipe, 7).train()
    return make_training(detector, recipes.change(recipe, amp="fp16"), rt)


@pytest.fixture
def _no_cached_weights():
    """What resizing keeps must not be fake afterwards."""
    yield
    for kept in (resize._pillow_axis, resize._opencv_axis):
        kept.cache_clear()


@pytest.mark.usefixtures("_no_cached_weights")
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_step_needs_no_value_on_the_host(shapes_folder: Path, recipe: recipes.Recipe):
    rt = runtime.start("cpu")
    real = batch(shapes_folder)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        state = training(recipe, rt)
        fake = real._map(mode.from_tensor)
        with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
            fake.labels.sum().item()  # what this test looks for
        train_step(state, [fake], recipe, 0.01, rt, micro_batches=1)
        with HostValues() as host:  # what is cached per shape is there now
            train_step(state, [fake], recipe, 0.01, rt, micro_batches=1)
    assert host.count <= 2


def test_nor_on_tiles_with_boxes_that_are_ignored(shapes_folder: Path):
    data = formats.read(shapes_folder, "train", "auto", (), Problems())
    real = loader.Images(tiles.cut(data, 96, 48, min_visible=0.5))[MicroBatch(0, 0, 0, (0, 1, 2))]
    assert (real.labels < 0).any()
    rt, recipe = runtime.start("cpu"), RECIPES["frozen norm"]
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        state = training(recipe, rt)
        fake = real._map(mode.from_tensor)
        train_step(state, [fake], recipe, 0.01, rt, micro_batches=1)
        with HostValues() as host:
            train_step(state, [fake], recipe, 0.01, rt, micro_batches=1)
    assert host.count <= 2


class PageableCopies(TorchDispatchMode):
    """Counts copies to the device from memory that is not pinned, for which a GPU's host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.pinned: list[torch.Tensor] = []

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """In place of `Tensor.pin_memory`."""
        self.pinned.append(tensor.clone())
        return self.pinned[-1]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[func is torch.ops.aten.copy_.default]
            storages = {tensor.untyped_storage()._cdata for tensor in self.pinned}
            is_pinned = source.untyped_storage()._cdata in storages
            self.count += source.device != out.device and not is_pinned
        return out


@pytest.mark.parametrize("name", [
    "rpn_r10_fpn_shapes",
    pytest.param("fasterrcnn_r50_fpn_1x", marks=pytest.mark.slow),
    pytest.param("fasterrcnn_r50_fpn_1x_detectron2", marks=pytest.mark.slow),
    pytest.param("cascade_rcnn_r50_fpn_1x_mmdetection", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_step_copies_nothing_from_pageable_memory(name: str):
    """Nor in shapes that it has not seen; torch's own debug mode does not report such copies."""
    recipe, copies = recipes.change(recipes.get(name), amp="fp16"), PageableCopies()
    with (
        fake_gpu.fake_training(recipe, 7) as (state, rt),
        fake_gpu.replaced(torch.Tensor, "pin_memory", lambda tensor: copies.pin(tensor)),
    ):
        for size in ((120, 160), (160, 120)):
            images = trials.make_batch(2, size, 3).pin_memory()
            with copies:
                train_step(state, [images], recipe, 0.01, rt, micro_batches=1)
                if size == (120, 160):  # in the first step, the anchors of a cell
                    assert copies.count <= len(state.detector.rpn.strides)
                    copies.count = 0
        assert copies.count == 0
        with copies:
            torch.zeros(3).to(rt.device)  # what this test looks for
        assert copies.count == 1


def as_fake(detector: Detector, mode: FakeTensorMode) -> Detector:
    """The detector with tensors of no values, in place: RegNet cannot be made of them."""
    for module in detector.modules():
        for tensors in (module._parameters, module._buffers):
            tensors |= {k: mode.from_tensor(v) for k, v in tensors.items() if v is not None}
    generator = detector.rpn.anchor_generator
    generator.cell_anchors = [mode.from_tensor(anchors) for anchors in generator.cell_anchors]
    return detector


@pytest.mark.parametrize(("name", "constants"), [
    ("regnet_y_400mf", 0),
    pytest.param("convnext_tiny", 0, marks=pytest.mark.slow),
    ("swin_t", 54),  # nine numbers in the mask of each of six blocks: filled in, not copied
    pytest.param("efficientnet_b0", 0, marks=pytest.mark.slow),
    pytest.param("densenet121", 0, marks=pytest.mark.slow),
    pytest.param("swin_v2_t", 54, marks=pytest.mark.slow),
    pytest.param("maxvit_t", 0, marks=pytest.mark.slow),
])  # fmt: skip
def test_nor_with_another_backbone(shapes_folder: Path, name: str, constants: int):
    """Of torchvision's classification networks, one of every kind of layer."""
    base = recipes.change(RECIPES["AdamW"], backbone=dict(name=name, norm="frozen"))
    recipe = recipes.change(base, **any_backbone.stated(name))
    rt, real = runtime.start("cpu"), batch(shapes_folder)
    detector = build(recipe, 7).train()
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        state = make_training(as_fake(detector, mode), recipes.change(recipe, amp="fp16"), rt)
        fake = real._map(mode.from_tensor)
        train_step(state, [fake], recipe, 0.01, rt, micro_batches=1)
        with HostValues() as host:
            train_step(state, [fake], recipe, 0.01, rt, micro_batches=1)
    assert host.count <= 2 + constants


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["off", "fp16", "bf16"])
def test_a_step_does_not_wait_for_the_gpu(shapes_folder: Path, amp: str):
    """Nor on batches of sizes that it has not seen."""
    rt, recipe = runtime.start("cuda"), recipes.change(RECIPES["frozen norm"], amp=amp)
    state = training(recipe, rt)
    first, *others = (batch(shapes_folder, start).pin_memory() for start in (1, 3, 5))
    train_step(state, [first], recipe, 0.01, rt, micro_batches=1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for other in others:
            train_step(state, [other], recipe, 0.01, rt, micro_batches=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
