"""Convolutional bodies with or without a feature pyramid, under torchvision's parameter names.

Life of a batch, step 5: pixels ``(N, 3, H, W)`` -> features of L levels, finest first, each
``(N, out_channels, H / stride, W / stride)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import mobilenet_v3_large, resnet, vgg
from torchvision.models.detection.backbone_utils import _mobilenet_extractor
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.models.conv_norm import (
    Residual,
    conv_norm,
    fold_stage,
    pooled_conv_norm,
    shortcut,
)
from fasterrcnn.models.conv_relu import conv_sum
from fasterrcnn.models.deformable import offset_conv
from fasterrcnn.models.group_norm import NORMS, GroupNorm
from fasterrcnn.models.sparse import Pyramid, UnfinishedPyramid


class AffineBatchNorm2d(FrozenBatchNorm2d):
    """Batch norm with fixed statistics, trained weight and bias: MMDetection's ``norm_eval``."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        for name in ("weight", "bias"):
            setattr(self, name, nn.Parameter(self._buffers.pop(name)))


_BODY_NORMS = {
    "frozen": FrozenBatchNorm2d,
    "affine": AffineBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "group": GroupNorm,
}


def _shortcut(x: Tensor, block: BasicBlock | Bottleneck) -> Residual:
    """What a block adds to its last convolution's output."""
    if block.downsample is None:
        return Residual(x)
    conv, norm = block.downsample.children()
    assert isinstance(conv, nn.Conv2d)
    return shortcut(x, conv, norm)


class BasicBlock(resnet.BasicBlock):
    """torchvision's block, computed by `conv_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, planes, H / stride, W / stride)``."""
        out = conv_norm(x, self.conv1, self.bn1, relu=True)
        return conv_norm(out, self.conv2, self.bn2, relu=True, residual=_shortcut(x, self))


