"""Box head on a fixed number of rois per image: torchvision's parameters and mathematics.

Life of a batch, step 5. The head runs in autocast's precision, all box arithmetic in float32.
Shapes: N images, G ground-truth (gt) boxes with padding, P proposals, R rois, K classes, D
detections, C channels, B bins per side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)

from fasterrcnn import recipes
from fasterrcnn.models import box_losses, boxes
from fasterrcnn.models.boxes import Detections, Proposals
from fasterrcnn.models.group_norm import NORMS
from fasterrcnn.models.matching import match
from fasterrcnn.models.nms import nms_lists
from fasterrcnn.models.roi_align import pool_cells, pyramid_roi_align
from fasterrcnn.models.soft_nms import soft_nms
from fasterrcnn.models.transform import PaddedImages


class LastStage(nn.Module):
    """The box head of C4: the body's last stage on pooled rois, averaged over their bins."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.layer4 = stage

    def forward(self, pooled: Tensor) -> Tensor:
        """``(N * R, C, B, B)`` -> ``(N * R, 2 C)``."""
        return self.layer4(pooled).mean(dim=(2, 3))


class DropoutMLPHead(TwoMLPHead):
    """torchvision's two fully connected layers with VGG's dropout after each."""

    def __init__(self, in_channels: int, representation_size: int, dropout: float) -> None:
        super().__init__(in_channels, representation_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        """``(N * R, C, B, B)`` -> ``(N * R, representation_size)``."""
        hidden = self.dropout(self.fc6(pooled.flatten(1)).relu())
        return self.dropout(self.fc7(hidden).relu())


def build_box_head(
    config: recipes.RoIHeads, channels: int, stage: nn.Module | None
) -> tuple[nn.Module, int]:
    """The layers between pooled rois of `channels` channels and the predictor, and their width.

    `stage`: the last stage of a C4 body.
    """
    pool, width = config.pool_size, config.representation_size
    if config.head == "res5":
        assert stage is not None
        return LastStage(stage), 2 * channels
    if config.head == "4conv1fc":
        size, convolutions = (channels, pool, pool), [channels] * 4
        norm = NORMS[config.head_norm]
        return FastRCNNConvFCHead(size, convolutions, [width], norm_layer=norm), width
    if config.dropout:
        return DropoutMLPHead(channels * pool**2, width, config.dropout), width
    return TwoMLPHead(channels * pool**2, width), width


def build_predictor(width: int, num_classes: int, class_agnostic: bool) -> FastRCNNPredictor:
    """torchvision's predictor; `class_agnostic`: with one box for all classes."""
    predictor = FastRCNNPredictor(width, num_classes)
    if class_agnostic:
        predictor.bbox_pred = nn.Linear(width, 4)
    # As the paper's code and Detectron2: a fresh head starts from equal class probabilities.
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return predictor


class SampledRois(NamedTuple):
    """R rois per image to train on: positives, then negatives, then padding."""

    rois: Tensor  # float32 (N, R, 4)
    labels: Tensor  # int64 (N, R) in 0..K; 0 for background and padding
    gt: Tensor  # int64 (N, R): index of the gt box matched
    positive: Tensor  # bool (N, R)
    valid: Tensor  # bool (N, R)


@torch.no_grad()
def sample_rois(
    images: PaddedImages,
    proposals: Proposals,
    config: recipes.RoIHeads,
    foreground: float,
    background: float,
    loss_of: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[SampledRois, Tensor]:
    """Rois sampled from the proposals and the gt boxes, and which are gt boxes, bool ``(N, R)``.

    With `loss_of`, which gives the losses ``(N, B)`` of boxes ``(N, B, 4)`` and their labels
    ``(N, B)``, those of the largest loss are sampled: Shrivastava et al., "Training Region-based
    Object Detectors with Online Hard Example Mining", arXiv 1604.03540, as MMDetection does it.
    """
    candidates = torch.cat([proposals.boxes, images.gt_boxes], dim=1)
    label, gt = match(
        images.gt_boxes,
        images.gt_valid,
        candidates,
        torch.cat([proposals.valid, images.gt_valid], dim=1),
        foreground=foreground,
        background=background,
        low_quality=None,
        gt_ignored=images.gt_ignored,
    )
    key = None
    if loss_of is not None:
        key = -loss_of(candidates, images.gt_labels.gather(1, gt) * (label == 1))
    index, positive, valid = boxes.sample(
        label, config.batch_size_per_image, config.positive_fraction, key
    )
    gt = gt.gather(1, index)
    labels = images.gt_labels.gather(1, gt) * positive
    rois = SampledRois(boxes.take(candidates, index), labels, gt, positive, valid)
    return rois, index >= proposals.boxes.shape[1]


class RoIHeads(nn.Module):
    """Classification and box regression of proposals.

    `box_head` comes from `build_box_head`, `box_predictor` from `build_predictor`; `strides` are
    those of the levels that rois are pooled from.
    """

    def __init__(
        self,
        config: recipes.RoIHeads,
        box_head: nn.Module,
        box_predictor: nn.Module,
        strides: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.config = config
        self.score_thresh = config.score_thresh
        self.wanted: Tensor | None = None  # bool (K,): the classes to detect; None: all
        self.strides = strides
        self.box_head = box_head
        self.box_predictor = box_predictor

    def pool(self, features: list[Tensor], rois: Tensor) -> Tensor:
        """Rois ``(N, R, 4)`` -> ``(N * R, C, B, B)``."""
        features = features[: len(self.strides)]
        if self.config.pooling == "pool":
            return pool_cells(features[0], rois, self.strides[0], self.config.pool_size)
        return pyramid_roi_align(features, rois, self.strides, self.config)

    def head(self, features: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Rois ``(N, R, 4)`` -> float32 logits ``(N, R, K + 1)``, deltas ``(N, R, K + 1, 4)``;
        class-agnostic ones ``(N, R, 1, 4)``."""
        logits, deltas = self.box_predictor(self.box_head(self.pool(features, rois)))
        n, r = rois.shape[:2]
        return logits.float().view(n, r, -1), deltas.float().view(n, r, -1, 4)

    def predict(self, features: list[Tensor], rois: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Rois ``(N, R, 4)`` -> float32 scores ``(N, R, K)`` and boxes ``(N, R, K or 1, 4)`` in
        images of `sizes` ``(N, 2)``."""
        config = self.config
        logits, deltas = self.head(features, rois)
        scores = logits.softmax(dim=-1)[..., 1:]
        deltas = deltas if config.class_agnostic else deltas[:, :, 1:]
        box = boxes.decode(deltas, rois[:, :, None], config.bbox_reg_weights, config.clamp)
        return scores, boxes.clip(box, sizes)

    def losses(
        self, images: PaddedImages, features: list[Tensor], proposals: Proposals
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """`loss_classifier` and `loss_box_reg` of a random sample of proposals and gt boxes.

        Diagnostics as `diagnostics`.
        """
        config = self.config
        sampled = self.sample(images, proposals, features)
        logits, deltas = self.head(features, sampled.rois)
        # Positives come first: boxes are regressed in no later slot.
        slots = int(config.batch_size_per_image * config.positive_fraction)
        losses = self.losses_of(
            images, sampled, logits, deltas, config.bbox_reg_weights, slots=slots
        )
        return losses, diagnostics(logits.detach(), sampled.labels)

    def losses_of(
        self,
        images: PaddedImages,
        sampled: SampledRois,
        logits: Tensor,
        deltas: Tensor,
        weights: tuple[float, ...],
        *,
        slots: int,
    ) -> dict[str, Tensor]:
        """The two losses of what `head` gave for the rois `sampled`; `weights`: of the box deltas;
        `slots`: the first rois of each image among which the positives are."""
        count = sampled.valid.sum().clamp(min=1)
        entropy = functional.cross_entropy(
            logits.flatten(0, 1),
            sampled.labels.masked_fill(~sampled.valid, -100).flatten(),  # -100 is ignored
            reduction="sum",
        )
        rois, labels, gt, positive, _ = (part[:, :slots] for part in sampled)
        gt_boxes = boxes.take(images.gt_boxes, gt)
        if deltas.shape[2] == 1:
            delta = deltas[:, :slots, 0]
        else:
            row = labels[:, :, None, None].expand(-1, -1, 1, 4)
            delta = deltas[:, :slots].gather(2, row).squeeze(2)
        if self.config.box_loss == "smooth_l1":
            target = boxes.encode(gt_boxes, rois, weights)
            target = torch.where(positive[..., None], target, 0.0)
            distance = functional.smooth_l1_loss(
                delta, target, beta=self.config.beta, reduction="none"
            ).sum(-1)
        else:
            # The same box twice where nothing is regressed, so that no gradient is NaN.
            box = boxes.decode(delta, rois, weights, self.config.clamp)
            box, gt_boxes = (
                torch.where(positive[..., None], b, b.new_ones(4).cumsum(0))
                for b in (box, gt_boxes)
            )
            distance = box_losses.of(self.config.box_loss, box, gt_boxes)
        loss = (distance * positive).sum() / count
        weight = self.config.box_loss_weight
        return {
            "loss_classifier": entropy / count,
            "loss_box_reg": loss if weight == 1 else loss * weight,
        }

    def sample(
        self, images: PaddedImages, proposals: Proposals, features: list[Tensor]
    ) -> SampledRois:
        """Sample rois from the proposals and the gt boxes."""
        config = self.config
        ious = config.fg_iou_thresh, config.bg_iou_thresh
        loss_of = self.hardness(partial(self.head, features))
        return sample_rois(images, proposals, config, *ious, loss_of)[0]

    def hardness(
        self, head: Callable[[Tensor], tuple[Tensor, Tensor]]
    ) -> Callable[[Tensor, Tensor], Tensor] | None:
        """What `sample_rois` samples by: the classification losses that `head` gives, or None."""
        if self.config.sampler != "ohem":
            return None

        def loss_of(rois: Tensor, labels: Tensor) -> Tensor:
            logits, _ = head(rois)
            return functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")

        return loss_of

    def detect(
        self, images: PaddedImages, features: list[Tensor], proposals: Proposals
    ) -> Detections:
        """The detections after class-wise NMS, which is exact. Only NMS without its kernels
        synchronizes with the host."""
        config = self.config
        scores, box = self.predict(features, proposals.boxes, images.sizes)
        usable = (scores > self.score_thresh) & proposals.valid[..., None]
        if self.wanted is not None:
            usable &= self.wanted
        usable &= boxes.at_least(box, config.min_side)
        box = box.expand(*scores.shape, 4)
        scores = scores.masked_fill(~usable, -1.0)
        soft = config.soft_nms != "none"
        found = (self._suppress_softly if soft else self._suppress)(scores, box)
        valid = found.valid & boxes.has_area(found.boxes) if config.drop_empty else found.valid
        box = boxes.rescale(found.boxes, images.original_sizes / images.sizes)
        return Detections(box, found.scores, found.labels, valid)

    def _suppress(self, scores: Tensor, box: Tensor) -> Detections:
        """NMS within each class; scores below 0 are no candidates."""
        most, classes = self.config.detections_per_img, scores.shape[2]
        candidates = self._most_candidates(*scores.shape[1:])
        box, scores = box.flatten(1, 2), scores.flatten(1)
        top, index = scores.topk(candidates, dim=1)
        box, label = boxes.take(box, index), index % classes + 1
        keep = nms_lists(box, label, top >= 0, self.config.nms_thresh)
        top, order = top.masked_fill(~keep, -1.0).topk(min(most, candidates), dim=1)
        return Detections(boxes.take(box, order), top, label.gather(1, order), top >= 0)

    def _suppress_softly(self, scores: Tensor, box: Tensor) -> Detections:
        """Soft-NMS within each class; scores below 0 are no candidates."""
        config, n = self.config, len(scores)
        candidates = int((scores >= 0).sum(dim=1).max().clamp(min=1))
        scores, index = scores.transpose(1, 2).topk(candidates, dim=2)  # (N, K, P)
        box = box.transpose(1, 2).gather(2, index[..., None].expand(-1, -1, -1, 4)).flatten(0, 1)
        least, most = max(self.score_thresh, 1e-3), config.detections_per_img
        soft = config.soft_nms, config.nms_thresh, config.soft_nms_sigma
        scores = soft_nms(box, scores.flatten(0, 1), *soft, least=least, most=most).view(n, -1)
        top, order = scores.topk(min(most, scores.shape[1]), dim=1)
        label = order // candidates + 1
        return Detections(boxes.take(box.view(n, -1, 4), order), top, label, top >= 0)

    def _most_candidates(self, proposals: int, classes: int) -> int:
        """How many scores of an image can be above the threshold: those of a proposal sum to 1, up
        to float32's rounding."""
        threshold = self.score_thresh
        each = math.ceil((1 + 1e-5) / threshold) - 1 if threshold > 0 else classes
        return max(1, proposals * min(classes, each))


def diagnostics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What Detectron2 logs as ``fast_rcnn/*``, from logits ``(N, R, K + 1)`` and labels ``(N, R)``.

    The foreground rois sampled per image, the fraction of them classified correctly, and the
    fraction classified as background. Fractions are 0 where no roi is foreground.
    """
    foreground, predicted = labels > 0, logits.argmax(dim=-1)
    count = foreground.sum()
    divisor = count.clamp(min=1)
    return {
        "roi_positives": count / len(labels),
        "roi_accuracy": (foreground & (predicted == labels)).sum() / divisor,
        "roi_false_negatives": (foreground & (predicted == 0)).sum() / divisor,
    }
