"""Activation checkpointing of a backbone: its blocks are computed again in the backward pass.

Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016), by torch.utils.checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.maxvit import MaxVitBlock, MaxVitLayer
from torchvision.models.regnet import AnyStage

from fasterrcnn.errors import UsageError
from fasterrcnn.models.backbones import Backbone
from fasterrcnn.models.cpu import fast_layers
from fasterrcnn.models.timm_networks import TimmBody


def checkpoint_activations(backbone: Backbone) -> int:
    """Let the blocks of `backbone` keep their inputs only; the number of blocks. In place.

    Random numbers, precision and the layers of `models.cpu` are those of the forward pass, so that
    gradients have the same bits. Raises UsageError where batch norms would see a batch twice.
    """
    body = backbone.body
    if isinstance(body, TimmBody):
        body = body.network
        body = getattr(body, "model", body)  # of which timm calls parts, not the whole
    blocks = _blocks(body)
    if not blocks:
        raise UsageError("--checkpoint-activations: this backbone has no blocks of several layers")
    found = [block for block in blocks if any(p.requires_grad for p in block.parameters())]
    for block in found:
        if any(isinstance(m, nn.BatchNorm2d) and m.training for m in block.modules()):
            raise UsageError(
                "--checkpoint-activations: computing again would move the statistics of batch "
                "norms twice; needs --backbone.norm frozen or affine"
            )
        # An attribute of the instance: names of parameters and classes stay as they are.
        block.forward = partial(_again, block.forward)
    return len(found)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The modules of several layers that run one after another, inside of containers."""
    found = []
    for child in module.children():
        if _is_container(child):
            found += _blocks(child)
        elif any(True for _ in child.children()):
            found.append(child)
    return found


def _is_container(module: nn.Module) -> bool:
    """Whether a module is a list of others, or a stage that has its blocks in one."""
    lists = (nn.Sequential, nn.ModuleList)
    stages = (nn.ModuleDict, AnyStage, MaxVitBlock, MaxVitLayer)
    return (
        type(module) in lists
        or isinstance(module, stages)
        or type(getattr(module, "blocks", None)) in lists  # timm's
    )


def _again(forward: Callable[..., Any], *args: Any) -> Any:
    """The result of `forward`, of which only the arguments are kept for the backward pass."""
    if not torch.is_grad_enabled():
        return forward(*args)
    first = args[0][0] if isinstance(args[0], list) else args[0]
    kind = first.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), fast_layers(first.device, dtype)

    def run(*kept: Any) -> Any:
        return forward(*_copies(kept))

    return checkpoint(run, *_copies(args), use_reentrant=False, context_fn=contexts)


def _copies(args: tuple[Any, ...]) -> list[Any]:
    """The arguments, with lists of their own: DenseNet and HRNet change those they are given."""
    return [[*arg] if isinstance(arg, list) else arg for arg in args]
