"""Soft-NMS: boxes that overlap a better one lose score instead of their place.

Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code", arXiv 1704.04503. For
inference only: which box comes next depends on the scores, so it synchronizes with the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasterrcnn.models import boxes as box_math


@torch.no_grad()
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    method: str,
    iou_threshold: float,
    sigma: float,
    *,
    least: float,
    most: int,
) -> Tensor:
    """The scores ``(M, K)`` after soft-NMS in each of M lists, and -1 for boxes that are left out.

    boxes: float32 ``(M, K, 4)`` x1 y1 x2 y2. scores: float32 ``(M, K)``; below `least` are no
    boxes, before and after. The best box of a list is taken, the others' scores are multiplied,
    with IoU u to it, by 1 - u where u is at least `iou_threshold` ("linear"), or by
    exp(-u^2 / sigma) ("gaussian"); and so on until `most` boxes of each list are taken.
    """
    left, found = scores.clone(), torch.full_like(scores, -1.0)
    row = torch.arange(len(scores), device=scores.device)
    for _ in range(min(most, scores.shape[1])):
        best, index = left.max(dim=1)
        if not bool((best >= least).any()):
            break
        found[row, index] = best.where(best >= least, found[row, index])
        overlap = box_math.iou(boxes[row, index][:, None], boxes)[:, 0].nan_to_num()
        if method == "linear":
            left = left * torch.where(overlap >= iou_threshold, 1 - overlap, 1.0)
        else:
            left = left * torch.exp(-(overlap**2) / sigma)
        left[row, index] = -1.0
    return found
