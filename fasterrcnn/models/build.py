"""The detector: torchvision's GeneralizedRCNN from our four parts, built in one place.

The module tree and every parameter name are those of `torchvision.models.detection.FasterRCNN`, so
a `state_dict` loads there with ``strict=True`` and back.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from fasterrcnn import recipes
from fasterrcnn.models.backbones import build_backbone
from fasterrcnn.models.roi_heads import RoIHeads
from fasterrcnn.models.rpn import RegionProposalNetwork
from fasterrcnn.models.transform import Transform


def build(recipe: recipes.Recipe, num_classes: int) -> GeneralizedRCNN:
    """The detector of `recipe` for `num_classes` (background counted), with fresh weights.

    Weights are drawn from torch's global generator: seed it first.
    """
    backbone = build_backbone(recipe.backbone)
    return GeneralizedRCNN(
        backbone,
        _rpn(recipe.rpn, backbone.out_channels),
        _roi_heads(recipe.roi_heads, backbone.out_channels, num_classes),
        Transform(
            recipe.input.min_size,
            recipe.input.max_size,
            list(recipe.input.image_mean),
            list(recipe.input.image_std),
        ),
    )


def _rpn(recipe: recipes.RPN, channels: int) -> RegionProposalNetwork:
    sizes = tuple((size,) for size in recipe.anchor_sizes)
    anchors = AnchorGenerator(sizes, (recipe.aspect_ratios,) * len(sizes))
    return RegionProposalNetwork(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        recipe.fg_iou_thresh,
        recipe.bg_iou_thresh,
        recipe.batch_size_per_image,
        recipe.positive_fraction,
        {"training": recipe.pre_nms_top_n_train, "testing": recipe.pre_nms_top_n_test},
        {"training": recipe.post_nms_top_n_train, "testing": recipe.post_nms_top_n_test},
        recipe.nms_thresh,
    )


def _roi_heads(recipe: recipes.RoIHeads, channels: int, num_classes: int) -> RoIHeads:
    predictor = FastRCNNPredictor(recipe.representation_size, num_classes)
    # As the paper's code and Detectron2: a fresh head starts from equal class probabilities.
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return RoIHeads(
        MultiScaleRoIAlign(["0", "1", "2", "3"], recipe.pool_size, recipe.sampling_ratio),
        TwoMLPHead(channels * recipe.pool_size**2, recipe.representation_size),
        predictor,
        recipe.fg_iou_thresh,
        recipe.bg_iou_thresh,
        recipe.batch_size_per_image,
        recipe.positive_fraction,
        recipe.bbox_reg_weights,
        recipe.score_thresh,
        recipe.nms_thresh,
        recipe.detections_per_img,
    )


def diagnostics(model: GeneralizedRCNN) -> dict[str, Tensor]:
    """Scalars on the device about the last training batch: how well sampling and heads do."""
    return {**model.rpn.diagnostics, **model.roi_heads.diagnostics}
