"""The detectors, put together from backbone, RPN, RoI heads and transform in one place.

The module tree and every parameter name are those of `torchvision.models.detection.FasterRCNN`, so
a `state_dict` loads there with ``strict=True`` and back. What differs is how it computes: a whole
batch at once, in shapes that do not depend on the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from fasterrcnn import recipes
from fasterrcnn.models.backbones import Backbone, build_backbone
from fasterrcnn.models.boxes import Detections, Proposals
from fasterrcnn.models.cpu import fast_layers
from fasterrcnn.models.roi_heads import RoIHeads
from fasterrcnn.models.rpn import RegionProposalNetwork
from fasterrcnn.models.sparse import Pyramid
from fasterrcnn.models.transform import Padded, Transform


class Detector(nn.Module, ABC):
    """What every detector is from outside; below, how it does it."""

    backbone: Backbone
    transform: Transform

    def train(self, mode: bool = True) -> Detector:
        """As every module; norms of a backbone that is not trained keep their statistics."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        return self

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Called as torchvision's: images and targets to losses in training, images to detections.

        uint8 ``(3, H, W)`` each; targets with ``boxes`` ``(G, 4)`` px and ``labels`` ``(G,)``.
        Detections have ``boxes``, ``labels`` and ``scores``, in pixels of the images as given.
        """
        padded = self.transform(images, targets)
        if self.training:
            return self.learn(padded)
        return split(self.detect(padded, self.features(padded)))

    def learn(self, images: Padded) -> dict[str, Tensor]:
        """Losses of a training batch: all that a step computes forward, in shapes that do not
        depend on the data."""
        return self.losses(images, self.features(images))

    def features(self, images: Padded) -> list[Tensor]:
        """Per level ``(N, C, H / stride, W / stride)``, in autocast's precision."""
        with fast_layers(images.pixels.device):
            return self.backbone(images.pixels)

    @abstractmethod
    def losses(self, images: Padded, features: list[Tensor]) -> dict[str, Tensor]:
        """The losses by name, float32 scalars on the device."""

    @abstractmethod
    def detect(self, images: Padded, features: list[Tensor]) -> Detections:
        """Detections in pixels of the images as given."""

    @abstractmethod
    def diagnostics(self) -> dict[str, Tensor]:
        """Scalars on the device about the last training batch: how well sampling and heads do."""


class FasterRCNN(Detector, GeneralizedRCNN):
    """The whole detector."""

    def losses(self, images: Padded, features: list[Tensor]) -> dict[str, Tensor]:
        """The four losses."""
        proposals = self.rpn.proposals(images, features, training=True)
        return {
            **self.rpn.losses(images, Pyramid(features)),
            **self.roi_heads.losses(images, features, proposals),
        }

    def detect(self, images: Padded, features: list[Tensor]) -> Detections:
        """Detections of the box head."""
        proposals = self.rpn.proposals(images, features, training=False)
        return self.roi_heads.detect(images, features, proposals)

    def diagnostics(self) -> dict[str, Tensor]:
        """Of both heads."""
        return {**self.rpn.diagnostics, **self.roi_heads.diagnostics}


class ProposalNetwork(Detector):
    """A region proposal network alone: its detections are proposals, all of label 1."""

    def __init__(
        self, backbone: Backbone, rpn: RegionProposalNetwork, transform: Transform
    ) -> None:
        super().__init__()
        self.backbone, self.rpn, self.transform = backbone, rpn, transform

    def learn(self, images: Padded) -> dict[str, Tensor]:
        """The two losses, from a pyramid that is only computed where anchors are sampled."""
        if self.rpn.recipe.conv_depth > 1:
            return super().learn(images)
        sampled = self.rpn.recipe.batch_size_per_image
        with fast_layers(images.pixels.device):
            pyramid = self.backbone.pyramid(images.pixels, sampled)
        return self.rpn.losses(images, pyramid)

    def losses(self, images: Padded, features: list[Tensor]) -> dict[str, Tensor]:
        """The two losses of the RPN: no top-k, NMS or decoding."""
        return self.rpn.losses(images, Pyramid(features))

    def detect(self, images: Padded, features: list[Tensor]) -> Detections:
        """The proposals."""
        return self.rpn.detect(images, features)

    def diagnostics(self) -> dict[str, Tensor]:
        """Of the RPN."""
        return self.rpn.diagnostics


class FastRCNN(Detector):
    """The box head on stored proposals: no region proposal network.

    Uses the best of them, as many as a whole detector of the recipe would make, in places of a
    fixed number, so that a whole detector with the same proposals computes the same bits.
    """

    def __init__(
        self, backbone: Backbone, roi_heads: RoIHeads, transform: Transform, recipe: recipes.RPN
    ) -> None:
        super().__init__()
        self.backbone, self.roi_heads, self.transform = backbone, roi_heads, transform
        self.recipe = recipe

    def use_best(self, count: int | None) -> None:
        """Detect in the best `count` proposals of each image, not as many as the recipe says."""
        if count is not None:
            self.recipe = replace(self.recipe, post_nms_top_n_test=count)

    def losses(self, images: Padded, features: list[Tensor]) -> dict[str, Tensor]:
        """The two losses of the box head."""
        return self.roi_heads.losses(
            images, features, _best(images.proposals, self.recipe.post_nms_top_n_train)
        )

    def detect(self, images: Padded, features: list[Tensor]) -> Detections:
        """Detections of the box head."""
        return self.roi_heads.detect(
            images, features, _best(images.proposals, self.recipe.post_nms_top_n_test)
        )

    def diagnostics(self) -> dict[str, Tensor]:
        """Of the box head."""
        return self.roi_heads.diagnostics


def _best(proposals: Proposals, count: int) -> Proposals:
    """The first `count` of each image, in that many places."""
    missing = count - proposals.real.shape[1]
    box = functional.pad(proposals.boxes, (0, 0, 0, missing))
    return Proposals(box, functional.pad(proposals.real, (0, missing)))


def build(recipe: recipes.Recipe, num_classes: int) -> Detector:
    """The detector of `recipe` for `num_classes` (background counted), with fresh weights.

    Weights are drawn from torch's global generator: seed it first.
    """
    backbone, transform = build_backbone(recipe.backbone), Transform(recipe.input)
    if recipe.detector == "fast_rcnn":
        roi_heads = RoIHeads(recipe.roi_heads, backbone, num_classes)
        return FastRCNN(backbone, roi_heads, transform, recipe.rpn)
    rpn = RegionProposalNetwork(recipe.rpn, backbone.out_channels, backbone.strides)
    if recipe.detector == "rpn":
        return ProposalNetwork(backbone, rpn, transform)
    return FasterRCNN(backbone, rpn, RoIHeads(recipe.roi_heads, backbone, num_classes), transform)


def split(detections: Detections) -> list[dict[str, Tensor]]:
    """One dictionary of ``boxes``, ``labels`` and ``scores`` per image, without empty places."""
    return [
        {"boxes": boxes[labels > 0], "labels": labels[labels > 0], "scores": scores[labels > 0]}
        for boxes, scores, labels in zip(*detections, strict=True)
    ]
