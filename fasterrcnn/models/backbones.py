"""Convolutional bodies, with a feature pyramid or without, under torchvision's parameter names.

Life of a batch, step 5: image ``(N, 3, H, W)`` -> levels, finest first, each ``(N, out_channels,
H / stride, W / stride)``. Every backbone says its `out_channels`, the `strides` of its levels, and
how many of them the box head pools from (`roi_levels`).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import mobilenet_v3_large, resnet, vgg
from torchvision.models.detection.backbone_utils import _mobilenet_extractor
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.models.sparse import Pyramid, UnfinishedPyramid


class AffineBatchNorm2d(FrozenBatchNorm2d):
    """Fixed statistics, trained weight and bias: MMDetection's ``norm_eval`` with pytorch style."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        for name in ("weight", "bias"):
            setattr(self, name, nn.Parameter(self._buffers.pop(name)))


_NORMS = {"frozen": FrozenBatchNorm2d, "affine": AffineBatchNorm2d, "batch": nn.BatchNorm2d}


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """``norm(conv(x))``. A norm of fixed statistics is folded into the convolution.

    So no activation is touched, and under autocast none is promoted to float32. Gradients are
    those of the unfolded weight; that of a trained norm's weight is a difference of large sums over
    the convolution's, which float32 would round by up to 1.4e-4 of its norm.
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(conv(x))
    kind = torch.float64 if norm.weight.requires_grad else torch.float32
    scale = norm.weight.to(kind) * (norm.running_var.to(kind) + norm.eps).rsqrt()
    shift = (norm.bias - norm.running_mean * scale).float()
    weight = (conv.weight * scale[:, None, None, None]).float()
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
    """torchvision's ResNet and ResNeXt as a body: its first stages instead of class scores."""

    def __init__(self, recipe: recipes.Backbone) -> None:
        block, layers, groups, width = BODIES[recipe.name]
        norm = partial(_NORMS[recipe.norm], eps=recipe.norm_eps)
        super().__init__(block, layers, groups=groups, width_per_group=width, norm_layer=norm)
        del self.avgpool, self.fc
        if recipe.stride_in_1x1:
            for module in self.modules():
                if isinstance(module, Bottleneck):
                    one, three = module.conv1, module.conv2
                    one.stride, three.stride = three.stride, one.stride
        freeze(self, recipe.trainable_layers)
        if recipe.norm != "batch":
            shrink_residuals(self)
        self.channels = [planes * block.expansion for planes in (64, 128, 256, 512)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features "0" to "3" of the stages, strides 4, 8, 16 and 32."""
        x = self.maxpool(conv_norm(x, self.conv1, self.bn1).relu_())
        features = {}
        for i, name in enumerate(("layer1", "layer2", "layer3", "layer4")):
            if name in self._modules:
                x = features[str(i)] = getattr(self, name)(x)
        return features


# Block, blocks per stage, groups and width of the 3x3 convolutions.
BODIES: dict[str, tuple[type[nn.Module], list[int], int, int]] = {
    "resnet10": (
        BasicBlock,
        [1, 1, 1, 1],
        1,
        64,
    ),  # the smallest, for CPUs; nobody publishes weights
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


class BackboneWithFPN(nn.Module):
    """Body and feature pyramid: levels of strides 4, 8, 16, 32 and 64."""

    strides = (4, 8, 16, 32, 64)
    roi_levels = 4

    def __init__(self, body: ResNet, out_channels: int, norm: str) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            body.channels,
            out_channels,
            LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d if norm == "batch" else None,
        )
        self.out_channels = out_channels
        self.has_norm = norm != "none"

    def forward(self, x: Tensor) -> list[Tensor]:
        """The pyramid's levels, finest first."""
        return list(self.fpn(self.body(x)).values())

    def pyramid(self, x: Tensor, cells: int) -> Pyramid | UnfinishedPyramid:
        """The pyramid of which `cells` 3 x 3 patches per image are wanted: unfinished where that is
        less work. Each patch costs 9 cells in each of the output convolutions."""
        height, width = x.shape[2:]
        dense = sum((height // s) * (width // s) for s in self.strides[:-1])
        if self.has_norm or 9 * cells * len(self.fpn.layer_blocks) >= dense:
            return Pyramid(self(x))
        features = list(self.body(x).values())
        inner = [self.fpn.inner_blocks[-1](features[-1])]
        for block, feature in zip(self.fpn.inner_blocks[-2::-1], features[-2::-1], strict=True):
            lateral = block(feature)
            above = functional.interpolate(inner[0], size=lateral.shape[2:], mode="nearest")
            inner.insert(0, lateral + above)
        return UnfinishedPyramid(inner, [block[0] for block in self.fpn.layer_blocks])


class C4(nn.Module):
    """A body without its last stage, which `last_stage` hands to the box head: one level."""

    strides = (16,)
    roi_levels = 1

    def __init__(self, body: ResNet) -> None:
        super().__init__()
        self.last_stage = [body._modules.pop("layer4")]  # a list: not a module of this one
        self.body = body
        self.out_channels = body.channels[2]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The one level, stride 16."""
        return [self.body(x)["2"]]

    def pyramid(self, x: Tensor, cells: int) -> Pyramid:
        """The one level, as a pyramid."""
        return Pyramid(self(x))


class VGG(nn.Module):
    """torchvision's VGG-16 up to conv5_3: one level."""

    strides = (16,)
    roi_levels = 1

    def __init__(self, recipe: recipes.Backbone) -> None:
        super().__init__()
        stages = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # width, convolutions
        layers: list[str | int] = []
        for width, convolutions in stages:
            layers += [width * recipe.base_channels] * convolutions + ["M"]
        self.body = vgg.make_layers(layers[:-1])  # without the last stage's pooling
        self.out_channels = stages[-1][0] * recipe.base_channels
        convs = [module for module in self.body if isinstance(module, nn.Conv2d)]
        for conv in convs:  # as torchvision's VGG starts
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        _check_trainable(recipe.trainable_layers)
        for conv in convs[: sum(n for _, n in stages[: 5 - recipe.trainable_layers])]:
            conv.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The one level, stride 16."""
        return [self.body(x)]

    def pyramid(self, x: Tensor, cells: int) -> Pyramid:
        """The one level, as a pyramid."""
        return Pyramid(self(x))


class MobileNetFPN(nn.Module):
    """torchvision's MobileNetV3-Large with a pyramid of its last two levels and a pooled one."""

    strides = (32, 32, 64)
    roi_levels = 2

    def __init__(self, recipe: recipes.Backbone) -> None:
        super().__init__()
        network = mobilenet_v3_large(norm_layer=partial(_NORMS[recipe.norm], eps=recipe.norm_eps))
        layers = 6 if recipe.trainable_layers == 5 else recipe.trainable_layers
        whole = _mobilenet_extractor(network, fpn=True, trainable_layers=layers)
        self.body, self.fpn, self.out_channels = whole.body, whole.fpn, whole.out_channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """The pyramid's levels, finest first."""
        return list(self.fpn(self.body(x)).values())

    def pyramid(self, x: Tensor, cells: int) -> Pyramid:
        """The whole pyramid."""
        return Pyramid(self(x))


Backbone = BackboneWithFPN | C4 | VGG | MobileNetFPN


def build_backbone(recipe: recipes.Backbone) -> Backbone:
    """The body and neck of `recipe` with fresh weights from torch's global generator."""
    backbone = _build(recipe)
    return backbone.requires_grad_(False) if recipe.fixed else backbone


def _build(recipe: recipes.Backbone) -> Backbone:
    if recipe.name == _VGG:
        return VGG(recipe)
    if recipe.name == _MOBILENET:
        if recipe.neck == "none" or recipe.stride_in_1x1:
            raise UsageError(
                f"--backbone.name: {_MOBILENET}: comes with a pyramid, as torchvision's"
            )
        return MobileNetFPN(recipe)
    if recipe.name not in BODIES:
        raise UsageError(
            f"--backbone.name: {recipe.name}: unknown; choose from "
            f"{', '.join([*BODIES, _VGG, _MOBILENET])}"
        )
    body = ResNet(recipe)
    if recipe.neck == "none":
        return C4(body)
    return BackboneWithFPN(body, recipe.fpn_channels, recipe.fpn_norm)


def freeze(body: nn.Module, trainable_layers: int) -> None:
    """Train only the last `trainable_layers` of stem and stages, as torchvision counts them."""
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
    """Scale the last norm of every residual block, so that fresh weights do not blow up.

    With frozen statistics nothing else keeps the sum of residual branches in range: activations
    double at every block. Loading weights overwrites this.
    """
    for block in body.modules():
        if isinstance(block, resnet.BasicBlock):
            block.bn2.weight.mul_(factor)
        elif isinstance(block, resnet.Bottleneck):
            block.bn3.weight.mul_(factor)
