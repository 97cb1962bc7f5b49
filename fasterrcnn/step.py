"""One optimizer step, without waiting for the device, and what it changes.

Life of a batch, step 6.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from fasterrcnn import recipes, seeds
from fasterrcnn.data import loader
from fasterrcnn.models.build import Detector
from fasterrcnn.models.ema import Ema
from fasterrcnn.recipes import Recipe
from fasterrcnn.runtime import Runtime


@dataclass
class Training:
    """Everything that a step changes."""

    detector: Detector
    model: nn.Module  # the detector, or what averages its gradients over ranks
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None


def make_optimizer(model: nn.Module, recipe: recipes.Schedule) -> torch.optim.SGD:
    """SGD whose momentum buffers exist from the start, as zeros in their parameter's format.

    A first step from zeros is what SGD does without buffers. Left to itself, torch 2.11's fused SGD
    keeps an uninitialised buffer when the first fp16 step overflows.
    """
    norms, others = split_parameters(model)
    decay, factor = recipe.weight_decay, recipe.bias_lr_factor
    named = model.named_parameters() if factor != 1 else ()
    biases = {parameter for name, parameter in named if name.endswith(".bias")}
    groups = [
        {"params": [p for p in others if p not in biases], "weight_decay": decay},
        {"params": [p for p in others if p in biases], "weight_decay": decay, "lr_factor": factor},
        {"params": norms, "weight_decay": decay if recipe.decay_norms else 0.0},
    ]
    optimizer = torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.lr,
        momentum=recipe.momentum,
        fused=True,
    )
    for parameter in norms + others:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained parameters of norms, and all others."""
    norms = {
        parameter
        for module in model.modules()
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d))
        for parameter in module.parameters(recurse=False)
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trained if p in norms], [p for p in trained if p not in norms]


def one_step(
    training: Training, batches: list[loader.Batch], recipe: Recipe, lr: float, rt: Runtime
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """One optimizer step from this rank's micro-batches, without waiting for the device.

    Returns the losses and diagnostics of each micro-batch and the L2 norm of the gradient (before
    clipping), all on the device. Sampling depends on (seed, step, micro-batch index) only.
    """
    scaler, optimizer, scalars = training.scaler, training.optimizer, []
    for batch in batches:
        step, index = batch.micro_batch.step, batch.micro_batch.index
        torch.manual_seed(seeds.key(recipe.seed, "step", step, index))
        batch = batch.to(rt.device)
        sync = (
            nullcontext()
            if batch.micro_batch == batches[-1].micro_batch
            else rt.no_sync(training.model)
        )
        with sync:
            with rt.autocast(recipe.amp):
                losses = training.model(batch.images(), batch.targets())
            loss = sum(losses.values()) / len(batches)
            scaler.scale(loss).backward()
        scalars.append({**losses, **training.detector.diagnostics()})
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
    scaler.unscale_(optimizer)
    gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    grad_norm = nn.utils.get_total_norm(gradients)
    if recipe.schedule.clip_grad_norm > 0:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grads_with_norm_(parameters, recipe.schedule.clip_grad_norm, grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if training.ema is not None:
        training.ema.update(training.detector, torch.isfinite(grad_norm))
    return [{k: v.detach() for k, v in each.items()} for each in scalars], grad_norm
