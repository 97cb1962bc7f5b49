"""The first convolution of a network whose input has other channels than red, green and blue.

Shapes: O output channels, C input channels, K K the kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasterrcnn.recipes import Input

_RGB = (0, 1, 2)
_NAMES = ("red", "green", "blue")


def find(body: nn.Module) -> tuple[str, nn.Conv2d]:
    """The convolution that reads the pixels, and its name in `body`."""
    return next((n, m) for n, m in body.named_modules() if isinstance(m, nn.Conv2d))


@torch.no_grad()
def set_channels(body: nn.Module, channels: int) -> None:
    """Give the first convolution so many input channels, in place, with fresh weights.

    They are drawn from torch's global generator. Their standard deviation is that of the fresh
    filters for RGB times sqrt(3 / channels): the response to independent channels keeps its size.
    """
    _, conv = find(body)
    old = conv.weight
    fresh = torch.randn(len(old), channels, *old.shape[2:]) * old.std() * (3 / channels) ** 0.5
    conv.in_channels = channels
    conv.weight = nn.Parameter(fresh, requires_grad=old.requires_grad)


def adapt(
    tensors: dict[str, Tensor], body: nn.Module, trained: Input, wanted: Input, prefix: str = ""
) -> list[str]:
    """Make the first convolution of `body` among `tensors`, where their names begin with `prefix`,
    one for the channels that are `wanted`, in place, if it was `trained` on RGB. Returns log
    lines."""
    name, conv = find(body)
    key = f"{prefix}{name}.weight"
    if key not in tensors or trained.colors != _RGB or wanted.colors == _RGB:
        return []
    tensors[key] = from_rgb(tensors[key], wanted)
    named = [f"{_NAMES[c]} at {k}" for k, c in enumerate(wanted.colors, start=1) if c is not None]
    log = [
        f"weights: the filters of the first convolution, for RGB, adapted to {len(wanted.colors)} "
        f"channels ({', '.join(named) or 'their mean for each'})"
    ]
    if not conv.weight.requires_grad:
        log.append(
            "note: the first convolution is not trained, so channels with the same filters stay "
            "indistinguishable; --backbone.trainable-layers 5 trains it"
        )
    return log


def from_rgb(weight: Tensor, config: Input) -> Tensor:
    """Filters ``(O, 3, K, K)`` for RGB to those for the channels of `config`, ``(O, C, K, K)``.

    Channels that are red, green or blue (`Input.colors`) get the filters of these colors, the
    others the mean of the three, and all are multiplied by 3 / C. So the response to an image with
    the same values in all channels keeps its size. One channel gets the sum of the three: a gray
    image then has the response of the image that repeats it, where mean and std are the same for
    the three. Three channels that are red, green and blue keep their bits.

    The sum and the factor are those of timm's `adapt_input_conv`, which repeats the three filters
    for further channels; their mean prefers none of the colors.
    """
    if config.channel_order == "bgr":
        weight = weight.flip(1)
    mean = weight.mean(dim=1)
    filters = [mean if color is None else weight[:, color] for color in config.colors]
    stacked = torch.stack(filters, dim=1)
    if len(filters) != 3:
        stacked = stacked * (3 / len(filters))
    return stacked.flip(1) if config.channel_order == "bgr" else stacked
