"""Any classification network as a chain of steps, cut into the stages of a detector's body.

A network's steps are its children, and the children of its plain containers, such as
torchvision's ``features``. What they make of an image is not looked up but seen: the network runs
once on the meta device, where tensors have shapes and no values. Steps count as long as each takes
what the one before gave and gives a map whose stride is a power of two.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models.maxvit import PartitionAttentionLayer
from torchvision.ops import StochasticDepth

from fasterrcnn.errors import UsageError

LEVELS = (4, 8, 16, 32)  # strides of the levels that the pyramid is made of
_PROBE = 448  # px: another side than networks are made for, so that pooling to a fixed size shows


@dataclass(frozen=True)
class Step:
    """A part of a network: its name, and the map that it gives."""

    name: str
    stride: int
    channels: int
    channels_last: bool  # (N, H, W, C), as in Swin, instead of (N, C, H, W)


@dataclass(frozen=True)
class Description:
    """A network as its steps, and what it states about itself."""

    steps: tuple[Step, ...]
    has_layer_norm: bool
    norm_eps: float | None  # of its batch norms; None if it has none
    size_divisible: int  # to what sides of images must be padded (px)

    @property
    def strides(self) -> list[int]:
        """The strides that occur, from fine to coarse."""
        return sorted({step.stride for step in self.steps})

    def level(self, stride: int) -> int:
        """Index of the step whose map is the level of a stride: the last one of that stride."""
        return max(i for i, step in enumerate(self.steps) if step.stride == stride)


class OnMeta(TorchFunctionMode):
    """Inside, networks are made on the meta device; numbers that they compute in torch to know
    their own shape, as RegNet does, are still computed."""

    def __enter__(self) -> OnMeta:
        self._cpu = torch.device("cpu")  # also inside of ``with torch.device("meta")``
        self._cpu.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._cpu.__exit__(*error)

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Called by torch for every function of its own."""
        kwargs = dict(kwargs or {})
        if function is torch.empty:  # what layers make their weights by
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


def describe(make: Callable[[], nn.Module]) -> Description:
    """The steps of the network that `make` makes, on the meta device."""
    with OnMeta():
        network = make()
    network = use_any_size(network.to("meta").eval())
    steps = _steps(network)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    divisors = [
        step.stride * module.window
        for step in steps
        for module in network.get_submodule(step.name).modules()
        if isinstance(module, AnySizeAttention)
    ]
    return Description(
        tuple(steps),
        any(isinstance(m, nn.LayerNorm) for m in network.modules()),
        norms[0].eps if norms else None,
        math.lcm(LEVELS[-1], *divisors),
    )


def _steps(network: nn.Module) -> list[Step]:
    """The chain of steps in the order in which they run."""
    ran: list[tuple[str, Any, Any]] = []  # name, input, output
    hooks = []
    for name in _parts(network):

        def record(_: nn.Module, inputs: tuple, output: Any, name: str = name) -> None:
            ran.append((name, inputs[0] if inputs else None, output))

        hooks.append(network.get_submodule(name).register_forward_hook(record))
    image = torch.empty(1, 3, _PROBE, _PROBE, device="meta")
    try:
        with torch.no_grad():
            network(image)
    except (RuntimeError, ValueError, TypeError, AssertionError):
        pass  # what ran before has been seen
    for hook in hooks:
        hook.remove()
    steps: list[Step] = []
    last = image
    for name, given, output in ran:
        step = _step(name, output)
        if given is not last or step is None or (steps and step.stride < steps[-1].stride):
            break
        steps.append(step)
        last = output
    return steps


def _parts(network: nn.Module) -> list[str]:
    """The names of the children, those of plain containers in their place."""
    found = []
    for name, child in network.named_children():
        if type(child) in (nn.Sequential, nn.ModuleList):
            found += [f"{name}.{inner}" for inner, _ in child.named_children()]
        else:
            found.append(name)
    return found


