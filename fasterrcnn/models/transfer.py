"""Small tensors from the host to the device of a network, and detections back."""

from __future__ import annotations

import torch
from torch import Tensor

from fasterrcnn.models.boxes import Detections


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, of the CPU, on `device`; the host does not wait for the copy.

    From pageable memory it would, in silence: torch's debug mode for synchronizations does not
    report such copies.
    """
    if device.type in ("cpu", "meta"):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(detections: Detections) -> Detections:
    """`detections` on the CPU, by one copy; the host waits for it once for the whole batch."""
    if detections.boxes.device.type == "cpu":
        return detections
    return _unpacked(_packed(detections).cpu())


def _packed(detections: Detections) -> Tensor:
    """All values in one tensor, float32 ``(N, D, 7)``, which is exact for labels below 2**24."""
    boxes, *columns = detections
    return torch.cat([boxes, *(column[..., None].float() for column in columns)], dim=-1)


def _unpacked(packed: Tensor) -> Detections:
    """The detections that `_packed` has put together."""
    boxes, scores, labels, valid = packed.split([4, 1, 1, 1], dim=-1)
    return Detections(boxes, scores[..., 0], labels[..., 0].long(), valid[..., 0] > 0)
