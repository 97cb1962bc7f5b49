"""A training batch's losses by torch.compile: one program per padded shape."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fasterrcnn.models.build import Detector, Scalars
from fasterrcnn.models.transform import PaddedImages


def compile_training_losses(
    detector: Detector,
) -> Callable[[PaddedImages], tuple[Scalars, Scalars]]:
    """``detector.training_losses``, its forward and backward compiled.

    Every padded shape is compiled the first time it occurs, which takes minutes; the number of
    boxes is dynamic. Anchors and rois are sampled by other random numbers than without compiling:
    the compiler draws its own, from the same seeds.
    """
    torch._dynamo.config.recompile_limit = 64  # shapes
    torch._dynamo.config.optimize_ddp = False  # it would cut the graph at DDP's buckets
    compiled = torch.compile(detector.training_losses, fullgraph=True, dynamic=False)

    def training_losses(images: PaddedImages) -> tuple[Scalars, Scalars]:
        of_any_length = [images.gt_boxes, images.gt_labels, images.gt_valid]
        if images.proposals is not None:
            of_any_length += [images.proposals.boxes, images.proposals.valid]
        for tensor in of_any_length:
            torch._dynamo.mark_dynamic(tensor, 1)
        return compiled(images)

    return training_losses
