"""The detector: torchvision's GeneralizedRCNN from our four parts, built in one place.

The module tree and every parameter name are those of `torchvision.models.detection.FasterRCNN`, so
a `state_dict` loads there with ``strict=True`` and back. What differs is how it computes: a whole
batch at once, in shapes that do not depend on the data.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from fasterrcnn import recipes
from fasterrcnn.models.backbones import build_backbone
from fasterrcnn.models.roi_heads import Detections, RoIHeads
from fasterrcnn.models.rpn import RegionProposalNetwork
from fasterrcnn.models.transform import Padded, Transform


class FasterRCNN(GeneralizedRCNN):
    """Called as torchvision's: images and targets to losses in training, images to detections."""

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """uint8 ``(3, H, W)`` each; targets with ``boxes`` ``(G, 4)`` px and ``labels`` ``(G,)``.

        Detections have ``boxes``, ``labels`` and ``scores``, in pixels of the images as given.
        """
        padded = self.transform(images, targets)
        features = self.features(padded)
        if self.training:
            return self.losses(padded, features)
        return self.unpad(self.detect(padded, features), padded, images)

    def features(self, images: Padded) -> list[Tensor]:
        """The pyramid: per level ``(N, C, H / stride, W / stride)``, in autocast's precision."""
        return list(self.backbone(images.pixels).values())

    def losses(self, images: Padded, features: list[Tensor]) -> dict[str, Tensor]:
        """The four losses, float32 scalars on the device."""
        proposals, real = self.rpn.proposals(images, features, training=True)
        return {
            **self.rpn.losses(images, features),
            **self.roi_heads.losses(images, features, proposals, real),
        }

    def detect(self, images: Padded, features: list[Tensor]) -> Detections:
        """Detections in pixels of the padded input."""
        proposals, real = self.rpn.proposals(images, features, training=False)
        return self.roi_heads.detect(images, features, proposals, real)

    def unpad(
        self, detections: Detections, padded: Padded, images: list[Tensor]
    ) -> list[dict[str, Tensor]]:
        """One dictionary per image, boxes in pixels of the images as given."""
        found = []
        for image, size, boxes, scores, labels in zip(
            images, padded.sizes, *detections, strict=True
        ):
            real = labels > 0
            scale = size.new_tensor(image.shape[-2:]) / size
            boxes = boxes[real] * scale.flip(0).repeat(2)
            found.append({"boxes": boxes, "labels": labels[real], "scores": scores[real]})
        return found


def build(recipe: recipes.Recipe, num_classes: int) -> FasterRCNN:
    """The detector of `recipe` for `num_classes` (background counted), with fresh weights.

    Weights are drawn from torch's global generator: seed it first.
    """
    backbone = build_backbone(recipe.backbone)
    channels = backbone.out_channels
    return FasterRCNN(
        backbone,
        RegionProposalNetwork(recipe.rpn, channels),
        RoIHeads(recipe.roi_heads, channels, num_classes),
        Transform(recipe.input),
    )


def diagnostics(model: FasterRCNN) -> dict[str, Tensor]:
    """Scalars on the device about the last training batch: how well sampling and heads do."""
    return {**model.rpn.diagnostics, **model.roi_heads.diagnostics}
