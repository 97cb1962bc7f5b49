"""Box heads on fixed numbers of rois: torchvision's parameters and mathematics.

Life of a batch, step 5. The head runs in the precision of autocast, all box mathematics in float32.
Shapes: N images, G ground-truth boxes (padded, label 0), P proposals, R rois, K classes, D
detections.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)

from fasterrcnn import recipes
from fasterrcnn.models import boxes
from fasterrcnn.models.backbones import Backbone
from fasterrcnn.models.boxes import Detections, Proposals
from fasterrcnn.models.cpu import fast_layers
from fasterrcnn.models.nms import nms_lists
from fasterrcnn.models.roi_align import pool_cells, pyramid_roi_align
from fasterrcnn.models.transform import Padded

_EMPTY = -100  # label of a slot without a roi
_CANDIDATES = 2048  # best scores that NMS looks at first, per image


class LastStage(nn.Module):
    """The box head of C4: the body's last stage on pooled rois, averaged over their bins."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.layer4 = stage

    def forward(self, pooled: Tensor) -> Tensor:
        """``(N * R, C, P, P)`` -> ``(N * R, 2 C)``."""
        return self.layer4(pooled).mean(dim=(2, 3))


class DropoutMLPHead(TwoMLPHead):
    """torchvision's two fully connected layers with VGG's dropout after each."""

    def __init__(self, in_channels: int, representation_size: int, dropout: float) -> None:
        super().__init__(in_channels, representation_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        """``(N * R, C, P, P)`` -> ``(N * R, representation_size)``."""
        hidden = self.dropout(self.fc6(pooled.flatten(1)).relu())
        return self.dropout(self.fc7(hidden).relu())


class RoIHeads(nn.Module):
    """Classification and regression of proposals."""

    def __init__(self, recipe: recipes.RoIHeads, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.score_thresh = recipe.score_thresh
        self.strides = backbone.strides[: backbone.roi_levels]
        self.box_head, width = _box_head(recipe, backbone)
        self.box_predictor = FastRCNNPredictor(width, num_classes)
        # As the paper's code and Detectron2: a fresh head starts from equal class probabilities.
        for layer, std in (
            (self.box_predictor.cls_score, 0.01),
            (self.box_predictor.bbox_pred, 0.001),
        ):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def head(self, features: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Rois ``(N, R, 4)`` -> float32 logits ``(N, R, K + 1)``, deltas ``(N, R, K + 1, 4)``."""
        features = features[: len(self.strides)]
        if self.recipe.pooling == "pool":
            pooled = pool_cells(features[0], rois, self.strides[0], self.recipe.pool_size)
        else:
            pooled = pyramid_roi_align(features, rois, self.strides, self.recipe)
        with fast_layers(rois.device):
            logits, deltas = self.box_predictor(self.box_head(pooled))
        n, r = rois.shape[:2]
        return logits.float().view(n, r, -1), deltas.float().view(n, r, -1, 4)

    def losses(
        self, images: Padded, features: list[Tensor], proposals: Proposals
    ) -> dict[str, Tensor]:
        """`loss_classifier` and `loss_box_reg` of a random sample of proposals and ground truth."""
        recipe = self.recipe
        rois, labels, best, positive = self.select(images, proposals)
        logits, deltas = self.head(features, rois)
        self.diagnostics = _diagnose(logits.detach(), labels)
        # Positives come first: no later slot has a box to learn.
        most = min(int(recipe.batch_size_per_image * recipe.positive_fraction), rois.shape[1])
        rois, positive, label = rois[:, :most], positive[:, :most], labels[:, :most]
        target = boxes.encode(
            boxes.take(images.boxes, best[:, :most]), rois, recipe.bbox_reg_weights
        )
        target = torch.where(positive[..., None], target, 0.0)
        row = label.clamp(min=0)[:, :, None, None].expand(-1, -1, 1, 4)
        delta = deltas[:, :most].gather(2, row).squeeze(2)
        distance = functional.smooth_l1_loss(delta, target, beta=recipe.beta, reduction="none")
        entropy = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=_EMPTY, reduction="sum"
        )
        count = (labels != _EMPTY).sum().clamp(min=1)
        return {
            "loss_classifier": entropy / count,
            "loss_box_reg": (distance.sum(-1) * positive).sum() / count,
        }

    @torch.no_grad()
    def select(self, images: Padded, proposals: Proposals) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rois ``(N, R, 4)``, their labels (`_EMPTY` in empty slots), truth matched, positive."""
        recipe, valid = self.recipe, images.labels > 0
        candidates = torch.cat([proposals.boxes, images.boxes], dim=1)
        label, best = boxes.match(
            boxes.iou(images.boxes, candidates),
            valid,
            foreground=recipe.fg_iou_thresh,
            background=recipe.bg_iou_thresh,
            low_quality=None,
        )
        label = label.masked_fill(~torch.cat([proposals.real, valid], dim=1), -1)
        index, positive, filled = boxes.sample(
            label, recipe.batch_size_per_image, recipe.positive_fraction
        )
        best = best.gather(1, index)
        labels = images.labels.gather(1, best) * positive
        labels = labels.masked_fill(~filled, _EMPTY)
        return boxes.take(candidates, index), labels, best, positive

    def detect(self, images: Padded, features: list[Tensor], proposals: Proposals) -> Detections:
        """The detections after class-wise NMS. Waits for the device once, to be exact."""
        recipe = self.recipe
        logits, deltas = self.head(features, proposals.boxes)
        scores = logits.softmax(dim=-1)[..., 1:]
        box = boxes.decode(
            deltas[:, :, 1:], proposals.boxes[:, :, None], recipe.bbox_reg_weights, recipe.clamp
        )
        box = boxes.clip(box, images.sizes)
        usable = (scores > self.score_thresh) & proposals.real[..., None]
        usable &= boxes.at_least(box, recipe.min_side)
        scores = scores.masked_fill(~usable, -1.0)
        exact, detections = self._suppress(scores, box, _CANDIDATES)
        if not exact.all():
            _, detections = self._suppress(scores, box, scores[0].numel())
        box, scores, labels = detections
        if recipe.drop_empty:
            labels = labels * boxes.has_area(box)
        return Detections(boxes.rescale(box, images.originals / images.sizes), scores, labels)

    def _suppress(self, scores: Tensor, box: Tensor, most: int) -> tuple[Tensor, Detections]:
        """NMS among the `most` best of each image; `exact` ``(N,)``: more would change nothing.

        Greedy decisions never depend on lower scores.
        """
        wanted, classes = self.recipe.detections_per_img, scores.shape[2]
        box, scores = box.flatten(1, 2), scores.flatten(1)
        top, index = scores.topk(min(most, scores.shape[1]), dim=1)
        box, label = boxes.take(box, index), index % classes + 1
        keep = nms_lists(box, label, top >= 0, self.recipe.nms_thresh)
        exact = (keep.sum(dim=1) >= wanted) | ((scores >= 0).sum(dim=1) <= top.shape[1])
        top, order = top.masked_fill(~keep, -1.0).topk(min(wanted, top.shape[1]), dim=1)
        label = label.gather(1, order) * (top >= 0)
        return exact, Detections(boxes.take(box, order), top, label)


def _box_head(recipe: recipes.RoIHeads, backbone: Backbone) -> tuple[nn.Module, int]:
    """The head and the width of its output."""
    channels, pool, width = backbone.out_channels, recipe.pool_size, recipe.representation_size
    if recipe.head == "res5":
        return LastStage(backbone.last_stage.pop()), 2 * channels
    if recipe.head == "4conv1fc":
        convolutions = [channels] * 4
        size = channels, pool, pool
        return FastRCNNConvFCHead(size, convolutions, [width], norm_layer=nn.BatchNorm2d), width
    if recipe.dropout:
        return DropoutMLPHead(channels * pool**2, width, recipe.dropout), width
    return TwoMLPHead(channels * pool**2, width), width


def _diagnose(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """From logits ``(N, R, K + 1)`` and labels ``(N, R)``: what Detectron2 calls fast_rcnn/*.

    Sampled foreground rois per image, the share of them given the right class, and the share taken
    for background. Shares are 0 where no roi is foreground.
    """
    foreground, predicted = labels > 0, logits.argmax(dim=-1)
    count = foreground.sum()
    share = count.clamp(min=1)
    return {
        "roi_positives": count / len(labels),
        "roi_accuracy": (foreground & (predicted == labels)).sum() / share,
        "roi_false_negatives": (foreground & (predicted == 0)).sum() / share,
    }