def _step(name: str, output: Any) -> Step | None:
    """What a part gives, if that is a map whose stride is a power of two up to 32."""
    if not isinstance(output, Tensor) or output.dim() != 4:
        return None
    for last, (height, width, channels) in ((False, (2, 3, 1)), (True, (1, 2, 3))):
        side = output.shape[height]
        stride = _PROBE // max(1, side)
        exact = side == output.shape[width] and stride * side == _PROBE
        if exact and stride in (1, 2, *LEVELS):
            return Step(name, stride, output.shape[channels], last)
    return None


class AnySizeAttention(PartitionAttentionLayer):
    """MaxViT's attention in windows or grids, for maps of any size that `window` divides.

    torchvision's takes maps of the one size, and square, that it was made for. Parameters and
    mathematics are the same.
    """

    @property
    def window(self) -> int:
        """Cells on a side of a window, and of a grid."""
        return self.grid_size[0] // self.n_partitions

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, C, H, W)``."""
        n, c, height, width = x.shape
        size = self.window
        rows, columns = height // size, width // size
        if isinstance(self.partition_swap, nn.Identity):  # neighbors attend to each other
            shape, order = (n, c, rows, size, columns, size), (0, 2, 4, 3, 5, 1)
        else:  # cells at the same place of every tile of a grid
            shape, order = (n, c, size, rows, size, columns), (0, 3, 5, 2, 4, 1)
        x = x.reshape(shape).permute(order)
        tiled = x.shape
        x = x.reshape(n, rows * columns, size * size, c)
        x = x + self.stochastic_dropout(self.attn_layer(x))
        x = x + self.stochastic_dropout(self.mlp_layer(x))
        back = [order.index(axis) for axis in range(6)]
        return x.reshape(tiled).permute(back).reshape(n, c, height, width)


def use_any_size(network: nn.Module) -> nn.Module:
    """Let the network take images of any size that is divisible as it needs. In place."""
    for module in network.modules():
        if type(module) is PartitionAttentionLayer:
            module.__class__ = AnySizeAttention  # its constructor has no argument for it
    return network


class Body(nn.Module):
    """A classification network without its classifier, under its own parameter names.

    A subclass says what its network gives at the levels, and which parameters are of a stage.
    `level_norms`: fresh layer norms of the levels, where the network has layer norms: its blocks
    add to a sum that nothing has normalized yet (Swin Transformer's and ConvNeXt's detectors have
    the same; Liu et al., 2021 and 2022).
    """

    channels: list[int]
    has_layer_norm: bool
    level_norms: nn.ModuleList
    norm_kind = "batch"

    def maps(self, x: Tensor) -> list[Tensor]:
        """What the network itself gives at the levels: ``(N, C, H / stride, W / stride)``."""
        raise NotImplementedError

    def stages(self) -> list[list[nn.Parameter]]:
        """The parameters of stem and four stages."""
        raise NotImplementedError

    def layers(self) -> list[list[nn.Parameter]]:
        """The parameters of the layers by which the learning rate decays: the stages."""
        return self.stages()

    def freeze(self, trainable_layers: int, norm: str) -> None:
        """Train only the last `trainable_layers` of stem and four stages, and of batch norms what
        `norm` says. In place. Raises UsageError."""
        if not 0 <= trainable_layers <= 5:
            raise UsageError(f"--backbone.trainable-layers: {trainable_layers}: must be 0 to 5")
        self.norm_kind = norm
        for stage in self.stages()[: 5 - trainable_layers]:
            for parameter in stage:
                parameter.requires_grad_(False)
        if norm == "frozen":
            for module in self.batch_norms():
                module.requires_grad_(False)

    def batch_norms(self) -> list[nn.BatchNorm2d]:
        """The batch norms, which `norm` of `freeze` is about."""
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> Body:
        """As `nn.Module.train`, but parts that train nothing and norms of fixed statistics stay in
        evaluation mode."""
        super().train(mode)
        for module in self.modules():
            own = [*module.parameters()]
            if own and not any(parameter.requires_grad for parameter in own):
                for part in module.modules():
                    part.training = False
        if self.norm_kind != "batch":
            for norm in self.batch_norms():
                norm.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features "0" to "3", of strides 4, 8, 16 and 32, with `level_norms`."""
        maps = self.maps(x)
        for i, norm in enumerate(self.level_norms):
            maps[i] = norm(maps[i].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return {str(i): found for i, found in enumerate(maps)}


class Chain(Body):
    """The steps of a torchvision network."""

    def __init__(self, network: nn.Module, description: Description) -> None:
        super().__init__()
        use_any_size(network)
        steps = description.steps
        for name, inside in _tree(network, [step.name for step in steps]).items():
            self.add_module(name, inside)
        parts = [self.get_submodule(step.name) for step in steps]
        at = [description.level(stride) for stride in LEVELS]
        self.has_layer_norm = description.has_layer_norm
        self.channels = [steps[i].channels for i in at]
        self.level_norms = nn.ModuleList(
            nn.LayerNorm(steps[i].channels)
            for i in at
            if description.has_layer_norm and not _is_normed(parts, i)
        )
        ends = [i + 1 for i in at]
        # Plain tuples, so that the steps are no children twice.
        self._levels = tuple(
            (tuple(parts[start:end]), steps[end - 1].channels_last)
            for start, end in zip([0, *ends], ends, strict=False)
        )
        self._stages = tuple(tuple(stage) for stage in _stages(parts, steps))

    def set_drop_path(self, probability: float) -> bool:
        """Leave the last block out with this probability, and those before with less, as in the
        network; whether it has stochastic depth. In place."""
        found = [module for module in self.modules() if isinstance(module, StochasticDepth)]
        largest = max((module.p for module in found), default=0.0)
        for module in found:
            module.p *= probability / largest
        return largest > 0

    def stages(self) -> list[list[nn.Parameter]]:
        """As of the base class."""
        return [[p for part in stage for p in part.parameters()] for stage in self._stages]

    def maps(self, x: Tensor) -> list[Tensor]:
        """As of the base class."""
        found = []
        for parts, channels_last in self._levels:
            for part in parts:
                x = part(x)
            found.append(x.permute(0, 3, 1, 2) if channels_last else x)
        return found


def _tree(network: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    """The children of `network` that have steps of these `names`, with nothing else inside."""
    inside: dict[str, OrderedDict[str, nn.Module]] = {}
    for name in names:
        outer, _, inner = name.partition(".")
        inside.setdefault(outer, OrderedDict())
        if inner:
            inside[outer][inner] = network.get_submodule(name)
    return {
        name: nn.Sequential(parts) if parts else network.get_submodule(name)
        for name, parts in inside.items()
    }


def _is_normed(parts: list[nn.Module], level: int) -> bool:
    """Whether a level's map comes from the network's last norm, as Swin's of stride 32."""
    with_weights = [part for part in parts[: level + 1] if any(True for _ in part.parameters())]
    return isinstance(with_weights[-1], nn.LayerNorm)


def _stages(parts: list[nn.Module], steps: tuple[Step, ...]) -> list[list[nn.Module]]:
    """The steps in five groups, from stem to last stage, as far as they have parameters.

    A stage has one stride. What comes before the last four is the stem; a network whose first step
    has stride 4 already has that step as its stem.
    """
    groups: dict[int, list[nn.Module]] = {}
    for part, step in zip(parts, steps, strict=True):
        groups.setdefault(step.stride, []).append(part)
    found = [g for g in groups.values() if any(True for part in g for _ in part.parameters())]
    if len(found) == 4 and steps[0].stride == LEVELS[0]:
        found = [found[0][:1], found[0][1:], *found[1:]]
    return [[part for group in found[:-4] for part in group], *found[-4:]]
