"""The two sides of the benchmark: training and inference of this project and of torchvision."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from fasterrcnn import recipes
from fasterrcnn.data.loader import Batch
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.engine.step import make_training, train_step
from fasterrcnn.errors import Diverged
from fasterrcnn.export import onnx_file, program
from fasterrcnn.export.detector import ExportedDetector
from fasterrcnn.models.build import Detector, build
from fasterrcnn.recipes import Recipe

NUM_CLASSES = 91  # as torchvision's COCO detectors
_LR = 1e-3  # changes the losses of fresh weights without making them diverge


@dataclass
class Side:
    """How one side trains on a batch and detects in one."""

    model: nn.Module
    step: Callable[[Batch], torch.Tensor]  # returns the loss, on the device
    detect: Callable[[Batch], Any]
    losses: list[float] = field(default_factory=list)
    memory_gb: float = 0.0  # peak in the first training step; only the first side's is its own


def make_sides(recipe: Recipe, rt: Runtime, *, compiled: bool) -> Iterator[tuple[str, Side]]:
    """Ours and, where it has the network, torchvision's, with the same deterministic weights."""
    torch.manual_seed(0)
    detector = build(recipe, NUM_CLASSES)  # residual branches start small: activations stay finite
    weights = {name: value.clone() for name, value in detector.state_dict().items()}
    yield "ours", ours(rt.place(detector), recipe, rt, compiled=compiled)
    if not in_torchvision(recipe):
        return
    stock = stock_detector(recipe, detector)
    stock.load_state_dict(weights, strict=True)
    measured = {"torchvision": recipe}
    if recipe.amp != "off":
        measured["torchvision in fp32"] = recipes.change(recipe, amp="off")
    for name, own in measured.items():
        yield name, torchvisions(copy.deepcopy(stock).to(rt.device), own, rt)


def in_torchvision(recipe: Recipe) -> bool:
    """Does torchvision have this network, with these conventions?"""
    stock = recipes.get("fasterrcnn_r50_fpn_1x")
    same = replace(recipe.input, min_size=stock.input.min_size, max_size=stock.input.max_size)
    return (
        recipe.detector, same, recipe.augment, recipe.backbone, recipe.rpn, recipe.roi_heads
    ) == (
        stock.detector, stock.input, stock.augment, stock.backbone, stock.rpn, stock.roi_heads
    )  # fmt: skip


def stock_detector(recipe: Recipe, detector: Detector) -> nn.Module:
    """torchvision's detector with the frozen norms and parameters of `detector`."""
    stock = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES,
        min_size=recipe.input.min_size,
        max_size=recipe.input.max_size,
    )
    # Without pretrained weights torchvision trains its norms; those of its COCO models are frozen.
    for name, module in list(stock.backbone.body.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            frozen = detector.backbone.body.get_submodule(name)
            parent, _, leaf = name.rpartition(".")
            fixed = type(frozen)(module.num_features, eps=frozen.eps)
            setattr(stock.backbone.body.get_submodule(parent), leaf, fixed)
    for mine, yours in zip(detector.parameters(), stock.parameters(), strict=True):
        yours.requires_grad_(mine.requires_grad)
    return stock


def ours(detector: Detector, recipe: Recipe, rt: Runtime, *, compiled: bool) -> Side:
    """The step of every run of this project."""
    training = make_training(detector, recipe, rt, compiled=compiled)

    def step(batch: Batch) -> torch.Tensor:
        (scalars,), _ = train_step(training, [batch], recipe, _LR, rt, micro_batches=rt.ranks)
        return torch.stack([v for name, v in scalars.items() if name.startswith("loss")]).sum()

    @torch.no_grad()
    def detect(batch: Batch) -> Any:
        with rt.precision(recipe.amp):
            return detector(batch.to(rt.device).images())

    return Side(detector, step, detect)


def onnx(detector: Detector, recipe: Recipe) -> Side:
    """Ours as an ONNX file in ONNX Runtime, in float32 on the CPU; it detects only."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detector.onnx"
        onnx_file.write(program.export(detector.eval()), file, "{}")
        model = ExportedDetector(onnx_file.read(file), recipe)

    def step(batch: Batch) -> torch.Tensor:
        raise NotImplementedError("an exported file is not trained")

    return Side(model, step, lambda batch: model(batch.images()))


def torchvisions(model: nn.Module, recipe: Recipe, rt: Runtime) -> Side:
    """The step of `train_one_epoch` in pytorch/vision, references/detection/engine.py, with the
    optimizers of train.py there."""
    schedule = recipe.schedule
    trained, decay = [p for p in model.parameters() if p.requires_grad], schedule.weight_decay
    optimizer: torch.optim.Optimizer
    if schedule.optimizer == "adamw":
        optimizer = torch.optim.AdamW(trained, lr=_LR, weight_decay=decay)
    else:
        momentum = schedule.momentum
        optimizer = torch.optim.SGD(trained, lr=_LR, momentum=momentum, weight_decay=decay)
    scaler = rt.scaler(recipe.amp)

    def step(batch: Batch) -> torch.Tensor:
        batch = batch.to(rt.device)
        with rt.autocast(recipe.amp):
            losses = model([i / 255 for i in batch.images()], batch.targets())
            total = sum(losses.values())
        if not math.isfinite(total.item()):
            raise Diverged(f"torchvision: loss {total.item()}")
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        return total.detach()

    @torch.no_grad()
    def detect(batch: Batch) -> Any:
        with rt.autocast(recipe.amp):
            return model([i / 255 for i in batch.to(rt.device).images()])

    return Side(model, step, detect)
