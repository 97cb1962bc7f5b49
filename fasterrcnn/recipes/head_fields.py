"""The fields of a recipe's heads: region proposal network and box head. See `fields`."""

from __future__ import annotations

from dataclasses import dataclass

from fasterrcnn.settings import setting


@dataclass(frozen=True)
class RPN:
    """Region proposal network: anchors, their matching to gt boxes, loss and proposals."""

    anchor_sizes: tuple[float, ...] = setting(
        (32, 64, 128, 256, 512),
        "anchor sizes, one per feature level, or as many for each, level by level (px)",
        above=0,
        filled=True,
    )
    all_sizes_per_level: bool = setting(False, "place anchors of all sizes on every level")
    aspect_ratios: tuple[float, ...] = setting(
        (0.5, 1.0, 2.0), "aspect ratios of anchors (height / width)", above=0, filled=True
    )
    round_anchors: bool = setting(True, "round base anchors to whole pixels")
    anchor_strides: str = setting(
        "grid",
        "distance between anchors: grid (padded image size // feature map size: 61 px on some P6) "
        "or fixed (the level's stride: 4 to 64 px)",
        choices=("grid", "fixed"),
    )
    conv_depth: int = setting(1, "number of 3x3 convolutions in the RPN head", least=1)
    pre_nms_top_n_train: int = setting(
        2000, "proposals kept per level before NMS, in training", least=1
    )
    pre_nms_top_n_test: int = setting(
        1000, "proposals kept per level before NMS, in evaluation", least=1
    )
    post_nms_top_n_train: int = setting(
        2000, "proposals kept per image after NMS, in training", least=1
    )
    post_nms_top_n_test: int = setting(
        1000, "proposals kept per image after NMS, in evaluation", least=1
    )
    topk_by: str = setting(
        "logits",
        "value that ranks proposals in the top-k before NMS: logits, or scores (after sigmoid)",
        choices=("logits", "scores"),
    )
    clamp: str = setting(
        "max",
        "bounds of decoded dw and dh: max (upper bound only) or both (upper and lower)",
        choices=("max", "both"),
    )
    score_thresh: float = setting(0.0, "minimum objectness score of a proposal", least=0, most=1)
    min_side: float = setting(1e-3, "minimum width and height of a proposal (px)", least=0)
    nms_thresh: float = setting(0.7, "IoU threshold of NMS", least=0, most=1)
    fg_iou_thresh: float = setting(
        0.7, "minimum IoU with a gt box of a positive anchor", least=0, most=1
    )
    bg_iou_thresh: float = setting(
        0.3, "IoU with every gt box below which an anchor is negative", least=0, most=1
    )
    low_quality_iou: float = setting(
        0.0, "minimum IoU at which the best anchors of a gt box are positive too", least=0, most=1
    )
    low_quality_gt: str = setting(
        "own",
        "regression target of such an anchor: the gt box it overlaps most (own), or the one whose "
        "best anchor it is (best)",
        choices=("own", "best"),
    )
    padding_anchors: bool = setting(True, "sample anchors in the padding as negatives")
    border_anchors: bool = setting(True, "sample anchors that cross the image border")
    edge_anchors: bool = setting(
        True, "without border-anchors, sample those that end on the right or lower border"
    )
    beta: float = setting(
        1 / 9, "smooth L1: error at which the loss turns from quadratic to linear; 0: L1", least=0
    )
    normalizer: str = setting(
        "sampled",
        "divisor of the losses: the number of sampled anchors, or batch-size-per-image x images",
        choices=("sampled", "batch-size"),
    )
    batch_size_per_image: int = setting(256, "anchors sampled per image for the loss", least=1)
    positive_fraction: float = setting(
        0.5, "maximum fraction of positives among sampled anchors", least=0, most=1
    )


