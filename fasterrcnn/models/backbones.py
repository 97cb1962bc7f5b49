"""Convolutional bodies with a feature pyramid, under torchvision's parameter names.

Life of a batch, step 5: image ``(N, 3, H, W)`` -> features "0" to "3" (strides 4 to 32) and "pool"
(stride 64), each ``(N, fpn_channels, H / stride, W / stride)``.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError

_STAGES = ("layer1", "layer2", "layer3", "layer4")
_NORMS = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d}


def resnet10(**kwargs) -> resnet.ResNet:
    """One basic block per stage: the smallest ResNet, for CPUs. No published weights."""
    return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], **kwargs)


BODIES = {"resnet10": resnet10} | {
    name: getattr(resnet, name)
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
}


def build_backbone(recipe: recipes.Backbone) -> BackboneWithFPN:
    """The body and pyramid of `recipe` with fresh weights from torch's global generator."""
    if recipe.name not in BODIES:
        raise UsageError(
            f"--backbone.name: {recipe.name}: unknown; choose from {', '.join(BODIES)}"
        )
    body = BODIES[recipe.name](norm_layer=partial(_NORMS[recipe.norm], eps=recipe.norm_eps))
    freeze(body, recipe.trainable_layers)
    if recipe.norm == "frozen":
        shrink_residuals(body)
    first = body.inplanes // 8
    return BackboneWithFPN(
        body,
        return_layers={stage: str(i) for i, stage in enumerate(_STAGES)},
        in_channels_list=[first, 2 * first, 4 * first, 8 * first],
        out_channels=recipe.fpn_channels,
    )


def freeze(body: nn.Module, trainable_layers: int) -> None:
    """Train only the last `trainable_layers` of stem and stages, as torchvision counts them."""
    if not 0 <= trainable_layers <= 5:
        raise UsageError(f"--backbone.trainable-layers: {trainable_layers}: must be 0 to 5")
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    if trainable_layers == 5:
        trained.append("bn1")
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in trained)


@torch.no_grad()
def shrink_residuals(body: nn.Module, factor: float = 0.2) -> None:
    """Scale the last norm of every residual block, so that fresh weights do not blow up.

    With frozen statistics nothing else keeps the sum of residual branches in range: activations
    double at every block. Loading weights overwrites this.
    """
    for block in body.modules():
        if isinstance(block, resnet.BasicBlock):
            block.bn2.weight.mul_(factor)
        elif isinstance(block, resnet.Bottleneck):
            block.bn3.weight.mul_(factor)
