"""Box heads: torchvision's, in float32 whatever the backbone computed in.

Life of a batch, step 5. Shapes: N images, R sampled rois of all images, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection import roi_heads


class RoIHeads(roi_heads.RoIHeads):
    """Adds to torchvision's class: no autocast, and diagnostics of the last training batch."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections in evaluation, the losses in training; see torchvision's class."""
        with torch.autocast(proposals[0].device.type, enabled=False):
            features = {name: feature.float() for name, feature in features.items()}
            if not self.training:
                return super().forward(features, proposals, image_shapes)
            return [], self._losses(features, proposals, image_shapes, targets)

    def _losses(self, features, proposals, image_shapes, targets) -> dict[str, Tensor]:
        proposals, _, labels, regression_targets = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        class_logits, box_regression = self.box_predictor(self.box_head(pooled))
        self.diagnostics = _diagnose(class_logits.detach(), labels)
        loss_classifier, loss_box_reg = roi_heads.fastrcnn_loss(
            class_logits, box_regression, labels, regression_targets
        )
        return {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg}


def _diagnose(class_logits: Tensor, labels: list[Tensor]) -> dict[str, Tensor]:
    """From logits ``(R, K + 1)`` and labels per image: what Detectron2 calls fast_rcnn/*.

    Sampled foreground rois per image, the share of them given the right class, and the share taken
    for background. Shares are 0 where no roi is foreground.
    """
    label = torch.cat(labels)
    foreground, predicted = label > 0, class_logits.argmax(dim=1)
    count = foreground.sum()
    share = count.clamp(min=1)
    return {
        "roi_positives": count / len(labels),
        "roi_accuracy": (foreground & (predicted == label)).sum() / share,
        "roi_false_negatives": (foreground & (predicted == 0)).sum() / share,
    }
