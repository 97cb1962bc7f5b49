"""Which trained parameters learn how fast, and which of them decay."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from fasterrcnn.models.any_backbone import layers_of
from fasterrcnn.recipes import Schedule

_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d, nn.LayerNorm, nn.GroupNorm)
# In names of what says where a cell is, or stands beside the cells, in torchvision and timm.
_POSITIONS = ("pos_embed", "position_bias", "rel_pos", "_token", "logit_scale")


def parameter_groups(model: nn.Module, config: Schedule) -> list[dict[str, Any]]:
    """The optimizer's groups: parameters with one weight decay and one ``lr_factor``.

    The factor of a layer's parameters is `layer_decay` to the power of its distance from the
    detector's pyramid and heads, as in BEiT (Bao et al., 2021) and ViTDet. Raises UsageError for
    a backbone whose layers are not known.
    """
    norms, others = split_parameters(model)
    named = {parameter: name for name, parameter in model.named_parameters()}
    biases = {p for p, name in named.items() if name.endswith(".bias")}
    depth: dict[nn.Parameter, int] = {}
    if config.layer_decay != 1:
        layers = layers_of(model.backbone)  # type: ignore[arg-type] # of a detector
        depth = {p: len(layers) - i for i, layer in enumerate(layers) for p in layer}
    groups: dict[tuple[int, float, float], list[nn.Parameter]] = {}
    for parameter in sorted(others, key=lambda p: config.bias_lr_factor != 1 and p in biases):
        is_bias = parameter in biases
        kind = int(is_bias and config.bias_lr_factor != 1)
        factor = config.bias_lr_factor if is_bias else 1.0
        no_weight = is_bias or _is_no_weight(named[parameter], parameter)
        decay = 0.0 if no_weight and config.decay_weights_only else config.weight_decay
        key = kind, factor * config.layer_decay ** depth.get(parameter, 0), decay
        groups.setdefault(key, []).append(parameter)
    decays = config.decay_norms and not config.decay_weights_only
    for parameter in norms:
        factor = config.layer_decay ** depth.get(parameter, 0)
        key = 2, factor, config.weight_decay if decays else 0.0
        groups.setdefault(key, []).append(parameter)
    return [
        dict(params=parameters, weight_decay=decay, lr_factor=factor)
        for (_, factor, decay), parameters in groups.items()
    ]


def _is_no_weight(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is no matrix or kernel: a scale per channel, or a position embedding."""
    vector = all(side == 1 for side in parameter.shape[1:])
    return vector or any(part in name for part in _POSITIONS)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained parameters of norms, and all others."""
    norms = {
        parameter
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trained if p in norms], [p for p in trained if p not in norms]
