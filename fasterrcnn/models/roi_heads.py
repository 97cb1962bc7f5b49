"""Box heads on fixed numbers of rois: torchvision's parameters and mathematics.

Life of a batch, step 5. The head runs in the precision of autocast, all box mathematics in float32.
Shapes: N images, G ground-truth boxes (padded, label 0), P proposals, R rois, K classes, D
detections.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from fasterrcnn import recipes
from fasterrcnn.models import boxes
from fasterrcnn.models.nms import nms_lists
from fasterrcnn.models.roi_align import pyramid_roi_align
from fasterrcnn.models.transform import Padded

_LEAST_SIDE = 1e-2  # px; smaller detections are dropped, as torchvision does
_EMPTY = -100  # label of a slot without a roi
_CANDIDATES = 2048  # best scores that NMS looks at first, per image


class Detections(NamedTuple):
    """The D best of each image, best first; label 0 marks places left empty."""

    boxes: Tensor  # float32 (N, D, 4), px of the padded input
    scores: Tensor  # float32 (N, D)
    labels: Tensor  # int64 (N, D)


class RoIHeads(nn.Module):
    """Classification and regression of proposals, on the levels of a pyramid but its last."""

    def __init__(self, recipe: recipes.RoIHeads, channels: int, num_classes: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.score_thresh = recipe.score_thresh
        self.box_head = TwoMLPHead(channels * recipe.pool_size**2, recipe.representation_size)
        self.box_predictor = FastRCNNPredictor(recipe.representation_size, num_classes)
        # As the paper's code and Detectron2: a fresh head starts from equal class probabilities.
        for layer, std in (
            (self.box_predictor.cls_score, 0.01),
            (self.box_predictor.bbox_pred, 0.001),
        ):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def head(self, images: Padded, features: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Rois ``(N, R, 4)`` -> float32 logits ``(N, R, K + 1)``, deltas ``(N, R, K + 1, 4)``."""
        features = features[:-1]
        strides = [images.pixels.shape[2] // feature.shape[2] for feature in features]
        pooled = pyramid_roi_align(
            features, rois, strides, self.recipe.pool_size, self.recipe.sampling_ratio
        )
        logits, deltas = self.box_predictor(self.box_head(pooled))
        n, r = rois.shape[:2]
        return logits.float().view(n, r, -1), deltas.float().view(n, r, -1, 4)

    def losses(
        self, images: Padded, features: list[Tensor], proposals: Tensor, real: Tensor
    ) -> dict[str, Tensor]:
        """`loss_classifier` and `loss_box_reg` of a random sample of proposals and ground truth."""
        recipe = self.recipe
        rois, labels, best, positive = self.select(images, proposals, real)
        logits, deltas = self.head(images, features, rois)
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
        distance = functional.smooth_l1_loss(delta, target, beta=1 / 9, reduction="none").sum(-1)
        entropy = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=_EMPTY, reduction="sum"
        )
        count = (labels != _EMPTY).sum().clamp(min=1)
        return {
            "loss_classifier": entropy / count,
            "loss_box_reg": (distance * positive).sum() / count,
        }

    @torch.no_grad()
    def select(
        self, images: Padded, proposals: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rois ``(N, R, 4)``, their labels (`_EMPTY` in empty slots), truth matched, positive."""
        recipe, valid = self.recipe, images.labels > 0
        candidates = torch.cat([proposals, images.boxes], dim=1)
        label, best = boxes.match(
            boxes.iou(images.boxes, candidates),
            valid,
            foreground=recipe.fg_iou_thresh,
            background=recipe.bg_iou_thresh,
            low_quality=False,
        )
        label = label.masked_fill(~torch.cat([real, valid], dim=1), -1)
        index, positive, filled = boxes.sample(
            label, recipe.batch_size_per_image, recipe.positive_fraction
        )
        best = best.gather(1, index)
        labels = images.labels.gather(1, best) * positive
        labels = labels.masked_fill(~filled, _EMPTY)
        return boxes.take(candidates, index), labels, best, positive

    def detect(
        self, images: Padded, features: list[Tensor], proposals: Tensor, real: Tensor
    ) -> Detections:
        """The detections after class-wise NMS. Waits for the device once, to be exact."""
        logits, deltas = self.head(images, features, proposals)
        scores = logits.softmax(dim=-1)[..., 1:]
        box = boxes.decode(deltas[:, :, 1:], proposals[:, :, None], self.recipe.bbox_reg_weights)
        box = boxes.clip(box, images.sizes)
        usable = (scores > self.score_thresh) & real[..., None]
        usable &= ((box[..., 2:] - box[..., :2]) >= _LEAST_SIDE).all(dim=-1)
        scores = scores.masked_fill(~usable, -1.0)
        exact, detections = self._suppress(scores, box, _CANDIDATES)
        if not exact.all():
            _, detections = self._suppress(scores, box, scores[0].numel())
        return detections

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
