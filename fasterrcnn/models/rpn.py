"""Region proposal network: torchvision's, in float32 whatever the backbone computed in.

Life of a batch, step 5. Shapes: N images, P proposals per image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection import rpn
from torchvision.models.detection.image_list import ImageList


class RegionProposalNetwork(rpn.RegionProposalNetwork):
    """Adds to torchvision's class: no autocast, and diagnostics of the last training batch."""

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """N tensors ``(P, 4)`` of proposals (px of the padded input), and the losses in training.

        Anchors and proposals take the dtype of the features: in bf16 they would be off by up to
        7 px.
        """
        with torch.autocast(images.tensors.device.type, enabled=False):
            features = {name: feature.float() for name, feature in features.items()}
            return super().forward(images, features, targets)

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """torchvision's losses; also notes the anchors sampled as positive, mean per image."""
        most = int(self.fg_bg_sampler.batch_size_per_image * self.fg_bg_sampler.positive_fraction)
        positives = torch.stack([(image >= 1).sum() for image in labels]).clamp(max=most)
        self.diagnostics = {"rpn_positives": positives.float().mean()}
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)
