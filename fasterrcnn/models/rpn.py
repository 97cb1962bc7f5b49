"""Region proposal network on padded batches: torchvision's parameters and mathematics.

Life of a batch, step 5. The head runs in the precision of autocast, all box mathematics in float32:
in bf16 anchors would be off by up to 7 px. Shapes: N images, L levels, A anchors of all levels, G
ground-truth boxes (padded, label 0), S sampled anchors, P proposals.
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
from fasterrcnn.models.cpu import fast_layers
from fasterrcnn.models.nms import nms_lists
from fasterrcnn.models.sparse import Pyramid, Shapes, UnfinishedPyramid, as_matrix
from fasterrcnn.models.transform import Padded

_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
_MOST_SHAPES = 64  # whose anchors are kept (4 MB each at 800 x 1333 px)


class RegionProposalNetwork(nn.Module):
    """Proposals from features, and the two losses. `strides` are those of the features."""

    def __init__(self, recipe: recipes.RPN, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.recipe = recipe
        self.strides = strides
        sizes = tuple((size,) for size in recipe.anchor_sizes)
        if recipe.all_sizes_per_level:
            sizes = (recipe.anchor_sizes,) * len(strides)
        if len(sizes) != len(strides):
            raise UsageError(
                f"--rpn.anchor-sizes: {len(sizes)} given, this backbone has {len(strides)} levels"
            )
        self.anchor_generator = AnchorGenerator(sizes, (recipe.aspect_ratios,) * len(sizes))
        if not recipe.round_anchors:
            self.anchor_generator.cell_anchors = [
                _cell_anchors(level, recipe.aspect_ratios) for level in sizes
            ]
        per_cell = len(sizes[0]) * len(recipe.aspect_ratios)
        self.head = RPNHead(channels, per_cell, recipe.conv_depth)
        self._anchors: dict[tuple, list[Tensor]] = {}

    def proposals(self, images: Padded, features: list[Tensor], *, training: bool) -> Proposals:
        """The best after NMS; `training` chooses how many.

        Without a graph: the losses make their own (`sparse_head`).
        """
        recipe = self.recipe
        before, after = (
            (recipe.pre_nms_top_n_train, recipe.post_nms_top_n_train)
            if training
            else (recipe.pre_nms_top_n_test, recipe.post_nms_top_n_test)
        )
        with torch.no_grad():
            objectness, deltas = self.dense_head(features)
            anchors = self.anchors(images.pixels, Pyramid(features).shapes)
            return self.select(objectness, deltas, anchors, images.sizes, before, after)

    def detect(self, images: Padded, features: list[Tensor]) -> boxes.Detections:
        """Proposals as the result: px of the images as given, scores 0..1, every label 1."""
        found = self.proposals(images, features, training=False)
        box = boxes.rescale(found.boxes, images.originals / images.sizes)
        return boxes.Detections(box, found.scores, found.real.long())

    def anchors(self, pixels: Tensor, shapes: Shapes) -> list[Tensor]:
        """Per level float32 ``(A_l, 4)``, in the order cell by cell; made once per shape."""
        return self._anchors_of(tuple(pixels.shape[2:]), shapes, pixels.device)

    @torch.compiler.assume_constant_result
    def _anchors_of(
        self, size: tuple[int, int], shapes: Shapes, device: torch.device
    ) -> list[Tensor]:
        key = (size, shapes, device)
        if key not in self._anchors:
            if len(self._anchors) == _MOST_SHAPES:
                self._anchors.clear()
            generator = self.anchor_generator
            generator.set_cell_anchors(torch.float32, device)
            strides = [(s, s) for s in self.strides]
            if self.recipe.anchor_strides == "grid":
                strides = [(size[0] // h, size[1] // w) for h, w in shapes]
            on_device = [[torch.tensor(s, device=device) for s in pair] for pair in strides]
            self._anchors[key] = generator.grid_anchors([list(s) for s in shapes], on_device)
        return self._anchors[key]

    def dense_head(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness ``(N, A_l)`` and deltas ``(N, A_l, 4)`` of every level, float32."""
        with fast_layers(features[0].device):
            objectness, deltas = self.head(features)
        return (
            [o.permute(0, 2, 3, 1).flatten(1).float() for o in objectness],
            [d.permute(0, 2, 3, 1).reshape(len(d), -1, 4).float() for d in deltas],
        )

    def select(
        self,
        objectness: list[Tensor],
        deltas: list[Tensor],
        anchors: list[Tensor],
        sizes: Tensor,
        before: int,
        after: int,
    ) -> Proposals:
        """The best `before` of each level, decoded; after NMS per image and level, the best
        `after` of all levels."""
        recipe = self.recipe
        if recipe.rank == "scores":
            objectness = [o.sigmoid() for o in objectness]
        most = min(before, max(o.shape[1] for o in objectness))
        scores, found = [], []
        for logits, delta, anchor in zip(objectness, deltas, anchors, strict=True):
            score, index = logits.topk(min(most, logits.shape[1]), dim=1)
            box = boxes.decode(
                boxes.take(delta, index), boxes.take(anchor[None], index), _WEIGHTS, recipe.clamp
            )
            missing = most - index.shape[1]
            scores.append(functional.pad(score, (0, missing), value=-torch.inf))
            found.append(functional.pad(box, (0, 0, 0, missing)))
        n, levels = len(sizes), len(scores)
        score, box = torch.stack(scores, dim=1), torch.stack(found, dim=1)  # (N, L, most [, 4])
        box = boxes.clip(box, sizes)
        real = boxes.has_area(box) & boxes.at_least(box, recipe.min_side)
        real &= score >= self._least_score()
        keep = nms_lists(
            box.view(n * levels, most, 4),
            torch.zeros(n * levels, most, dtype=torch.int64, device=box.device),
            real.view(n * levels, most),
            recipe.nms_thresh,
        ).view_as(real)
        score = score.masked_fill(~keep, -torch.inf).flatten(1)
        score, index = score.topk(min(after, score.shape[1]), dim=1)
        box, real = boxes.take(box.flatten(1, 2), index), score > -torch.inf
        return Proposals(box, real, score.sigmoid() if recipe.rank == "logits" else score)

    def _least_score(self) -> float:
        """The score threshold as `select` compares it; padding scores -inf and stays below."""
        least = self.recipe.score_thresh
        if self.recipe.rank == "scores":
            return least
        return math.log(least / (1 - least)) if least > 0 else -sys.float_info.max

    def losses(self, images: Padded, pyramid: Pyramid | UnfinishedPyramid) -> dict[str, Tensor]:
        """`loss_objectness` and `loss_rpn_box_reg` of a random sample of anchors per image."""
        recipe, truth = self.recipe, images.boxes
        anchors = torch.cat(self.anchors(images.pixels, pyramid.shapes))[None]
        index, best, positive, valid = self.sample(images, pyramid.shapes, anchors)
        if recipe.conv_depth == 1:
            with fast_layers(index.device):
                objectness, deltas = self.sparse_head(pyramid, index)
        else:
            dense = [torch.cat(levels, dim=1) for levels in self.dense_head(pyramid.levels)]
            objectness = dense[0].gather(1, index)
            deltas = boxes.take(dense[1], index)
        target = boxes.encode(boxes.take(truth, best), boxes.take(anchors, index), _WEIGHTS)
        target = torch.where(positive[..., None], target, 0.0)
        entropy = functional.binary_cross_entropy_with_logits(
            objectness, positive.float(), reduction="none"
        )
        distance = functional.smooth_l1_loss(deltas, target, beta=recipe.beta, reduction="none")
        if recipe.normalizer == "sampled":
            count = valid.sum().clamp(min=1)
        else:
            count = recipe.batch_size_per_image * len(valid)
        self.diagnostics = {"rpn_positives": positive.sum() / len(positive)}
        return {
            "loss_objectness": (entropy * valid).sum() / count,
            "loss_rpn_box_reg": (distance.sum(-1) * positive).sum() / count,
        }

    @torch.no_grad()
    def sample(
        self, images: Padded, shapes: Shapes, anchors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Anchors sampled for the losses, all ``(N, S)``: index, truth, positive, not empty."""
        recipe = self.recipe
        quality = boxes.iou(images.boxes, anchors)
        usable = self._usable(images, shapes, anchors)
        if usable is not None:
            quality = quality.masked_fill(~usable[:, None], -1.0)
        label, best = boxes.match(
            quality,
            images.labels > 0,
            foreground=recipe.fg_iou_thresh,
            background=recipe.bg_iou_thresh,
            low_quality=boxes.LowQuality(recipe.low_quality_iou, recipe.low_quality_truth),
        )
        if usable is not None:
            label = label.masked_fill(~usable, -1)
        index, positive, valid = boxes.sample(
            label, recipe.batch_size_per_image, recipe.positive_fraction
        )
        return index, best.gather(1, index), positive, valid

    def _usable(self, images: Padded, shapes: Shapes, anchors: Tensor) -> Tensor | None:
        """bool ``(N, A)``: anchors that may be sampled; None: all."""
        if not self.recipe.border_anchors:
            beyond = boxes.clip(anchors.expand(len(images.sizes), -1, -1), images.sizes) != anchors
            return ~beyond.any(dim=-1)
        return None if self.recipe.padding_anchors else self._inside(images, shapes)

    def _inside(self, images: Padded, shapes: Shapes) -> Tensor:
        """bool ``(N, A)``: anchors of cells inside the image's own size, padded to 32."""
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
        """Objectness ``(N, S)`` and deltas ``(N, S, 4)`` of the anchors `index` ``(N, S)`` alone.

        The same function of the same weights as `dense_head`, from 3 x 3 patches of features: the
        gradient is the same for a fraction of the work.
        """
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


def _cell_anchors(sizes: tuple[int, ...], ratios: tuple[float, ...]) -> Tensor:
    """float32 ``(R * S, 4)`` around 0, unrounded; ratio by ratio, as torchvision orders them."""
    corners = [
        (size / math.sqrt(ratio) / 2, size * math.sqrt(ratio) / 2)
        for ratio in ratios
        for size in sizes
    ]
    return torch.tensor([[-w, -h, w, h] for w, h in corners])
