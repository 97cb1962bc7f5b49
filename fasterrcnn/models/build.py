"""The detectors, put together from transform, backbone, RPN and box head in one place.

The module tree and every parameter name are those of `torchvision.models.detection.FasterRCNN`, so
a `state_dict` loads there with ``strict=True`` and back. What differs is how it is computed: a
whole batch at once, in shapes that do not depend on the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.image_sizes import training_sizes
from fasterrcnn.models import first_conv
from fasterrcnn.models.any_backbone import build_backbone, check_sizes
from fasterrcnn.models.backbones import Backbone
from fasterrcnn.models.boxes import Detections, Proposals
from fasterrcnn.models.cascade import CascadeRoIHeads
from fasterrcnn.models.roi_heads import RoIHeads, build_box_head, build_predictor
from fasterrcnn.models.rpn import RegionProposalNetwork
from fasterrcnn.models.sparse import Pyramid
from fasterrcnn.models.transform import PaddedImages, Transform

Scalars = dict[str, Tensor]  # float32 scalars on the device, by name


class Detector(nn.Module, ABC):
    """What all detectors have in common: the interface of torchvision's, and how it is computed.

    On a CPU call it inside `engine.runtime.Runtime.precision`, which enters the faster layers.
    """

    transform: Transform
    backbone: Backbone
    frozen_norms: tuple[nn.Module, ...] = ()  # a tuple, so that they are no children twice

    def train(self, mode: bool = True) -> Detector:
        """As `nn.Module.train`, but norms of a fixed backbone and of what `freeze` named keep their
        statistics."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        for norm in self.frozen_norms:
            norm.eval()
        return self

    def freeze(self, prefixes: tuple[str, ...]) -> None:
        """Train no parameter whose name begins with one of `prefixes`, up to a dot. In place.

        Raises UsageError for one with which none begins.
        """
        named = dict(self.named_parameters())
        for prefix in prefixes:
            begun = [name for name in named if f"{name}.".startswith(f"{prefix}.")]
            if not begun:
                raise UsageError(f"--freeze: {prefix}: {_instead(prefix, [*named])}")
            for name in begun:
                named[name].requires_grad_(False)
        self.frozen_norms = tuple(
            module
            for name, module in self.named_modules()
            if isinstance(module, nn.BatchNorm2d)
            and f"{name}.".startswith(tuple(f"{prefix}." for prefix in prefixes))
        )

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> Scalars | list[dict[str, Tensor]]:
        """Called as torchvision's detectors, but with uint8 images ``(3, H, W)``.

        In training, images and targets (``boxes`` ``(G, 4)`` in px, ``labels`` ``(G,)``) to losses.
        In evaluation, images to ``boxes``, ``labels`` and ``scores`` of each, in px of the images
        as given.
        """
        padded = self.transform(images, targets)
        if self.training:
            return self.training_losses(padded)[0]
        return split(self.detect(padded, self.features(padded)))

    def training_losses(self, images: PaddedImages) -> tuple[Scalars, Scalars]:
        """Losses and diagnostics of a training batch: all that a step computes forward, in shapes
        that do not depend on the data."""
        return self.losses(images, self.features(images))

    def features(self, images: PaddedImages) -> list[Tensor]:
        """Per level ``(N, C, H / stride, W / stride)``, in autocast's precision."""
        return self.backbone(images.pixels)

    @abstractmethod
    def losses(self, images: PaddedImages, features: list[Tensor]) -> tuple[Scalars, Scalars]:
        """The losses, and diagnostics that say how well sampling and heads do."""

    @abstractmethod
    def detect(self, images: PaddedImages, features: list[Tensor]) -> Detections:
        """Detections in px of the images as given."""


class FasterRCNN(Detector):
    """The whole detector."""

    def __init__(
        self,
        transform: Transform,
        backbone: Backbone,
        rpn: RegionProposalNetwork,
        roi_heads: RoIHeads,
    ) -> None:
        super().__init__()
        self.transform, self.backbone, self.rpn, self.roi_heads = (
            transform, backbone, rpn, roi_heads
        )  # fmt: skip

    def losses(self, images: PaddedImages, features: list[Tensor]) -> tuple[Scalars, Scalars]:
        """The losses and diagnostics of RPN and box head."""
        proposals = self.rpn.proposals(images, features, training=True)
        rpn_losses, rpn_diagnostics = self.rpn.losses(images, Pyramid(features))
        box_losses, box_diagnostics = self.roi_heads.losses(images, features, proposals)
        return rpn_losses | box_losses, rpn_diagnostics | box_diagnostics

    def detect(self, images: PaddedImages, features: list[Tensor]) -> Detections:
        """The detections of the box head in the RPN's proposals."""
        return self.detect_and_propose(images, features)[0]

    def detect_and_propose(
        self, images: PaddedImages, features: list[Tensor]
    ) -> tuple[Detections, Proposals]:
        """As `detect`, and the proposals that the detections were made in."""
        proposals = self.rpn.proposals(images, features, training=False)
        return self.roi_heads.detect(images, features, proposals), proposals


