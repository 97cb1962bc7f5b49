"""The Triton kernel of `conv_relu`: bias, sum and ReLU in one pass over a convolution's output.

torch adds the bias in a pass of its own (cuDNN's fused convolutions aside), the residual in another
and takes the ReLU in a third, and each reads and writes the whole output. Imported only with
Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

_CHANNELS = 256  # of a program, at most
_ELEMENTS = 2048  # of a program


@triton.jit
def _add_bias(  # type: ignore[no-untyped-def]  # Triton has its own types
    x, bias, residual, cells, channels, width,
    ADD: tl.constexpr, HALF: tl.constexpr, RELU: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """x[cell, channel] += bias + residual, and its ReLU, in float32; NaN stays NaN.

    With HALF, each cell of the residual is added to two by two cells of x, whose sides are even.
    """
    cell = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None]
    inside = (cell < cells) & (column < channels)
    at = cell.to(tl.int64) * channels + column
    total = tl.load(x + at, mask=inside).to(tl.float32)
    total += tl.load(bias + column, mask=column < channels).to(tl.float32)
    if ADD:
        source = at
        if HALF:  # images have an even number of rows, so that they can be halved as one
            above = (cell // width // 2) * (width // 2) + cell % width // 2
            source = above.to(tl.int64) * channels + column
        total += tl.load(residual + source, mask=inside).to(tl.float32)
    if RELU:
        total = tl.where(total <= 0.0, 0.0, total)
    tl.store(x + at, total.to(x.dtype.element_ty), mask=inside)


def add_bias_(x: Tensor, bias: Tensor, residual: Tensor | None, *, relu: bool) -> None:
    """``x + bias + residual`` and its ReLU in place in `x`: ``(N, C, H, W)`` channels last,
    ``(C,)``, like `x` or, to be enlarged, ``(N, C, H / 2, W / 2)``."""
    if x.numel() == 0:
        return
    channels = x.shape[1]
    cells = x.numel() // channels
    columns = min(triton.next_power_of_2(channels), _CHANNELS)
    rows = _ELEMENTS // columns
    grid = triton.cdiv(cells, rows), triton.cdiv(channels, columns)
    given = x if residual is None else residual
    _add_bias[grid](
        x, bias, given, cells, channels, x.shape[3],
        ADD=residual is not None, HALF=given.shape != x.shape, RELU=relu,
        ROWS=rows, COLUMNS=columns,
    )  # fmt: skip


def agrees(device: torch.device) -> bool:
    """Does the kernel compute what torch does in float32, but for the last rounding, in four
    examples?"""
    last = torch.channels_last
    values = (torch.arange(7 * 24 * 6 * 4, device=device) * 37 % 101 - 50) / 16
    x = values.view(7, 24, 6, 4).half().contiguous(memory_format=last)
    bias, residual = (torch.arange(24.0, device=device) - 12).half(), x.flip(0) / 3
    residual = residual.contiguous(memory_format=last)
    above = residual[:, :, :3, :2].contiguous(memory_format=last)
    biased = x.float() + bias.float()[:, None, None]
    enlarged = functional.interpolate(above.float(), scale_factor=2, mode="nearest")
    for more, relu, expected in (
        (None, True, biased.relu()),
        (residual, True, (biased + residual.float()).relu()),
        (None, False, biased),
        (above, False, biased + enlarged),
    ):
        found = x.clone(memory_format=torch.preserve_format)
        add_bias_(found, bias, more, relu=relu)
        if not torch.allclose(found.float(), expected, rtol=2**-10, atol=0):
            return False
    return True
