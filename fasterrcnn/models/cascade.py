"""Cascade R-CNN: box heads in stages, each on the boxes that the one before predicted.

Cai and Vasconcelos, "Cascade R-CNN", arXiv 1712.00726, as MMDetection's `CascadeRoIHead` and
Detectron2's `CascadeROIHeads` compute it; where they differ, fields of the recipe decide. Boxes are
class-agnostic. Life of a batch, step 5. Shapes: N images, R rois, K classes, C channels, B bins.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fasterrcnn.models import boxes
from fasterrcnn.models.boxes import Proposals
from fasterrcnn.models.matching import match
from fasterrcnn.models.roi_heads import RoIHeads, SampledRois, diagnostics, sample_rois
from fasterrcnn.models.transform import PaddedImages


class CascadeRoIHeads(RoIHeads):
    """Stages of classification and box regression.

    `box_head` and `box_predictor` are a ModuleList each, of one for each stage: parameters are
    called ``box_head.0.``, ``box_predictor.0.`` and so on, as Detectron2's.
    """

    @property
    def stage_layers(self) -> list[tuple[nn.Module, nn.Module]]:
        """Box head and predictor of each stage."""
        return [*zip(self.box_head.children(), self.box_predictor.children(), strict=True)]

    def weights(self, stage: int) -> tuple[float, ...]:
        """The weights of dx, dy, dw, dh in `stage`."""
        return self.config.stage_reg_weights[4 * stage : 4 * stage + 4]

    def samples(self, stage: int) -> bool:
        """Whether `stage` is trained on a sample; otherwise on all rois."""
        return stage == 0 or self.config.stage_sampling == "each"

    def head_of(self, stage: int, features: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Rois ``(N, R, 4)`` -> float32 logits ``(N, R, K + 1)`` and deltas ``(N, R, 1, 4)``."""
        pooled, layers = self.pool(features, rois), self.stage_layers[stage]
        if self.config.stage_gradients == "mean" and torch.is_grad_enabled():
            pooled = _ScaledGradient.apply(pooled, 1 / self.config.stages)
        logits, deltas = layers[1](layers[0](pooled))
        n, r = rois.shape[:2]
        return logits.float().view(n, r, -1), deltas.float().view(n, r, 1, 4)

    def refine(self, stage: int, rois: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
        """The boxes ``(N, R, 4)`` that `stage` predicts with `deltas` ``(N, R, 1, 4)``, clipped to
        images of `sizes`."""
        box = boxes.decode(deltas[:, :, 0], rois, self.weights(stage), self.config.clamp)
        return boxes.clip(box, sizes)

    def predict(self, features: list[Tensor], rois: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``(N, R, K)`` averaged over the stages, and boxes ``(N, R, 1, 4)`` of the last."""
        found, of_scores = [], self.config.stage_average == "scores"
        for stage in range(self.config.stages):
            logits, deltas = self.head_of(stage, features, rois)
            found.append(logits.softmax(dim=-1) if of_scores else logits)
            rois = self.refine(stage, rois, deltas, sizes)
        mean = torch.stack(found).mean(dim=0)
        scores = mean if of_scores else mean.softmax(dim=-1)
        return scores[..., 1:], rois[:, :, None]

    def losses(
        self, images: PaddedImages, features: list[Tensor], proposals: Proposals
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """``loss_classifier_stage0``, ``loss_box_reg_stage0`` and so on; diagnostics of the last
        stage, and the positives of each."""
        config = self.config
        losses: dict[str, Tensor] = {}
        found: dict[str, Tensor] = {}
        most = int(config.batch_size_per_image * config.positive_fraction)
        for stage, weight in enumerate(config.stage_loss_weights):
            sampled, is_gt = self.rois_of(stage, images, proposals, features)
            logits, deltas = self.head_of(stage, features, sampled.rois)
            slots = most if self.samples(stage) else sampled.rois.shape[1]
            of_stage = self.losses_of(
                images, sampled, logits, deltas, self.weights(stage), slots=slots
            )
            losses |= {f"{name}_stage{stage}": loss * weight for name, loss in of_stage.items()}
            found |= diagnostics(logits.detach(), sampled.labels)
            found[f"roi_positives_stage{stage}"] = found["roi_positives"]
            if stage + 1 == config.stages:
                break
            with torch.no_grad():
                box = self.refine(stage, sampled.rois, deltas.detach(), images.sizes)
                # A sampler adds the gt boxes again; without one, empty boxes are left out.
                valid = sampled.valid & (~is_gt if self.samples(stage + 1) else boxes.has_area(box))
                proposals = Proposals(box, valid)
        return losses, found

    @torch.no_grad()
    def rois_of(
        self, stage: int, images: PaddedImages, proposals: Proposals, features: list[Tensor]
    ) -> tuple[SampledRois, Tensor]:
        """The rois that `stage` is trained on, and which of them are gt boxes, bool ``(N, R)``."""
        iou = self.config.stage_iou_thresh[stage]
        if self.samples(stage):
            loss_of = self.hardness(partial(self.head_of, stage, features))
            return sample_rois(images, proposals, self.config, iou, iou, loss_of)
        label, gt = match(
            images.gt_boxes,
            images.gt_valid,
            *proposals[:2],
            foreground=iou,
            background=iou,
            low_quality=None,
            gt_ignored=images.gt_ignored,
        )
        positive = label == 1
        labels = images.gt_labels.gather(1, gt) * positive
        rois = SampledRois(proposals.boxes, labels, gt, positive, proposals.valid)
        return rois, torch.zeros_like(positive)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