@dataclass(frozen=True)
class RoIHeads:
    """Box head: RoI pooling, classification and box regression of proposals, and detections."""

    head: str = setting(
        "2fc",
        "2fc: two fully connected layers; 4conv1fc: four 3x3 convolutions with norms and one "
        "fully connected layer; res5: the last stage of the body (C4)",
        choices=("2fc", "4conv1fc", "res5"),
    )
    head_norm: str = setting(
        "batch", "norm of the convolutions of 4conv1fc", choices=("batch", "group")
    )
    representation_size: int = setting(1024, "width of the fully connected layers", least=1)
    dropout: float = setting(
        0.0, "dropout probability after each fully connected layer", least=0, below=1
    )
    pooling: str = setting(
        "align",
        "align: RoIAlign; pool: RoIPool (maximum over whole cells)",
        choices=("align", "pool"),
    )
    pool_size: int = setting(7, "output height and width of RoIAlign or RoIPool (bins)", least=1)
    sampling_ratio: int = setting(
        2, "RoIAlign samples per bin and axis; 0: one per feature cell of the bin", least=0
    )
    aligned: bool = setting(
        False, "RoIAlign shifts RoIs by half a cell and does not enlarge those below one cell"
    )
    level_map: str = setting(
        "torchvision",
        "framework whose rounding assigns RoIs to FPN levels (they place the epsilon differently)",
        choices=("torchvision", "detectron2", "mmdetection"),
    )
    stages: int = setting(
        1,
        "box heads, each of which refines the boxes of the one before (Cascade R-CNN)",
        least=1,
        most=8,
    )
    stage_iou_thresh: tuple[float, ...] = setting(
        (0.5, 0.6, 0.7),
        "of each stage of a cascade, in place of fg-iou-thresh and bg-iou-thresh",
        least=0,
        most=1,
    )
    stage_reg_weights: tuple[float, ...] = setting(
        (10.0, 10.0, 5.0, 5.0, 20.0, 20.0, 10.0, 10.0, 30.0, 30.0, 15.0, 15.0),
        "four of each stage of a cascade, in place of bbox-reg-weights",
        above=0,
    )
    stage_loss_weights: tuple[float, ...] = setting(
        (1.0, 1.0, 1.0), "factor of the losses of each stage of a cascade", least=0
    )
    stage_average: str = setting(
        "scores",
        "what is averaged over the stages of a cascade: scores (after softmax; Detectron2) or "
        "logits (MMDetection)",
        choices=("scores", "logits"),
    )
    stage_sampling: str = setting(
        "first",
        "stages of a cascade that sample rois: first (later ones train on all rois of the one "
        "before; Detectron2) or each, together with the gt boxes (MMDetection)",
        choices=("first", "each"),
    )
    stage_gradients: str = setting(
        "mean",
        "gradient of the pooled features from the stages of a cascade: mean (Detectron2) or sum "
        "(MMDetection)",
        choices=("mean", "sum"),
    )
    class_agnostic: bool = setting(
        False, "regress the boxes of all classes alike, as a cascade always does"
    )
    fg_iou_thresh: float = setting(
        0.5, "minimum IoU with a gt box of a positive proposal", least=0, most=1
    )
    bg_iou_thresh: float = setting(
        0.5, "IoU with every gt box below which it is background", least=0, most=1
    )
    batch_size_per_image: int = setting(512, "proposals sampled per image for the loss", least=1)
    positive_fraction: float = setting(
        0.25, "maximum fraction of positives among sampled proposals", least=0, most=1
    )
    sampler: str = setting(
        "random",
        "which proposals are sampled: random ones, or those of the largest classification loss "
        "(ohem: online hard example mining)",
        choices=("random", "ohem"),
    )
    bbox_reg_weights: tuple[float, ...] = setting(
        (10.0, 10.0, 5.0, 5.0), "weights of the regression targets dx, dy, dw, dh", above=0, count=4
    )
    clamp: str = setting(
        "max",
        "bounds of decoded dw and dh: max (upper bound only) or both (upper and lower)",
        choices=("max", "both"),
    )
    beta: float = setting(
        1 / 9, "smooth L1: error at which the loss turns from quadratic to linear; 0: L1", least=0
    )
    box_loss: str = setting(
        "smooth_l1",
        "loss of the boxes: smooth_l1 of their deltas, or of the decoded boxes iou (-log of the "
        "IoU), giou or bounded_iou",
        choices=("smooth_l1", "iou", "giou", "bounded_iou"),
    )
    box_loss_weight: float = setting(1.0, "factor of the loss of the boxes", least=0)
    score_thresh: float = setting(0.05, "minimum score of a detection", least=0, most=1)
    min_side: float = setting(1e-2, "minimum width and height of a detection (px)", least=0)
    nms_thresh: float = setting(0.5, "IoU threshold of NMS, per class", least=0, most=1)
    soft_nms: str = setting(
        "none",
        "soft-NMS in place of NMS: boxes that overlap a better one lose score, linear (from "
        "nms-thresh on) or gaussian (with any overlap)",
        choices=("none", "linear", "gaussian"),
    )
    soft_nms_sigma: float = setting(
        0.5, "of soft-NMS gaussian: scores are multiplied by exp(-IoU^2 / sigma)", above=0
    )
    drop_empty: bool = setting(False, "drop detections without area after NMS")
    detections_per_img: int = setting(100, "maximum number of detections per image", least=1)

    @property
    def agnostic(self) -> bool:
        """Whether there is one box per roi for all classes."""
        return self.class_agnostic or self.stages > 1
