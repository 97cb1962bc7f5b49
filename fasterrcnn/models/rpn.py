"""Region proposal network on padded batches: torchvision's parameters and mathematics.

Life of a batch, step 5. The head runs in autocast's precision, all box arithmetic in float32: in
bf16, anchors would be off by up to 7 px. Shapes: N images, L levels, A anchors of all levels, G
ground-truth (gt) boxes with padding, S sampled anchors, P proposals.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.models import boxes
from fasterrcnn.models.boxes import Proposals
from fasterrcnn.models.conv_relu import conv_relu
from fasterrcnn.models.matching import LowQuality, match
from fasterrcnn.models.nms import nms_lists
from fasterrcnn.models.sparse import Pyramid, Shapes, UnfinishedPyramid, as_matrix
from fasterrcnn.models.transform import PaddedImages

_BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
_MAX_CACHED_SHAPES = 64  # whose anchors are kept (4 MB each at 800 x 1333 px)


class RegionProposalNetwork(nn.Module):
    """Proposals from features, and the two losses.

    `channels` and `strides` are those of the features.
    """

    def __init__(self, config: recipes.RPN, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.strides = strides
        self.anchor_generator = anchor_generator(config, len(strides))
        per_cell = len(self.anchor_generator.cell_anchors[0])
        self.head = RPNHead(channels, per_cell, config.conv_depth)
        self._anchors: dict[tuple, list[Tensor]] = {}

    def proposals(
        self, images: PaddedImages, features: list[Tensor], *, training: bool
    ) -> Proposals:
        """The proposals of each image after NMS; `training` selects how many.

        Computed without an autograd graph: the losses build their own.
        """
        config = self.config
        before, after = (
            (config.pre_nms_top_n_train, config.post_nms_top_n_train)
            if training
            else (config.pre_nms_top_n_test, config.post_nms_top_n_test)
        )
        with torch.no_grad():
            objectness, deltas = self.dense_head(features)
            anchors = self.anchors(images.pixels, Pyramid(features).shapes)
            return self.select(objectness, deltas, anchors, images.sizes, before, after)

    def detect(self, images: PaddedImages, features: list[Tensor]) -> boxes.Detections:
        """The proposals as detections in px of the images as given, all of label 1."""
        return self.as_detections(images, self.proposals(images, features, training=False))

    def as_detections(self, images: PaddedImages, found: Proposals) -> boxes.Detections:
        """Proposals that were `found` in `images`, in px of the images as given, all of label 1."""
        box = boxes.rescale(found.boxes, images.original_sizes / images.sizes)
        assert found.scores is not None
        labels = torch.ones_like(found.valid, dtype=torch.int64)
        return boxes.Detections(box, found.scores, labels, found.valid)

    def anchors(self, pixels: Tensor, shapes: Shapes) -> list[Tensor]:
        """Anchors per level, float32 ``(A_l, 4)``, cell by cell. Cached per shape."""
        size = pixels.shape[2], pixels.shape[3]
        if torch.compiler.is_exporting():
            return self._anchors_in_graph(size, shapes)
        return self._anchors_of(size, shapes, pixels.device)

    @torch.compiler.assume_constant_result
    def _anchors_of(
        self, size: tuple[int, int], shapes: Shapes, device: torch.device
    ) -> list[Tensor]:
        key = (size, shapes, device)
        if key not in self._anchors:
            if len(self._anchors) == _MAX_CACHED_SHAPES:
                self._anchors.clear()
            generator = self.anchor_generator
            generator.set_cell_anchors(torch.float32, device)
            strides = self._anchor_strides(size, shapes)
            # Filled in, not copied from the host, which would wait for the device.
            on_device = [[torch.full((), s, device=device) for s in pair] for pair in strides]
            self._anchors[key] = generator.grid_anchors([list(s) for s in shapes], on_device)
        return self._anchors[key]

    def _anchor_strides(self, size: tuple[int, int], shapes: Shapes) -> list[tuple[int, int]]:
        """The distance of neighboring cells' anchors in y and x, in px, per level."""
        if self.config.anchor_strides == "grid":
            return [(size[0] // h, size[1] // w) for h, w in shapes]
        return [(s, s) for s in self.strides]

    def _anchors_in_graph(self, size: tuple[int, int], shapes: Shapes) -> list[Tensor]:
        """The same bits by operators whose sizes may be symbols: not looked up, not made of
        tensors of Python numbers."""
        found = []
        strides = self._anchor_strides(size, shapes)
        cells = self.anchor_generator.cell_anchors
        for cell, (h, w), (dy, dx) in zip(cells, shapes, strides, strict=True):
            y = (torch.arange(h, device=cell.device) * dy)[:, None].expand(h, w)
            x = (torch.arange(w, device=cell.device) * dx)[None].expand(h, w)
            shift = torch.stack([x, y, x, y], dim=-1).to(cell.dtype)
            found.append((shift[:, :, None] + cell).reshape(-1, 4))
        return found

    def dense_head(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits ``(N, A_l)`` and deltas ``(N, A_l, 4)`` of every level, float32."""
        objectness, deltas = (
            self.head(features) if torch.is_grad_enabled() else self._head(features)
        )
        return (
            [o.permute(0, 2, 3, 1).flatten(1).float() for o in objectness],
            [d.permute(0, 2, 3, 1).reshape(d.shape[0], -1, 4).float() for d in deltas],
        )

    def _head(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """`self.head` in fewer passes, without gradients."""
        hidden = []
        for x in features:
            for layer in self.head.conv:
                conv = layer[0]
                geometry = conv.stride, conv.padding, conv.dilation, conv.groups
                x = conv_relu(x, conv.weight, conv.bias, *geometry)
            hidden.append(x)
        return [self.head.cls_logits(x) for x in hidden], [self.head.bbox_pred(x) for x in hidden]

    def select(
        self,
        objectness: list[Tensor],
        deltas: list[Tensor],
        anchors: list[Tensor],
        sizes: Tensor,
        before: int,
        after: int,
    ) -> Proposals:
        """Top-k, decoding and NMS: from every level's head outputs to proposals.

        `before`: anchors kept per level before NMS. `after`: proposals kept of all levels together.
        `sizes` float32 ``(N, 2)``: H, W of the images (px).
        """
        config = self.config
        if config.topk_by == "scores":
            objectness = [o.sigmoid() for o in objectness]
        exporting = torch.compiler.is_exporting()  # then shapes are symbols, and k is a number
        k = before if exporting else min(before, max(o.shape[1] for o in objectness))
        scores, deltas_of, anchors_of = [], [], []
        for logits, delta, anchor in zip(objectness, deltas, anchors, strict=True):
            if exporting:
                score, index = functional.pad(logits, (0, k), value=-torch.inf).topk(k, dim=1)
                index = index.clamp(max=logits.shape[1] - 1)
            else:
                score, index = logits.topk(min(k, logits.shape[1]), dim=1)
            delta, anchor = boxes.take(delta, index), boxes.take(anchor[None], index)
            if missing := k - index.shape[1]:  # made up for by empty boxes
                score = functional.pad(score, (0, missing), value=-torch.inf)
                delta, anchor = (functional.pad(t, (0, 0, 0, missing)) for t in (delta, anchor))
            scores.append(score)
            deltas_of.append(delta)
            anchors_of.append(anchor)
        n, levels = sizes.shape[0], len(scores)
        score, delta, anchor = (  # (N, L, k [, 4])
            torch.stack(each, dim=1) for each in (scores, deltas_of, anchors_of)
        )
        box = boxes.decode(delta, anchor, _BOX_WEIGHTS, config.clamp)
        box = boxes.clip(box, sizes)
        valid = boxes.has_area(box) & boxes.at_least(box, config.min_side)
        valid &= score >= self._min_score()
        keep = nms_lists(
            box.view(n * levels, k, 4),
            torch.zeros(n * levels, k, dtype=torch.int64, device=box.device),
            valid.view(n * levels, k),
            config.nms_thresh,
        ).view_as(valid)
        score = score.masked_fill(~keep, -torch.inf).flatten(1)
        score, index = score.topk(min(after, score.shape[1]), dim=1)
        box, valid = boxes.take(box.flatten(1, 2), index), score > -torch.inf
        return Proposals(box, valid, score.sigmoid() if config.topk_by == "logits" else score)

    def _min_score(self) -> float:
        """The score threshold in the unit that `select` compares; below it is only padding's -inf
        where the threshold is 0."""
        threshold = self.config.score_thresh
        if self.config.topk_by == "scores":
            return threshold
        return math.log(threshold / (1 - threshold)) if threshold > 0 else -sys.float_info.max

    def losses(
        self, images: PaddedImages, pyramid: Pyramid | UnfinishedPyramid
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """`loss_objectness` and `loss_rpn_box_reg` of a random sample of anchors per image.

        Diagnostics: ``rpn_positives``, the positive anchors sampled per image.
        """
        config = self.config
        anchors = torch.cat(self.anchors(images.pixels, pyramid.shapes))[None]
        sampled, gt = self.sample(images, pyramid.shapes, anchors)
        positive, valid = sampled.positive, sampled.valid
        objectness, deltas = self.head_at(pyramid, sampled.index)
        target = boxes.encode(
            boxes.take(images.gt_boxes, gt), boxes.take(anchors, sampled.index), _BOX_WEIGHTS
        )
        target = torch.where(positive[..., None], target, 0.0)
        entropy = functional.binary_cross_entropy_with_logits(
            objectness, positive.float(), reduction="none"
        )
        distance = functional.smooth_l1_loss(deltas, target, beta=config.beta, reduction="none")
        fixed = config.normalizer == "batch-size"
        count = config.batch_size_per_image * len(valid) if fixed else valid.sum().clamp(min=1)
        losses = {
            "loss_objectness": (entropy * valid).sum() / count,
            "loss_rpn_box_reg": (distance.sum(-1) * positive).sum() / count,
        }
        return losses, {"rpn_positives": positive.sum() / len(positive)}

    def head_at(self, pyramid: Pyramid | UnfinishedPyramid, index: Tensor) -> tuple[Tensor, Tensor]:
        """Objectness logits ``(N, S)`` and deltas ``(N, S, 4)`` of the anchors `index` ``(N, S)``.

        From 3 x 3 patches of features where the head has one convolution; the gradient is the same
        for a fraction of the work.
        """
        if self.config.conv_depth == 1:
            return self.sparse_head(pyramid, index)
        assert isinstance(pyramid, Pyramid)
        objectness, deltas = (
            torch.cat(levels, dim=1) for levels in self.dense_head(pyramid.levels)
        )
        return objectness.gather(1, index), boxes.take(deltas, index)

    @torch.no_grad()
    def sample(
        self, images: PaddedImages, shapes: Shapes, anchors: Tensor
    ) -> tuple[boxes.Sample, Tensor]:
        """Anchors sampled for the losses, and the index of the gt box ``(N, S)`` of each."""
        config = self.config
        label, gt = match(
            images.gt_boxes,
            images.gt_valid,
            anchors,
            self._usable(images, shapes, anchors),
            foreground=config.fg_iou_thresh,
            background=config.bg_iou_thresh,
            low_quality=LowQuality(config.low_quality_iou, config.low_quality_gt),
            gt_ignored=images.gt_ignored,
        )
        sampled = boxes.sample(label, config.batch_size_per_image, config.positive_fraction)
        return sampled, gt.gather(1, sampled.index)

    def _usable(self, images: PaddedImages, shapes: Shapes, anchors: Tensor) -> Tensor | None:
        """Which anchors may be sampled, bool ``(N, A)``; None: all of them."""
        if not self.config.border_anchors:
            beyond = boxes.clip(anchors.expand(len(images.sizes), -1, -1), images.sizes) != anchors
            if not self.config.edge_anchors:
                beyond[..., 2:] |= anchors[..., 2:] >= images.sizes.flip(-1)[:, None]
            return ~beyond.any(dim=-1)
        return None if self.config.padding_anchors else self._inside(images, shapes)

    def _inside(self, images: PaddedImages, shapes: Shapes) -> Tensor:
        """Which anchors belong to cells inside the image rounded up to a multiple of 32 px, bool
        ``(N, A)``."""
        own = (images.sizes / 32).ceil() * 32  # (N, 2)
        per_cell = self.head.cls_logits.out_channels
        masks = []
        for shape, stride in zip(shapes, self.strides, strict=True):
            cells = (own / stride).ceil()[:, :, None]
            rows, columns = (
                torch.arange(side, device=own.device) < cells[:, axis]
                for axis, side in enumerate(shape)
            )
            mask = (rows[:, :, None] & columns[:, None]).flatten(1)
            masks.append(mask.repeat_interleave(per_cell, dim=1))
        return torch.cat(masks, dim=1)

    def sparse_head(
        self, pyramid: Pyramid | UnfinishedPyramid, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`head_at` from 3 x 3 patches: the same function of the same weights as `dense_head`."""
        patches = pyramid.patches(index // self.head.cls_logits.out_channels)
        conv = self.head.conv[0][0]
        hidden = functional.linear(patches, as_matrix(conv.weight), conv.bias).relu()
        n, s = index.shape
        pick = (index % self.head.cls_logits.out_channels)[:, :, None]
        objectness, deltas = (
            functional.linear(hidden, as_matrix(layer.weight), layer.bias).float()
            for layer in (self.head.cls_logits, self.head.bbox_pred)
        )
        deltas = deltas.view(n, s, -1, 4).gather(2, pick[..., None].expand(n, s, 1, 4))
        return objectness.gather(2, pick).squeeze(2), deltas.squeeze(2)


def anchor_generator(config: recipes.RPN, levels: int) -> AnchorGenerator:
    """torchvision's generator with the recipe's anchors on each of so many feature levels.

    Raises UsageError if the sizes cannot be dealt out to them.
    """
    sizes = anchor_sizes(config, levels)
    generator = AnchorGenerator(sizes, (config.aspect_ratios,) * levels)
    if not config.round_anchors:
        generator.cell_anchors = [_cell_anchors(level, config.aspect_ratios) for level in sizes]
    return generator


def anchor_sizes(config: recipes.RPN, levels: int) -> tuple[tuple[float, ...], ...]:
    """The sizes of the recipe's anchors on each of so many feature levels (px).

    Raises UsageError if they cannot be dealt out.
    """
    sizes = config.anchor_sizes
    if config.all_sizes_per_level:
        return (sizes,) * levels
    per_level, left = divmod(len(sizes), levels)
    if left or not per_level:
        raise UsageError(
            f"--rpn.anchor-sizes: {len(sizes)} given, this backbone has {levels} levels"
        )
    return tuple(sizes[i : i + per_level] for i in range(0, len(sizes), per_level))


def _cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    """Unrounded anchors around 0, float32 ``(ratios * sizes, 4)``, in torchvision's order: size by
    size within each ratio."""
    corners = [
        (size / math.sqrt(ratio) / 2, size * math.sqrt(ratio) / 2)
        for ratio in ratios
        for size in sizes
    ]
    return torch.tensor([[-w, -h, w, h] for w, h in corners])
