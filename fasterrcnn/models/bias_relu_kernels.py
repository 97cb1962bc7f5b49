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

_CHANNELS = 256  # of a program, at most
_ELEMENTS = 2048  # of a program


@triton.jit
def _bias_relu(  # type: ignore[no-untyped-def]  # Triton has its own types
    x, bias, residual, cells, channels,
    ADD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """x[cell, channel] = relu(x + bias + residual), summed in float32; NaN stays NaN."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None]
    inside = (row < cells) & (column < channels)
    at = row * channels + column
    total = tl.load(x + at, mask=inside).to(tl.float32)
    total += tl.load(bias + column, mask=column < channels).to(tl.float32)
    if ADD:
        total += tl.load(residual + at, mask=inside).to(tl.float32)
    tl.store(x + at, tl.where(total <= 0.0, 0.0, total).to(x.dtype.element_ty), mask=inside)


def bias_relu_(x: Tensor, bias: Tensor, residual: Tensor | None) -> None:
    """``relu(x + bias + residual)`` in place in `x`: ``(N, C, H, W)`` channels last, ``(C,)``, like
    `x`."""
    if x.numel() == 0:
        return
    channels = x.shape[1]
    cells = x.numel() // channels
    columns = min(triton.next_power_of_2(channels), _CHANNELS)
    rows = _ELEMENTS // columns
    grid = triton.cdiv(cells, rows), triton.cdiv(channels, columns)
    given = x if residual is None else residual
    _bias_relu[grid](
        x, bias, given, cells, channels, ADD=residual is not None, ROWS=rows, COLUMNS=columns
    )


def agrees(device: torch.device) -> bool:
    """Does the kernel compute what torch does in float32, but for the last rounding, in two
    examples?"""
    values = (torch.arange(7 * 24 * 5 * 3, device=device) * 37 % 101 - 50) / 16
    x = values.view(7, 24, 5, 3).half().contiguous(memory_format=torch.channels_last)
    bias, residual = (torch.arange(24.0, device=device) - 12).half(), x.flip(0) / 3
    residual = residual.contiguous(memory_format=torch.channels_last)
    for more in (None, residual):
        found = x.clone(memory_format=torch.preserve_format)
        bias_relu_(found, bias, more)
        total = x.float() + bias.float()[:, None, None] + (0 if more is None else more.float())
        if not torch.allclose(found.float(), total.relu(), rtol=2**-10, atol=0):
            return False
    return True
