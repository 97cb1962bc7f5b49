"""One optimizer step, without waiting for the device, and what it changes.

Life of a batch, step 6.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from fasterrcnn import seeds
from fasterrcnn.data.loader import Batch
from fasterrcnn.engine.parameter_groups import parameter_groups
from fasterrcnn.engine.runtime import Runtime, seed
from fasterrcnn.errors import UsageError
from fasterrcnn.models.build import Detector, Scalars
from fasterrcnn.models.compiled import compile_training_losses
from fasterrcnn.models.ema import Ema
from fasterrcnn.recipes import Recipe, Schedule


class TrainingForward(nn.Module):
    """A batch in, losses and diagnostics out: what DistributedDataParallel wraps."""

    def __init__(self, detector: Detector, *, compiled: bool) -> None:
        super().__init__()
        self.detector = detector
        self.training_losses = (
            compile_training_losses(detector) if compiled else detector.training_losses
        )

    def forward(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]],
        planned: tuple[int, int] | None = None,
    ) -> tuple[Scalars, Scalars]:
        """Arguments as `Transform.forward`; results as `Detector.training_losses`."""
        return self.training_losses(self.detector.transform(images, targets, planned))


@dataclass
class Training:
    """Everything that a step changes."""

    detector: Detector
    forward: nn.Module  # a TrainingForward of the detector, or DDP around one
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    ema: Ema[Detector] | None = None


def make_training(
    detector: Detector, recipe: Recipe, rt: Runtime, *, compiled: bool = False
) -> Training:
    """The training of a detector that is on its device and has its first weights."""
    ema = Ema(detector, recipe.schedule.ema_decay) if recipe.schedule.ema_decay else None
    optimizer = make_optimizer(detector, recipe.schedule)
    forward = TrainingForward(detector.train(), compiled=compiled)
    return Training(
        detector,
        rt.replicate(forward, sync_buffers=_has_batch_norm(recipe)),
        optimizer,
        rt.scaler(recipe.amp),
        ema,
    )


def _has_batch_norm(recipe: Recipe) -> bool:
    """Whether statistics of norms move in training."""
    heads = recipe.roi_heads
    in_head = recipe.detector != "rpn" and heads.head == "4conv1fc" and heads.head_norm == "batch"
    return in_head or "batch" in (recipe.backbone.norm, recipe.backbone.fpn_norm)


def make_optimizer(model: nn.Module, config: Schedule) -> torch.optim.Optimizer:
    """SGD or AdamW whose states exist from the start, as zeros in their parameter's format.

    A first step from zeros is what SGD does without buffers, and AdamW's states start so. Left to
    itself, torch 2.11's fused SGD keeps an uninitialized buffer when the first fp16 step overflows.
    Raises UsageError if no parameter is trained.
    """
    groups = parameter_groups(model, config)
    if not groups:
        raise UsageError("--freeze: leaves nothing to train; freeze less")
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        first, second = config.betas
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(first, second), fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    for parameter in [p for group in groups for p in group["params"]]:
        optimizer.state[parameter].update(_first_state(parameter, config.optimizer))
    return optimizer


def _first_state(parameter: Tensor, optimizer: str) -> dict[str, Tensor]:
    """What an optimizer keeps of a parameter, before its first step; `step` is that of AdamW."""
    if optimizer == "sgd":
        return {"momentum_buffer": torch.zeros_like(parameter)}
    return {
        "step": torch.zeros((), device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def train_step(
    training: Training,
    batches: list[Batch],
    recipe: Recipe,
    lr: float,
    rt: Runtime,
    micro_batches: int,
) -> tuple[list[Scalars], Tensor]:
    """One optimizer step from this rank's micro-batches, without waiting for the device.

    `micro_batches`: those of the step on all ranks, of which a rank can have one more than another.
    Returns the losses and diagnostics of each micro-batch and the L2 norm of the gradient (before
    clipping), all on the device. Sampling depends on (seed, step, micro-batch index) only.
    """
    scaler, optimizer, scalars = training.scaler, training.optimizer, []
    divisor = micro_batches / rt.ranks  # gradients are averaged over ranks: together micro_batches
    for batch in batches:
        step, index = batch.micro_batch.step, batch.micro_batch.index
        seed(seeds.key(recipe.seed, "step", step, index))
        batch = batch.to(rt.device)
        is_last = batch.micro_batch == batches[-1].micro_batch
        with nullcontext() if is_last else rt.no_sync(training.forward):
            with rt.precision(recipe.amp):
                losses, diagnostics = training.forward(
                    batch.images(), batch.targets(), batch.planned
                )
            loss = sum(losses.values()) / divisor
            scaler.scale(loss).backward()
        scalars.append({k: v.detach() for k, v in (losses | diagnostics).items()})
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    grad_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if recipe.schedule.clip_grad_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, recipe.schedule.clip_grad_norm, grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if training.ema is not None:
        training.ema.update(training.detector, torch.isfinite(grad_norm))
    return scalars, grad_norm