class Bottleneck(resnet.Bottleneck):
    """torchvision's block, computed by `conv_norm`; its 3x3 convolution is deformable if there is
    a `conv2_offset`."""

    conv2_offset: nn.Conv2d | None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.register_module("conv2_offset", None)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, 4 * planes, H / stride, W / stride)``."""
        out = conv_norm(x, self.conv1, self.bn1, relu=True)
        out = conv_norm(out, self.conv2, self.bn2, self.conv2_offset, relu=True)
        return conv_norm(out, self.conv3, self.bn3, relu=True, residual=_shortcut(x, self))


class ResNet(resnet.ResNet):
    """torchvision's ResNet or ResNeXt without its classifier: the features of its stages."""

    def __init__(self, config: recipes.Backbone) -> None:
        block, layers, groups, width = BODIES[config.name]
        norm = partial(_BODY_NORMS[config.norm], eps=config.norm_eps)
        dilated = [False, False, config.dilation > 1]
        super().__init__(
            block,
            layers,
            groups=groups,
            width_per_group=width,
            norm_layer=norm,
            replace_stride_with_dilation=dilated,
        )
        del self.avgpool, self.fc
        if config.dilation > 1:  # of the first block too, which torchvision leaves out
            first = self.layer4[0].conv2
            first.dilation = first.padding = (config.dilation, config.dilation)
        if config.stride_in_1x1:
            for module in self.modules():
                if isinstance(module, Bottleneck):
                    one, three = module.conv1, module.conv2
                    one.stride, three.stride = three.stride, one.stride
        if config.deformable != "none":
            for stage in (self.layer2, self.layer3, self.layer4):
                for residual in stage:
                    residual.conv2_offset = offset_conv(residual.conv2, config)
        freeze(self, config.trainable_layers)
        if config.norm in ("frozen", "affine"):
            shrink_residuals(self)
        self.channels = [planes * block.expansion for planes in (64, 128, 256, 512)]

    def pop_last_stage(self) -> nn.Module:
        """Remove the last stage from this body, and return it."""
        stage = self.layer4
        del self.layer4
        return stage

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features "0" to "3" of the stages that are there, strides 4, 8, 16 and 32."""
        x = pooled_conv_norm(x, self.conv1, self.bn1, self.maxpool)
        features = {}
        for i, name in enumerate(("layer1", "layer2", "layer3", "layer4")):
            if name in self._modules:
                stage = getattr(self, name)
                fold_stage(stage, x)
                x = features[str(i)] = stage(x)
        return features


# Block, blocks per stage, groups and width of the 3x3 convolutions.
BODIES: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], int, int]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1], 1, 64),  # for CPUs; nobody publishes weights
    "resnet18": (BasicBlock, [2, 2, 2, 2], 1, 64),
    "resnet34": (BasicBlock, [3, 4, 6, 3], 1, 64),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 1, 64),
    "resnet101": (Bottleneck, [3, 4, 23, 3], 1, 64),
    "resnet152": (Bottleneck, [3, 8, 36, 3], 1, 64),
    "resnext101_32x4d": (Bottleneck, [3, 4, 23, 3], 32, 4),
    "resnext101_64x4d": (Bottleneck, [3, 4, 23, 3], 64, 4),
    "resnext101_32x8d": (Bottleneck, [3, 4, 23, 3], 32, 8),
}
_MOBILENET = "mobilenet_v3_large"
_VGG = "vgg16"


class Backbone(nn.Module, ABC):
    """A body, with a neck or without."""

    body: nn.Module
    out_channels: int
    strides: tuple[int, ...]  # of the levels, finest first
    roi_levels: int  # how many of them the box head pools from

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """The features of every level, finest first."""

    def pyramid(self, x: Tensor, cells: int) -> Pyramid | UnfinishedPyramid:
        """Features of which only 3 x 3 patches around `cells` cells per image will be read.

        A backbone may leave the rest uncomputed.
        """
        return Pyramid(self(x))


class BackboneWithFPN(Backbone):
    """A ResNet and a feature pyramid network: levels of strides 4, 8, 16, 32 and 64."""

    strides = (4, 8, 16, 32, 64)
    roi_levels = 4

    def __init__(self, body: ResNet, out_channels: int, norm: str) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            body.channels,
            out_channels,
            LastLevelMaxPool(),
            norm_layer=NORMS[norm],
        )
        self.out_channels = out_channels
        self.has_norm = norm != "none"

    def forward(self, x: Tensor) -> list[Tensor]:
        """The pyramid's levels, finest first."""
        inner = self._inner(x)
        levels = [block(each) for block, each in zip(self.fpn.layer_blocks, inner, strict=True)]
        return [*levels, functional.max_pool2d(levels[-1], 1, 2)]

    def _inner(self, x: Tensor) -> list[Tensor]:
        """The pyramid's sums before its output convolutions, finest first."""
        features = list(self.body(x).values())
        inner = [self.fpn.inner_blocks[-1](features[-1])]
        for block, feature in zip(self.fpn.inner_blocks[-2::-1], features[-2::-1], strict=True):
            inner.insert(0, conv_sum(feature, block, inner[0]))
        return inner

    def pyramid(self, x: Tensor, cells: int) -> Pyramid | UnfinishedPyramid:
        """Unfinished where that is less work: a patch costs 9 cells of each output convolution."""
        height, width = x.shape[2:]
        dense = sum((height // s) * (width // s) for s in self.strides[:-1])
        if self.has_norm or 9 * cells * len(self.fpn.layer_blocks) >= dense:
            return Pyramid(self(x))
        return UnfinishedPyramid(self._inner(x), [block[0] for block in self.fpn.layer_blocks])


class C4(Backbone):
    """A ResNet without its last stage, which is the box head: one level of stride 16."""

    strides = (16,)
    roi_levels = 1

    def __init__(self, body: ResNet) -> None:
        super().__init__()
        self.body = body
        self.out_channels = body.channels[2]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features of the third stage."""
        return [self.body(x)["2"]]


class DC5(Backbone):
    """A ResNet whose last stage is dilated: one level of stride 16."""

    strides = (16,)
    roi_levels = 1

    def __init__(self, body: ResNet) -> None:
        super().__init__()
        self.body = body
        self.out_channels = body.channels[3]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features of the last stage."""
        return [self.body(x)["3"]]


class VGG(Backbone):
    """torchvision's VGG-16 up to conv5_3: one level of stride 16."""

    strides = (16,)
    roi_levels = 1

    def __init__(self, config: recipes.Backbone) -> None:
        super().__init__()
        stages = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # width, convolutions
        layers: list[str | int] = []
        for width, convolutions in stages:
            layers += [width * config.base_channels] * convolutions + ["M"]
        self.body = vgg.make_layers(layers[:-1])  # without the last stage's pooling
        self.out_channels = stages[-1][0] * config.base_channels
        convs = [module for module in self.body.children() if isinstance(module, nn.Conv2d)]
        for conv in convs:  # initialized as torchvision's VGG
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        _check_trainable(config.trainable_layers)
        for conv in convs[: sum(n for _, n in stages[: 5 - config.trainable_layers])]:
            conv.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features of conv5_3."""
        return [self.body(x)]


class MobileNetFPN(Backbone):
    """torchvision's MobileNetV3-Large with a pyramid of its last two levels and a pooled one."""

    strides = (32, 32, 64)
    roi_levels = 2

    def __init__(self, config: recipes.Backbone) -> None:
        super().__init__()
        network = mobilenet_v3_large(
            norm_layer=partial(_BODY_NORMS[config.norm], eps=config.norm_eps)
        )
        layers = 6 if config.trainable_layers == 5 else config.trainable_layers
        whole = _mobilenet_extractor(network, fpn=True, trainable_layers=layers)
        self.body, self.fpn, self.out_channels = whole.body, whole.fpn, whole.out_channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """The pyramid's levels, finest first."""
        return list(self.fpn(self.body(x)).values())


def build_backbone(config: recipes.Backbone) -> tuple[Backbone, nn.Module | None]:
    """The backbone with fresh weights, and the ResNet stage that C4 leaves to the box head.

    Weights are drawn from torch's global generator. Raises UsageError for a network that does not
    exist.
    """
    backbone, stage = _build(config)
    return (backbone.requires_grad_(False) if config.fixed else backbone), stage


def _build(config: recipes.Backbone) -> tuple[Backbone, nn.Module | None]:
    if config.name == _VGG:
        return VGG(config), None
    if config.name == _MOBILENET:
        if config.neck == "none" or config.stride_in_1x1:
            raise UsageError(
                f"--backbone.name: {_MOBILENET}: comes with a pyramid, as torchvision's"
            )
        return MobileNetFPN(config), None
    if config.name not in BODIES:
        raise UsageError(
            f"--backbone.name: {config.name}: unknown; choose from "
            f"{', '.join([*BODIES, _VGG, _MOBILENET])}"
        )
    body = ResNet(config)
    if config.dilation > 1:
        return DC5(body), None
    if config.neck == "none":
        stage = body.pop_last_stage()
        return C4(body), stage
    return BackboneWithFPN(body, config.fpn_channels, config.fpn_norm), None


def freeze(body: nn.Module, trainable_layers: int) -> None:
    """Train only the last `trainable_layers` of stem and stages, as in torchvision. In place."""
    _check_trainable(trainable_layers)
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    if trainable_layers == 5:
        trained.append("bn1")
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in trained)


def _check_trainable(layers: int) -> None:
    if not 0 <= layers <= 5:
        raise UsageError(f"--backbone.trainable-layers: {layers}: must be 0 to 5")


@torch.no_grad()
def shrink_residuals(body: nn.Module, factor: float = 0.2) -> None:
    """Scale the last norm of every residual block, so that fresh activations stay finite. In place.

    With frozen statistics nothing else bounds the sum of residual branches: activations double at
    every block. Loading weights overwrites this.
    """
    for block in body.modules():
        if isinstance(block, resnet.BasicBlock):
            block.bn2.weight.mul_(factor)
        elif isinstance(block, resnet.Bottleneck):
            block.bn3.weight.mul_(factor)