class ProposalNetwork(Detector):
    """A region proposal network alone: its detections are proposals, all of label 1."""

    def __init__(
        self, transform: Transform, backbone: Backbone, rpn: RegionProposalNetwork
    ) -> None:
        super().__init__()
        self.transform, self.backbone, self.rpn = transform, backbone, rpn

    def training_losses(self, images: PaddedImages) -> tuple[Scalars, Scalars]:
        """As of the base class, from a pyramid that is only computed where anchors are sampled."""
        config = self.rpn.config
        if config.conv_depth > 1:
            return super().training_losses(images)
        pyramid = self.backbone.pyramid(images.pixels, config.batch_size_per_image)
        return self.rpn.losses(images, pyramid)

    def losses(self, images: PaddedImages, features: list[Tensor]) -> tuple[Scalars, Scalars]:
        """The losses and diagnostics of the RPN: without top-k, NMS or decoding."""
        return self.rpn.losses(images, Pyramid(features))

    def detect(self, images: PaddedImages, features: list[Tensor]) -> Detections:
        """The proposals."""
        return self.rpn.detect(images, features)


class FastRCNN(Detector):
    """The box head on stored proposals, without a region proposal network.

    It uses the best of them, as many as the RPN of the recipe would propose, padded to that number:
    a whole detector with the same proposals computes the same bits.
    """

    def __init__(
        self, transform: Transform, backbone: Backbone, roi_heads: RoIHeads, config: recipes.RPN
    ) -> None:
        super().__init__()
        self.transform, self.backbone, self.roi_heads = transform, backbone, roi_heads
        self.config = config

    def use_top_n(self, count: int | None) -> None:
        """Detect in the best `count` proposals of each image, if not None, instead of the recipe's
        number."""
        if count is not None:
            self.config = replace(self.config, post_nms_top_n_test=count)

    def losses(self, images: PaddedImages, features: list[Tensor]) -> tuple[Scalars, Scalars]:
        """The losses and diagnostics of the box head."""
        proposals = _top_n(images.proposals, self.config.post_nms_top_n_train)
        return self.roi_heads.losses(images, features, proposals)

    def detect(self, images: PaddedImages, features: list[Tensor]) -> Detections:
        """The detections of the box head."""
        proposals = _top_n(images.proposals, self.config.post_nms_top_n_test)
        return self.roi_heads.detect(images, features, proposals)


def _top_n(proposals: Proposals | None, count: int) -> Proposals:
    """The first `count` proposals of each image, padded to that number."""
    assert proposals is not None, "the targets have no stored proposals"
    missing = count - proposals.valid.shape[1]
    box = functional.pad(proposals.boxes, (0, 0, 0, missing))
    return Proposals(box, functional.pad(proposals.valid, (0, missing)))


def build(recipe: recipes.Recipe, num_classes: int) -> Detector:
    """The detector of `recipe` for `num_classes` (background counted), with fresh weights.

    Weights are drawn from torch's global generator: seed it first.
    """
    check_sizes(recipe)
    transform = Transform(recipe.input, training_sizes(recipe))
    backbone, stage = build_backbone(recipe.backbone)
    if recipe.input.in_channels != 3:
        first_conv.set_channels(backbone.body, recipe.input.in_channels)

    def rpn() -> RegionProposalNetwork:
        return RegionProposalNetwork(recipe.rpn, backbone.out_channels, backbone.strides)

    def roi_heads() -> RoIHeads:
        strides = backbone.strides[: backbone.roi_levels]
        heads = recipe.roi_heads, backbone.out_channels, num_classes, strides
        return _cascade(*heads) if recipe.roi_heads.stages > 1 else _roi_heads(*heads, stage)

    detector: Detector
    if recipe.detector == "rpn":
        detector = ProposalNetwork(transform, backbone, rpn())
    elif recipe.detector == "fast_rcnn":
        detector = FastRCNN(transform, backbone, roi_heads(), recipe.rpn)
    else:
        detector = FasterRCNN(transform, backbone, rpn(), roi_heads())
    detector.freeze(recipe.freeze)
    return detector


def _roi_heads(
    config: recipes.RoIHeads,
    channels: int,
    num_classes: int,
    strides: tuple[int, ...],
    stage: nn.Module | None,
) -> RoIHeads:
    """One box head; `stage`: the last stage of a C4 body."""
    box_head, width = build_box_head(config, channels, stage)
    predictor = build_predictor(width, num_classes, config.class_agnostic)
    return RoIHeads(config, box_head, predictor, strides)


def _cascade(
    config: recipes.RoIHeads, channels: int, num_classes: int, strides: tuple[int, ...]
) -> CascadeRoIHeads:
    """A box head for each stage."""
    heads, predictors = nn.ModuleList(), nn.ModuleList()
    for _ in range(config.stages):
        box_head, width = build_box_head(config, channels, None)
        heads.append(box_head)
        predictors.append(build_predictor(width, num_classes, class_agnostic=True))
    return CascadeRoIHeads(config, heads, predictors, strides)


def _instead(prefix: str, names: list[str]) -> str:
    """What there is in place of `prefix`, with which no parameter's name begins."""
    parent = prefix
    while parent and not any(name.startswith(f"{parent}.") for name in names):
        parent = parent.rpartition(".")[0]
    start = f"{parent}." if parent else ""
    inside = [name.removeprefix(start) for name in names if name.startswith(start)]
    parts = sorted({start + name.partition(".")[0] for name in inside})
    return f"no parameter's name begins so; there are {', '.join(parts)}"


def split(detections: Detections) -> list[dict[str, Tensor]]:
    """The valid ``boxes``, ``labels`` and ``scores`` of each image."""
    return [
        {"boxes": boxes[valid], "labels": labels[valid], "scores": scores[valid]}
        for boxes, scores, labels, valid in zip(*detections, strict=True)
    ]
