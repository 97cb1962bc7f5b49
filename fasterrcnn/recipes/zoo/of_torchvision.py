"""torchvision's network: on the field's schedule, and as torchvision trains it."""

from __future__ import annotations

from fasterrcnn.recipes.changes import change
from fasterrcnn.recipes.fields import Recipe
from fasterrcnn.recipes.zoo.entry import Entry, Published


def fasterrcnn_r50_fpn_1x() -> Recipe:
    """torchvision's `fasterrcnn_resnet50_fpn`, on the field's schedule "1x"."""
    return Recipe(name="fasterrcnn_r50_fpn_1x")


def cascade_rcnn_r50_fpn_1x() -> Recipe:
    """The same with three box heads in a cascade, as Detectron2 trains them."""
    return change(fasterrcnn_r50_fpn_1x(), name="cascade_rcnn_r50_fpn_1x", roi_heads=dict(stages=3))


def fasterrcnn_r50_fpn_torchvision() -> Recipe:
    """torchvision's reference run."""
    return change(
        fasterrcnn_r50_fpn_1x(),
        name="fasterrcnn_r50_fpn_torchvision",
        schedule=dict(epochs=26.0, milestones=(16.0, 22.0), warmup_steps=1000),
    )


def fasterrcnn_r50_fpn_v2_torchvision() -> Recipe:
    """torchvision's `fasterrcnn_resnet50_fpn_v2`: trained norms everywhere, deeper heads, and
    large-scale jitter (``--data-augmentation lsj`` in the command of the pull request)."""
    return change(
        fasterrcnn_r50_fpn_torchvision(),
        name="fasterrcnn_r50_fpn_v2_torchvision",
        augment=dict(jitter=True),
        backbone=dict(norm="batch", trainable_layers=5, fpn_norm="batch"),
        rpn=dict(conv_depth=2),
        roi_heads=dict(head="4conv1fc"),
        schedule=dict(
            epochs=400.0,
            milestones=(352.0, 384.0),
            lr=0.1,
            weight_decay=4e-5,
            images_per_step=64,
        ),
    )


def fasterrcnn_mobilenet_v3_large_fpn_torchvision() -> Recipe:
    """torchvision's `fasterrcnn_mobilenet_v3_large_fpn`: two levels of stride 32 and one of 64."""
    return change(
        fasterrcnn_r50_fpn_torchvision(),
        name="fasterrcnn_mobilenet_v3_large_fpn_torchvision",
        backbone=dict(name="mobilenet_v3_large"),
        rpn=dict(all_sizes_per_level=True, score_thresh=0.05),
    )


def fasterrcnn_mobilenet_v3_large_320_fpn_torchvision() -> Recipe:
    """The same at 320 px."""
    return change(
        fasterrcnn_mobilenet_v3_large_fpn_torchvision(),
        name="fasterrcnn_mobilenet_v3_large_320_fpn_torchvision",
        input=dict(min_size=320, max_size=640),
        rpn=dict(pre_nms_top_n_test=150, post_nms_top_n_test=150),
    )


_REFERENCES = "pytorch/vision references/detection/README.md"

ENTRIES = (
    Entry(
        fasterrcnn_r50_fpn_1x,
        what="Faster R-CNN, R-50-FPN as torchvision's, COCO, 12 epochs",
        schedule="1x",
        source="network torchvision's fasterrcnn_resnet50_fpn; schedule MMDetection 3.3 "
        "configs/_base_/schedules/schedule_1x.py",
        published=Published(37.4, by="MMDetection with this schedule, 8 V100", memory_gb=4.0),
    ),
    Entry(
        cascade_rcnn_r50_fpn_1x,
        what="Cascade R-CNN, R-50-FPN as torchvision's, COCO, 12 epochs",
        schedule="1x",
        source="arXiv 1712.00726; network and losses Detectron2 0.6 "
        "configs/Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml without masks",
        published=Published(40.3, by="MMDetection with this schedule, 8 V100", memory_gb=4.4),
    ),
    Entry(
        fasterrcnn_r50_fpn_torchvision,
        what="Faster R-CNN, R-50-FPN, COCO, torchvision's reference run of 26 epochs",
        schedule="26 epochs",
        source=_REFERENCES,
        framework="torchvision",
        theirs="fasterrcnn_resnet50_fpn",
        published=Published(
            37.0,
            by="torchvision, 8 V100, FasterRCNN_ResNet50_FPN_Weights.COCO_V1",
            memory_gb=5.2,
        ),
    ),
    Entry(
        fasterrcnn_r50_fpn_v2_torchvision,
        what="Faster R-CNN, R-50-FPN with trained norms and deeper heads, COCO, 400 epochs, "
        "large-scale jitter",
        schedule="400 epochs",
        source="pytorch/vision pull request 5763",
        framework="torchvision",
        theirs="fasterrcnn_resnet50_fpn_v2",
        published=Published(46.7, by="torchvision, 32 GPUs"),
    ),
    Entry(
        fasterrcnn_mobilenet_v3_large_fpn_torchvision,
        what="Faster R-CNN, MobileNetV3-Large FPN, COCO, 26 epochs",
        schedule="26 epochs",
        source=_REFERENCES,
        framework="torchvision",
        theirs="fasterrcnn_mobilenet_v3_large_fpn",
        published=Published(32.8, by="torchvision, 8 V100"),
    ),
    Entry(
        fasterrcnn_mobilenet_v3_large_320_fpn_torchvision,
        what="Faster R-CNN, MobileNetV3-Large FPN at 320 px, COCO, 26 epochs",
        schedule="26 epochs",
        source=_REFERENCES,
        framework="torchvision",
        theirs="fasterrcnn_mobilenet_v3_large_320_fpn",
        published=Published(22.8, by="torchvision, 8 V100"),
    ),
)
