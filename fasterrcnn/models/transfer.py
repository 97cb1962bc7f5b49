"""Small tensors from the host to the device of a network."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, of the CPU, on `device`; the host does not wait for the copy.

    From pageable memory it would, in silence: torch's debug mode for synchronizations does not
    report such copies.
    """
    if device.type in ("cpu", "meta"):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
