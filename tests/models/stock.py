"""torchvision's own Faster R-CNN with a recipe's settings: what ours is compared with."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.vgg import make_layers
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from fasterrcnn import recipes
from fasterrcnn.models.transform import PaddedImages

_BODIES = {
    "resnet10": partial(resnet.ResNet, resnet.BasicBlock, [1, 1, 1, 1]),
    "resnext101_32x4d": partial(
        resnet.ResNet, resnet.Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4
    ),
    **{
        name: getattr(resnet, name)
        for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
                     "resnext101_32x8d", "resnext101_64x4d")
    },
}  # fmt: skip


def stock(recipe: recipes.Recipe, num_classes: int) -> FasterRCNN:
    """No code of this project in it."""
    r, h, b = recipe.rpn, recipe.roi_heads, recipe.backbone
    norm = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d}[b.norm]
    body = _BODIES[b.name](norm_layer=partial(norm, eps=b.norm_eps))
    backbone = _resnet_fpn_extractor(body, b.trainable_layers)
    if b.fpn_channels != 256:
        channels = [64, 128, 256, 512]
        backbone.fpn = type(backbone.fpn)(channels, b.fpn_channels, backbone.fpn.extra_blocks)
        backbone.out_channels = b.fpn_channels
    return FasterRCNN(
        backbone,
        min_size=recipe.input.min_size,
        max_size=recipe.input.max_size,
        rpn_anchor_generator=AnchorGenerator(
            tuple((s,) for s in r.anchor_sizes), (r.aspect_ratios,) * len(r.anchor_sizes)
        ),
        rpn_pre_nms_top_n_train=r.pre_nms_top_n_train,
        rpn_pre_nms_top_n_test=r.pre_nms_top_n_test,
        rpn_post_nms_top_n_train=r.post_nms_top_n_train,
        rpn_post_nms_top_n_test=r.post_nms_top_n_test,
        rpn_batch_size_per_image=r.batch_size_per_image,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], h.pool_size, h.sampling_ratio),
        box_head=TwoMLPHead(b.fpn_channels * h.pool_size**2, h.representation_size),
        box_predictor=FastRCNNPredictor(h.representation_size, num_classes),
        box_batch_size_per_image=h.batch_size_per_image,
        box_positive_fraction=h.positive_fraction,
        box_score_thresh=h.score_thresh,
        box_detections_per_img=h.detections_per_img,
    )


def randomize_norms(model: nn.Module) -> None:
    """Statistics and weights of frozen norms that are not 0 and 1, in a sane range."""
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.mul_(torch.empty_like(module.weight).uniform_(0.5, 1.5))
            module.bias.uniform_(-0.2, 0.2)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)


def feed_padded(model: FasterRCNN, padded: PaddedImages) -> None:
    """Make `model` see exactly this padded input, whatever images it is given."""
    sizes = [(int(h), int(w)) for h, w in padded.sizes.tolist()]

    def transform(images, targets=None):
        gt = zip(padded.gt_boxes, padded.gt_labels, padded.gt_valid, strict=True)
        seen = targets and [
            {"boxes": boxes[valid], "labels": labels[valid]} for boxes, labels, valid in gt
        ]
        return ImageList(padded.pixels, sizes), seen

    model.transform.forward = transform


def feed_samples(model: FasterRCNN, proposals: Tensor, valid: Tensor, rpn, roi) -> None:
    """Make `model` use these proposals ``(N, P, 4)`` and these `boxes.Sample`s of anchors and rois.

    Rois index proposals, then padded gt boxes; torchvision has only the valid ones of both.
    """
    kept = [own[usable] for own, usable in zip(proposals, valid, strict=True)]
    model.rpn.filter_proposals = lambda *_: (kept, None)
    model.rpn.fg_bg_sampler = lambda labels: _masks(labels, rpn, 0, [0] * len(labels))
    missing = [int((~usable).sum()) for usable in valid]
    model.roi_heads.fg_bg_sampler = lambda labels: _masks(labels, roi, proposals.shape[1], missing)


def _masks(labels: list[Tensor], sample, first_moved: int, missing: list[int]):
    """`Sample` as torchvision's sampler returns it: two lists of masks over the boxes."""
    positive, negative = [], []
    for i, label in enumerate(labels):
        index = sample.index[i] - missing[i] * (sample.index[i] >= first_moved)
        for masks, chosen in (
            (positive, sample.positive[i]),
            (negative, sample.valid[i] & ~sample.positive[i]),
        ):
            mask = torch.zeros_like(label, dtype=torch.uint8)
            mask[index[chosen]] = 1
            masks.append(mask)
    return positive, negative


def narrow_vgg16(channels: int, width: int) -> nn.Module:
    """torchvision's VGG-16 with that many channels in its first stage, and fully connected layers
    of that width, for ten classes."""
    torch.manual_seed(1)
    stages = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
    layers = [item for n, times in stages for item in (*[n * channels] * times, "M")]
    network = nn.Module()
    network.features = make_layers(layers)
    network.classifier = nn.Sequential(
        nn.Linear(8 * channels * 49, width), nn.ReLU(), nn.Dropout(),
        nn.Linear(width, width), nn.ReLU(), nn.Dropout(), nn.Linear(width, 10),
    )  # fmt: skip
    return network
