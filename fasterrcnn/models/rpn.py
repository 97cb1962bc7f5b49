"""Region proposal network on padded batches: torchvision's parameters and mathematics.

Life of a batch, step 5. The head runs in the precision of autocast, all box mathematics in float32:
in bf16 anchors would be off by up to 7 px. Shapes: N images, L levels, A anchors of all levels, G
ground-truth boxes (padded, label 0), S sampled anchors, P proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead

from fasterrcnn import recipes
from fasterrcnn.models import boxes
from fasterrcnn.models.nms import nms_lists
from fasterrcnn.models.transform import Padded

_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
_MOST_SHAPES = 64  # whose anchors are kept (4 MB each at 800 x 1333 px)
_LEAST_SIDE = 1e-3  # px; smaller proposals are dropped, as torchvision does


class RegionProposalNetwork(nn.Module):
    """Proposals from features, and the two losses."""

    def __init__(self, recipe: recipes.RPN, channels: int) -> None:
        super().__init__()
        self.recipe = recipe
        sizes = tuple((size,) for size in recipe.anchor_sizes)
        self.anchor_generator = AnchorGenerator(sizes, (recipe.aspect_ratios,) * len(sizes))
        self.head = RPNHead(channels, len(recipe.aspect_ratios))
        self._anchors: dict[tuple, Tensor] = {}

    def proposals(
        self, images: Padded, features: list[Tensor], *, training: bool
    ) -> tuple[Tensor, Tensor]:
        """Proposals ``(N, P, 4)``, px of the padded input, best first; which are real ``(N, P)``.

        `training` chooses how many. Without a graph: the losses make their own (`sparse_head`).
        """
        recipe = self.recipe
        before, after = (
            (recipe.pre_nms_top_n_train, recipe.post_nms_top_n_train)
            if training
            else (recipe.pre_nms_top_n_test, recipe.post_nms_top_n_test)
        )
        with torch.no_grad():
            objectness, deltas = self.dense_head(features)
            anchors = self.anchors(images.pixels, features)
            return self.select(objectness, deltas, anchors, images.sizes, before, after)

    def anchors(self, pixels: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Per level float32 ``(A_l, 4)``, in the order cell by cell; made once per shape."""
        shapes = tuple(tuple(f.shape[2:]) for f in features)
        key = (pixels.shape[2:], shapes, pixels.device)
        if key not in self._anchors:
            if len(self._anchors) == _MOST_SHAPES:
                self._anchors.clear()
            generator, device = self.anchor_generator, pixels.device
            generator.set_cell_anchors(torch.float32, device)
            height, width = pixels.shape[2:]
            strides = [
                [torch.tensor(height // h, device=device), torch.tensor(width // w, device=device)]
                for h, w in shapes
            ]
            self._anchors[key] = generator.grid_anchors([list(s) for s in shapes], strides)
        return self._anchors[key]

    def dense_head(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness ``(N, A_l)`` and deltas ``(N, A_l, 4)`` of every level, float32."""
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
    ) -> tuple[Tensor, Tensor]:
        """The best `before` of each level, decoded; after NMS per image and level, the best
        `after` of all levels."""
        most = min(before, max(o.shape[1] for o in objectness))
        scores, found = [], []
        for logits, delta, anchor in zip(objectness, deltas, anchors, strict=True):
            score, index = logits.topk(min(most, logits.shape[1]), dim=1)
            box = boxes.decode(boxes.take(delta, index), boxes.take(anchor[None], index), _WEIGHTS)
            missing = most - index.shape[1]
            scores.append(functional.pad(score, (0, missing), value=-torch.inf))
            found.append(functional.pad(box, (0, 0, 0, missing)))
        n, levels = len(sizes), len(scores)
        score, box = torch.stack(scores, dim=1), torch.stack(found, dim=1)  # (N, L, most [, 4])
        box = boxes.clip(box, sizes)
        real = ((box[..., 2:] - box[..., :2]) >= _LEAST_SIDE).all(dim=-1) & (score > -torch.inf)
        keep = nms_lists(
            box.view(n * levels, most, 4),
            torch.zeros(n * levels, most, dtype=torch.int64, device=box.device),
            real.view(n * levels, most),
            self.recipe.nms_thresh,
        ).view_as(real)
        score = score.masked_fill(~keep, -torch.inf).flatten(1)
        score, index = score.topk(min(after, score.shape[1]), dim=1)
        return boxes.take(box.flatten(1, 2), index), score > -torch.inf

    def losses(self, images: Padded, features: list[Tensor]) -> dict[str, Tensor]:
        """`loss_objectness` and `loss_rpn_box_reg` of a random sample of anchors per image."""
        recipe, truth = self.recipe, images.boxes
        anchors = torch.cat(self.anchors(images.pixels, features))[None]
        label, best = boxes.match(
            boxes.iou(truth, anchors),
            images.labels > 0,
            foreground=recipe.fg_iou_thresh,
            background=recipe.bg_iou_thresh,
            low_quality=True,
        )
        index, positive, valid = boxes.sample(
            label, recipe.batch_size_per_image, recipe.positive_fraction
        )
        objectness, deltas = self.sparse_head(features, index)
        anchor = boxes.take(anchors, index)
        target = boxes.encode(boxes.take(truth, best.gather(1, index)), anchor, _WEIGHTS)
        target = torch.where(positive[..., None], target, 0.0)
        entropy = functional.binary_cross_entropy_with_logits(
            objectness, positive.float(), reduction="none"
        )
        distance = functional.smooth_l1_loss(deltas, target, beta=1 / 9, reduction="none").sum(-1)
        count = valid.sum().clamp(min=1)
        self.diagnostics = {"rpn_positives": positive.sum() / len(positive)}
        return {
            "loss_objectness": (entropy * valid).sum() / count,
            "loss_rpn_box_reg": (distance * positive).sum() / count,
        }

    def sparse_head(self, features: list[Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
        """Objectness ``(N, S)`` and deltas ``(N, S, 4)`` of the anchors `index` ``(N, S)`` alone.

        The same function of the same weights as `dense_head`, from 3 x 3 patches of features: the
        gradient is the same for a fraction of the work.
        """
        patches = gather_patches(features, index // self.head.cls_logits.out_channels)
        conv = self.head.conv[0][0]
        hidden = functional.linear(
            patches, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias
        ).relu()
        n, s = index.shape
        pick = (index % self.head.cls_logits.out_channels)[:, :, None]
        objectness, deltas = (
            functional.linear(hidden, layer.weight.flatten(1), layer.bias).float()
            for layer in (self.head.cls_logits, self.head.bbox_pred)
        )
        deltas = deltas.view(n, s, -1, 4).gather(2, pick[..., None].expand(n, s, 1, 4))
        return objectness.gather(2, pick).squeeze(2), deltas.squeeze(2)


def gather_patches(features: list[Tensor], cell: Tensor) -> Tensor:
    """3 x 3 patches ``(N, S, 9 * C)`` around cells ``(N, S)`` counted over all levels.

    Zero outside the level, as the padding of a convolution.
    """
    n = len(features[0])
    table = torch.cat([f.permute(0, 2, 3, 1).flatten(1, 2) for f in features], dim=1)
    start, height, width = (torch.zeros_like(cell) for _ in range(3))
    first = 0
    for feature in features:
        h, w = feature.shape[2:]
        here = cell >= first
        start, height, width = (
            x.masked_fill(here, v) for x, v in ((start, first), (height, h), (width, w))
        )
        first += h * w
    step = torch.arange(-1, 2, device=cell.device)
    y = ((cell - start) // width)[:, :, None, None] + step[:, None]
    x = ((cell - start) % width)[:, :, None, None] + step
    inside = (y >= 0) & (y < height[:, :, None, None]) & (x >= 0) & (x < width[:, :, None, None])
    row = start[:, :, None, None] + y * width[:, :, None, None] + x
    image = torch.arange(n, device=cell.device)[:, None] * first
    row = torch.where(inside, row, 0).flatten(2) + image[:, :, None]  # (N, S, 9)
    patches = functional.embedding(row, table.flatten(0, 1))
    return (patches * inside.flatten(2)[..., None]).flatten(2)
