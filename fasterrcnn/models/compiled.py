"""`Detector.learn` by torch.compile: one program per padded shape."""

from __future__ import annotations

import torch
from torch import Tensor

from fasterrcnn.models.build import Detector
from fasterrcnn.models.transform import Padded


def compile_learning(detector: Detector) -> None:
    """Let torch.compile make the kernels of a training batch's forward and backward.

    Every padded shape is compiled when it first comes, which takes minutes; the number of boxes is
    not part of it. Anchors and rois are sampled by other random numbers than without: the compiler
    draws its own, from the same seeds. Copies of `detector` made afterwards share its weights in
    `learn`.
    """
    torch._dynamo.config.recompile_limit = 64  # shapes
    torch._dynamo.config.optimize_ddp = False  # it would cut the graph at DDP's buckets
    compiled = torch.compile(detector.learn, fullgraph=True, dynamic=False)

    def learn(images: Padded) -> dict[str, Tensor]:
        of_any_length = [images.boxes, images.labels]
        if images.proposals is not None:
            of_any_length += [images.proposals.boxes, images.proposals.real]
        for tensor in of_any_length:
            torch._dynamo.mark_dynamic(tensor, 1)
        return compiled(images)

    detector.learn = learn
