"""Convolutional bodies with a feature pyramid, under torchvision's parameter names.

Life of a batch, step 5: image ``(N, 3, H, W)`` -> features "0" to "3" (strides 4 to 32) and "pool"
(stride 64), each ``(N, fpn_channels, H / stride, W / stride)``.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError

_NORMS = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d}


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """``norm(conv(x))``. A frozen norm is folded into the convolution.

    So no activation is touched, and under autocast none is promoted to float32. Gradients are
    those of the unfolded weight.
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(conv(x))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    weight = conv.weight * scale[:, None, None, None]
    return functional.conv2d(
        x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups
    )


def _add_shortcut(out: Tensor, x: Tensor, block: nn.Module) -> Tensor:
    shortcut = x if block.downsample is None else conv_norm(x, *block.downsample)
    return out.add_(shortcut).relu_()


class BasicBlock(resnet.BasicBlock):
    """torchvision's, by `conv_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, planes, H / stride, W / stride)``."""
        out = conv_norm(x, self.conv1, self.bn1).relu_()
        return _add_shortcut(conv_norm(out, self.conv2, self.bn2), x, self)


class Bottleneck(resnet.Bottleneck):
    """torchvision's, by `conv_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, 4 * planes, H / stride, W / stride)``."""
        out = conv_norm(x, self.conv1, self.bn1).relu_()
        out = conv_norm(out, self.conv2, self.bn2).relu_()
        return _add_shortcut(conv_norm(out, self.conv3, self.bn3), x, self)


class ResNet(resnet.ResNet):
    """torchvision's ResNet as a body: its four stages instead of class scores."""

    def __init__(self, block: type[nn.Module], layers: list[int], norm: recipes.Backbone) -> None:
        super().__init__(block, layers, norm_layer=partial(_NORMS[norm.norm], eps=norm.norm_eps))
        del self.avgpool, self.fc

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features of the stages, strides 4, 8, 16 and 32."""
        x = self.maxpool(conv_norm(x, self.conv1, self.bn1).relu_())
        features = {}
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            x = features[str(i)] = stage(x)
        return features


BODIES: dict[str, tuple[type[nn.Module], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),  # the smallest, for CPUs; no published weights
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}


class BackboneWithFPN(nn.Module):
    """Body and feature pyramid."""

    def __init__(self, body: nn.Module, in_channels: list[int], out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(in_channels, out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The pyramid's levels, finest first."""
        return self.fpn(self.body(x))


def build_backbone(recipe: recipes.Backbone) -> BackboneWithFPN:
    """The body and pyramid of `recipe` with fresh weights from torch's global generator."""
    if recipe.name not in BODIES:
        raise UsageError(
            f"--backbone.name: {recipe.name}: unknown; choose from {', '.join(BODIES)}"
        )
    block, layers = BODIES[recipe.name]
    body = ResNet(block, layers, recipe)
    freeze(body, recipe.trainable_layers)
    if recipe.norm == "frozen":
        shrink_residuals(body)
    channels = [planes * block.expansion for planes in (64, 128, 256, 512)]
    return BackboneWithFPN(body, channels, recipe.fpn_channels)


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
