"""The recipes by name, each with its source and what its authors publish.

A recipe is a function, or a row of a table that changes its parent. Published numbers are quoted,
never measured here; what was measured here stands beside them.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass

from fasterrcnn.errors import UsageError
from fasterrcnn.recipes.changes import as_text, change, difference
from fasterrcnn.recipes.conventions import C4, CAFFE_STYLE, DETECTRON2, MMDETECTION, X101_32X8D
from fasterrcnn.recipes.fields import RPN, Backbone, Data, Input, Recipe, RoIHeads, Schedule


@dataclass(frozen=True)
class Published:
    """What the authors report, in percent, GB of one GPU and images per second at batch 1."""

    value: float | None  # box AP; AR_1000 of an RPN
    by: str
    memory_gb: float | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Entry:
    """A recipe of the zoo and its label."""

    make: Callable[[], Recipe]
    what: str  # network, data, length
    schedule: str  # as its source calls it: 1x, ms-3x
    source: str
    published: Published | None = None
    measured: str = "not yet measured"

    @property
    def style(self) -> str:
        """Where the body's stages stride: caffe or pytorch."""
        return "caffe" if self.make().backbone.stride_in_1x1 else "pytorch"

    @property
    def metric(self) -> str:
        """What `Published.value` is."""
        return "AR_1000" if self.make().detector == "rpn" else "box AP"

    def label(self) -> str:
        """A line each: what it is and whose, what is published, what was measured here."""
        return (
            f"{self.what}\nSource: {self.source}.\n"
            f"Published: {self._quoted()}\nHere: {self.measured}."
        )

    def _quoted(self) -> str:
        p = self.published
        if p is None or p.value is None:
            return "nothing." if p is None else f"no number ({p.by})."
        memory = f", {p.memory_gb:g} GB" if p.memory_gb else ""
        fps = f", {p.fps:g} images/s at batch 1" if p.fps else ""
        return f"{self.metric} {p.value:g} ({p.by}{memory}{fps})."


# The main job and the demo.


def fasterrcnn_r50_fpn_1x() -> Recipe:
    """torchvision's `fasterrcnn_resnet50_fpn`, on the field's schedule "1x"."""
    return Recipe(name="fasterrcnn_r50_fpn_1x")


def fasterrcnn_r10_fpn_shapes() -> Recipe:
    """The structure of `fasterrcnn_r50_fpn_1x` with one residual block per stage, trained batch
    norm, narrower pyramid and head, and sizes in proportion to images of 160 px."""
    return Recipe(
        name="fasterrcnn_r10_fpn_shapes",
        weights="none",
        input=Input(min_size=128, max_size=160),
        backbone=Backbone(name="resnet10", norm="batch", trainable_layers=5, fpn_channels=64),
        rpn=RPN(
            anchor_sizes=(12, 24, 48, 96, 128),
            pre_nms_top_n_train=300,
            pre_nms_top_n_test=200,
            post_nms_top_n_train=200,
            post_nms_top_n_test=100,
            batch_size_per_image=64,
        ),
        roi_heads=RoIHeads(
            representation_size=256,
            sampling_ratio=1,
            batch_size_per_image=48,
            positive_fraction=0.5,
        ),
        data=Data(keep_empty=True),
        schedule=Schedule(
            epochs=4.25,
            milestones=(3.5, 4.0),
            lr=0.02,
            warmup_steps=50,
            images_per_step=4,
            images_per_gpu=4,
            clip_grad_norm=10.0,
        ),
    )


def rpn_r10_fpn_shapes() -> Recipe:
    """The demo's region proposal network alone."""
    return change(
        fasterrcnn_r10_fpn_shapes(),
        name="rpn_r10_fpn_shapes",
        detector="rpn",
        rpn=dict(pre_nms_top_n_test=1000, post_nms_top_n_test=1000, batch_size_per_image=128),
        schedule=dict(epochs=10.0, milestones=(8.0, 9.5)),
    )


def fast_rcnn_r10_fpn_shapes() -> Recipe:
    """The demo's box head on stored proposals."""
    return change(
        fasterrcnn_r10_fpn_shapes(), name="fast_rcnn_r10_fpn_shapes", detector="fast_rcnn"
    )


# The paper: Ren, He, Girshick, Sun, "Faster R-CNN", arXiv 1506.01497v3, and its code,
# rbgirshick/py-faster-rcnn: `models/VGG16`, `lib/fast_rcnn/config.py`, `experiments/cfgs`. Where
# they differ, the code (RPN losses are both divided by the anchors sampled).

_VOC07_IMAGES = 5011  # of VOC 2007 trainval


def fasterrcnn_vgg16_voc() -> Recipe:
    """VGG-16 on VOC 2007, end to end: 70,000 steps of two images."""
    return Recipe(
        name="fasterrcnn_vgg16_voc",
        input=Input(min_size=600, max_size=1000, rounding="nearest", size_divisible=1),
        backbone=Backbone(name="vgg16", neck="none", trainable_layers=3),
        rpn=RPN(
            anchor_sizes=(128, 256, 512),
            all_sizes_per_level=True,
            anchor_strides="fixed",
            border_anchors=False,
            pre_nms_top_n_train=12000,
            pre_nms_top_n_test=6000,
            post_nms_top_n_train=2000,
            post_nms_top_n_test=300,
            min_side=16.0,
        ),
        roi_heads=RoIHeads(
            representation_size=4096,
            dropout=0.5,
            pooling="pool",
            batch_size_per_image=128,
            beta=1.0,
            nms_thresh=0.3,
        ),
        data=Data(train_split="2007_trainval"),
        schedule=Schedule(
            epochs=140_000 / _VOC07_IMAGES,
            milestones=(100_000 / _VOC07_IMAGES,),
            lr=0.001,
            bias_lr_factor=2.0,
            weight_decay=5e-4,
            warmup_steps=0,
            images_per_step=2,
            images_per_gpu=1,
        ),
    )


_ALTERNATING = dict(epochs=80_000 / _VOC07_IMAGES, milestones=(60_000 / _VOC07_IMAGES,))


def rpn_vgg16_voc() -> Recipe:
    """Steps 1 and 3 of alternating training: 80,000 steps of one image. Its training proposals are
    the best 2,000 after NMS of all anchors."""
    return change(
        fasterrcnn_vgg16_voc(),
        name="rpn_vgg16_voc",
        detector="rpn",
        rpn=dict(pre_nms_top_n_train=1_000_000),
        schedule=dict(images_per_step=1, **_ALTERNATING),
    )


def fast_rcnn_vgg16_voc() -> Recipe:
    """Steps 2 and 4 of alternating training: 40,000 steps of two images."""
    return change(
        fasterrcnn_vgg16_voc(),
        name="fast_rcnn_vgg16_voc",
        detector="fast_rcnn",
        roi_heads=dict(batch_size_per_image=64),  # 128 of both images together
        schedule=dict(images_per_gpu=2, **_ALTERNATING),
    )


def fasterrcnn_r50_fpn_voc() -> Recipe:
    """The main recipe's network on VOC 2007 and 2012."""
    return change(
        fasterrcnn_r50_fpn_1x(),
        name="fasterrcnn_r50_fpn_voc",
        input=dict(min_size=600, max_size=1000),
        data=dict(train_split="07+12"),
        schedule=dict(epochs=12.0, milestones=(9.0,), lr=0.01, warmup_steps=0),
    )


def rpn_r50_fpn_voc() -> Recipe:
    """Its region proposal network alone, for alternating training."""
    return change(fasterrcnn_r50_fpn_voc(), name="rpn_r50_fpn_voc", detector="rpn")


def fast_rcnn_r50_fpn_voc() -> Recipe:
    """Its box head on stored proposals, for alternating training."""
    return change(fasterrcnn_r50_fpn_voc(), name="fast_rcnn_r50_fpn_voc", detector="fast_rcnn")


# torchvision.


def fasterrcnn_r50_fpn_torchvision() -> Recipe:
    """torchvision's reference run."""
    return change(
        fasterrcnn_r50_fpn_1x(),
        name="fasterrcnn_r50_fpn_torchvision",
        schedule=dict(epochs=26.0, milestones=(16.0, 22.0), warmup_steps=1000),
    )


def fasterrcnn_r50_fpn_v2_torchvision() -> Recipe:
    """torchvision's `fasterrcnn_resnet50_fpn_v2`: trained norms everywhere, deeper heads."""
    return change(
        fasterrcnn_r50_fpn_torchvision(),
        name="fasterrcnn_r50_fpn_v2_torchvision",
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


# MMDetection and Detectron2: a network and a schedule each.

_X101_32X4D = dict(backbone=dict(name="resnext101_32x4d"))
_X101_64X4D = dict(backbone=dict(name="resnext101_64x4d"))
_R101 = dict(backbone=dict(name="resnet101"))
_RPN_ONLY = dict(detector="rpn")
_ONE = dict(schedule=dict(epochs=12.0, milestones=(8.0, 11.0)))
_TWO = dict(schedule=dict(epochs=24.0, milestones=(16.0, 22.0)))
_THREE = dict(schedule=dict(epochs=36.0, milestones=(27.0, 33.0)))
_SHORTS = (640, 672, 704, 736, 768, 800)
_MS_LIST = dict(input=dict(train_min_sizes=_SHORTS))
_MS_RANGE = dict(input=dict(train_min_sizes=(640, 800), train_sampling="range"))
# An RPN alone keeps more candidates for its evaluation than as the first half of a detector.
_MMDET_RPN = dict(_RPN_ONLY, rpn=dict(pre_nms_top_n_test=2000))
_MMDET_RPN_C4 = dict(rpn=dict(pre_nms_top_n_test=12000, post_nms_top_n_test=2000))
_D2_RPN = dict(_RPN_ONLY, rpn=dict(post_nms_top_n_test=2000))
_D2_RPN_C4 = dict(rpn=dict(pre_nms_top_n_test=12000))

# Detectron2 counts iterations. COCO's 117,266 images with boxes are 7330 steps of 16 per epoch.
_COCO_STEPS = 7330


def _iterations(total: int, *drops: int) -> dict:
    milestones = tuple(step / _COCO_STEPS for step in drops)
    return dict(schedule=dict(epochs=total / _COCO_STEPS, milestones=milestones))


_D2_ONE = _iterations(90_000, 60_000, 80_000)
_D2_THREE = _iterations(270_000, 210_000, 250_000)
_D2_C4 = dict(C4, input=dict(size_divisible=1))


def _combined(name: str, *parts: dict) -> Recipe:
    """The main recipe changed by each part in turn."""
    recipe = change(fasterrcnn_r50_fpn_1x(), name=name)
    for part in parts:
        recipe = change(recipe, **part)
    return recipe


def _rows(source: str, framework: dict, by: str, rows: list[tuple]) -> dict[str, Entry]:
    """Entries from rows: name, what, schedule's name, file, parts, and value, memory, fps."""
    entries = {}
    for name, what, schedule, file, parts, *numbers in rows:
        entries[name] = Entry(
            lambda name=name, parts=parts: _combined(name, framework, *parts),
            what,
            schedule,
            f"{source}{file}",
            Published(numbers[0], by, *numbers[1:]) if numbers else None,
        )
    return entries


_MMDET_ROWS = [
    # RPN: AR_1000, GB, fps of configs/rpn/README.md.
    ("rpn_r50_caffe_fpn_1x", "RPN, R-50-FPN (caffe), COCO, 12 epochs", "1x",
     "rpn/rpn_r50-caffe_fpn_1x_coco.py", (_MMDET_RPN, CAFFE_STYLE, _ONE), 58.7, 3.5, 22.6),
    ("rpn_r50_fpn_1x", "RPN, R-50-FPN, COCO, 12 epochs", "1x",
     "rpn/rpn_r50_fpn_1x_coco.py", (_MMDET_RPN, _ONE), 58.2, 3.8, 22.3),
    ("rpn_r50_fpn_2x", "RPN, R-50-FPN, COCO, 24 epochs", "2x",
     "rpn/rpn_r50_fpn_2x_coco.py", (_MMDET_RPN, _TWO), 58.6),
    ("rpn_r101_caffe_fpn_1x", "RPN, R-101-FPN (caffe), COCO, 12 epochs", "1x",
     "rpn/rpn_r101-caffe_fpn_1x_coco.py", (_MMDET_RPN, _R101, CAFFE_STYLE, _ONE), 60.0, 5.4, 17.3),
    ("rpn_r101_fpn_1x", "RPN, R-101-FPN, COCO, 12 epochs", "1x",
     "rpn/rpn_r101_fpn_1x_coco.py", (_MMDET_RPN, _R101, _ONE), 59.7, 5.8, 16.5),
    ("rpn_r101_fpn_2x", "RPN, R-101-FPN, COCO, 24 epochs", "2x",
     "rpn/rpn_r101_fpn_2x_coco.py", (_MMDET_RPN, _R101, _TWO), 60.2),
    ("rpn_x101_32x4d_fpn_1x", "RPN, X-101-32x4d-FPN, COCO, 12 epochs", "1x",
     "rpn/rpn_x101-32x4d_fpn_1x_coco.py", (_MMDET_RPN, _X101_32X4D, _ONE), 60.6, 7.0, 13.0),
    ("rpn_x101_32x4d_fpn_2x", "RPN, X-101-32x4d-FPN, COCO, 24 epochs", "2x",
     "rpn/rpn_x101-32x4d_fpn_2x_coco.py", (_MMDET_RPN, _X101_32X4D, _TWO), 61.1),
    ("rpn_x101_64x4d_fpn_1x", "RPN, X-101-64x4d-FPN, COCO, 12 epochs", "1x",
     "rpn/rpn_x101-64x4d_fpn_1x_coco.py", (_MMDET_RPN, _X101_64X4D, _ONE), 61.0, 10.1, 9.1),
    ("rpn_x101_64x4d_fpn_2x", "RPN, X-101-64x4d-FPN, COCO, 24 epochs", "2x",
     "rpn/rpn_x101-64x4d_fpn_2x_coco.py", (_MMDET_RPN, _X101_64X4D, _TWO), 61.5),
    ("rpn_r50_caffe_c4_1x", "RPN, R-50-C4 (caffe), COCO, 12 epochs", "1x",
     "rpn/rpn_r50-caffe-c4_1x_coco.py", (_MMDET_RPN, CAFFE_STYLE, C4, _MMDET_RPN_C4, _ONE)),
    # Faster R-CNN: box AP, GB, fps of configs/faster_rcnn/{metafile.yml,README.md}.
    ("fasterrcnn_r50_fpn_1x_mmdetection", "Faster R-CNN, R-50-FPN, COCO, 12 epochs", "1x",
     "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", (_ONE,), 37.4, 4.0, 21.4),
    ("fasterrcnn_r50_fpn_2x", "Faster R-CNN, R-50-FPN, COCO, 24 epochs", "2x",
     "faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py", (_TWO,), 38.4, 4.0),
    ("fasterrcnn_r50_fpn_ms_3x", "Faster R-CNN, R-50-FPN, COCO, 36 epochs, short side 640 to 800",
     "ms-3x", "faster_rcnn/faster-rcnn_r50_fpn_ms-3x_coco.py", (_MS_RANGE, _THREE), 40.3, 3.9),
    ("fasterrcnn_r50_caffe_fpn_1x", "Faster R-CNN, R-50-FPN (caffe), COCO, 12 epochs", "1x",
     "faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py", (CAFFE_STYLE, _ONE), 37.8, 3.8),
    ("fasterrcnn_r50_caffe_fpn_2x", "Faster R-CNN, R-50-FPN (caffe), COCO, 24 epochs", "2x",
     "_base_/schedules/schedule_2x.py", (CAFFE_STYLE, _TWO)),
    ("fasterrcnn_r50_caffe_fpn_ms_1x",
     "Faster R-CNN, R-50-FPN (caffe), COCO, 12 epochs, six scales", "ms-1x",
     "faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-1x_coco.py",
     (CAFFE_STYLE, _MS_LIST, _ONE)),
    ("fasterrcnn_r50_caffe_fpn_ms_3x",
     "Faster R-CNN, R-50-FPN (caffe), COCO, 36 epochs, six scales", "ms-3x",
     "faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-3x_coco.py",
     (CAFFE_STYLE, _MS_LIST, _THREE), 39.9, 3.7),
    ("fasterrcnn_r101_fpn_1x", "Faster R-CNN, R-101-FPN, COCO, 12 epochs", "1x",
     "faster_rcnn/faster-rcnn_r101_fpn_1x_coco.py", (_R101, _ONE), 39.4, 6.0, 15.6),
    ("fasterrcnn_r101_fpn_2x", "Faster R-CNN, R-101-FPN, COCO, 24 epochs", "2x",
     "faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py", (_R101, _TWO), 39.8, 6.0),
    ("fasterrcnn_r101_fpn_ms_3x", "Faster R-CNN, R-101-FPN, COCO, 36 epochs, short side 640 to 800",
     "ms-3x", "faster_rcnn/faster-rcnn_r101_fpn_ms-3x_coco.py",
     (_R101, _MS_RANGE, _THREE), 41.8, 5.8),
    ("fasterrcnn_r101_caffe_fpn_1x", "Faster R-CNN, R-101-FPN (caffe), COCO, 12 epochs", "1x",
     "faster_rcnn/faster-rcnn_r101-caffe_fpn_1x_coco.py", (_R101, CAFFE_STYLE, _ONE), 39.8, 5.7),
    ("fasterrcnn_r101_caffe_fpn_2x", "Faster R-CNN, R-101-FPN (caffe), COCO, 24 epochs", "2x",
     "_base_/schedules/schedule_2x.py", (_R101, CAFFE_STYLE, _TWO)),
    ("fasterrcnn_r101_caffe_fpn_ms_3x",
     "Faster R-CNN, R-101-FPN (caffe), COCO, 36 epochs, short side 640 to 800 (the published file "
     "normalises as pytorch style)", "ms-3x",
     "faster_rcnn/faster-rcnn_r101-caffe_fpn_ms-3x_coco.py",
     (_R101, CAFFE_STYLE, _MS_RANGE, _THREE), 42.0, 5.6),
    ("fasterrcnn_x101_32x4d_fpn_1x", "Faster R-CNN, X-101-32x4d-FPN, COCO, 12 epochs", "1x",
     "faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco.py", (_X101_32X4D, _ONE), 41.2, 7.2, 13.8),
    ("fasterrcnn_x101_32x4d_fpn_2x", "Faster R-CNN, X-101-32x4d-FPN, COCO, 24 epochs", "2x",
     "faster_rcnn/faster-rcnn_x101-32x4d_fpn_2x_coco.py", (_X101_32X4D, _TWO), 41.2, 7.2),
    ("fasterrcnn_x101_32x4d_fpn_ms_3x",
     "Faster R-CNN, X-101-32x4d-FPN, COCO, 36 epochs, short side 640 to 800", "ms-3x",
     "faster_rcnn/faster-rcnn_x101-32x4d_fpn_ms-3x_coco.py",
     (_X101_32X4D, _MS_RANGE, _THREE), 42.5, 7.0),
    ("fasterrcnn_x101_32x8d_fpn_ms_3x",
     "Faster R-CNN, X-101-32x8d-FPN, COCO, 36 epochs, short side 640 to 800", "ms-3x",
     "faster_rcnn/faster-rcnn_x101-32x8d_fpn_ms-3x_coco.py",
     (X101_32X8D, _MS_RANGE, _THREE), 42.4, 10.1),
    ("fasterrcnn_x101_64x4d_fpn_1x", "Faster R-CNN, X-101-64x4d-FPN, COCO, 12 epochs", "1x",
     "faster_rcnn/faster-rcnn_x101-64x4d_fpn_1x_coco.py", (_X101_64X4D, _ONE), 42.1, 10.3, 9.4),
    ("fasterrcnn_x101_64x4d_fpn_2x", "Faster R-CNN, X-101-64x4d-FPN, COCO, 24 epochs", "2x",
     "faster_rcnn/faster-rcnn_x101-64x4d_fpn_2x_coco.py", (_X101_64X4D, _TWO), 41.6, 10.3),
    ("fasterrcnn_x101_64x4d_fpn_ms_3x",
     "Faster R-CNN, X-101-64x4d-FPN, COCO, 36 epochs, short side 640 to 800", "ms-3x",
     "faster_rcnn/faster-rcnn_x101-64x4d_fpn_ms-3x_coco.py",
     (_X101_64X4D, _MS_RANGE, _THREE), 43.1, 10.0),
    ("fasterrcnn_r50_caffe_c4_1x", "Faster R-CNN, R-50-C4 (caffe), COCO, 12 epochs", "1x",
     "faster_rcnn/faster-rcnn_r50-caffe-c4_1x_coco.py", (CAFFE_STYLE, C4, _ONE), 35.6),
    # Fine-tuning of fasterrcnn_r50_caffe_fpn_ms_3x on COCO subsets; AP of the subset.
    ("fasterrcnn_r50_caffe_fpn_ms_1x_person", "Fine-tuning on COCO's person, R-50-FPN (caffe)",
     "ms-1x", "faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-1x_coco-person.py",
     (CAFFE_STYLE, _MS_LIST, _ONE, dict(weights="", data=dict(classes=("person",)))), 55.8, 3.7),
    ("fasterrcnn_r50_caffe_fpn_ms_1x_person_bicycle_car",
     "Fine-tuning on COCO's person, bicycle and car, R-50-FPN (caffe)", "ms-1x",
     "faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-1x_coco-person-bicycle-car.py",
     (CAFFE_STYLE, _MS_LIST, _ONE,
      dict(weights="", data=dict(classes=("person", "bicycle", "car")))), 44.1, 3.7),
]  # fmt: skip

_D2_ROWS = [
    # Box AP (AR_1000 of an RPN), GB, 1 / (s/im) of MODEL_ZOO.md.
    ("fasterrcnn_r50_fpn_1x_detectron2", "Faster R-CNN, R-50-FPN, COCO, 90,000 steps", "1x",
     "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", (_D2_ONE,), 37.9, 3.0, 26.3),
    ("fasterrcnn_r50_fpn_3x_detectron2", "Faster R-CNN, R-50-FPN, COCO, 270,000 steps", "3x",
     "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", (_D2_THREE,), 40.2, 3.0, 26.3),
    ("fasterrcnn_r101_fpn_3x_detectron2", "Faster R-CNN, R-101-FPN, COCO, 270,000 steps", "3x",
     "COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml", (_R101, _D2_THREE), 42.0, 4.1, 19.6),
    ("fasterrcnn_x101_32x8d_fpn_3x_detectron2",
     "Faster R-CNN, X-101-32x8d-FPN, COCO, 270,000 steps", "3x",
     "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml", (X101_32X8D, _D2_THREE),
     43.0, 6.7, 10.2),
    ("fasterrcnn_r50_c4_1x_detectron2", "Faster R-CNN, R-50-C4, COCO, 90,000 steps", "1x",
     "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", (_D2_C4, _D2_ONE), 35.7, 4.8, 9.8),
    ("fasterrcnn_r50_c4_3x_detectron2", "Faster R-CNN, R-50-C4, COCO, 270,000 steps", "3x",
     "COCO-Detection/faster_rcnn_R_50_C4_3x.yaml", (_D2_C4, _D2_THREE), 38.4, 4.8, 9.6),
    ("rpn_r50_fpn_1x_detectron2", "RPN, R-50-FPN, COCO, 90,000 steps", "1x",
     "COCO-Detection/rpn_R_50_FPN_1x.yaml", (_D2_RPN, _D2_ONE), 58.0, 2.7, 31.2),
    ("rpn_r50_c4_1x_detectron2", "RPN, R-50-C4, COCO, 90,000 steps", "1x",
     "COCO-Detection/rpn_R_50_C4_1x.yaml", (_D2_C4, _D2_RPN, _D2_RPN_C4, _D2_ONE),
     51.6, 1.5, 29.4),
]  # fmt: skip

RECIPES: dict[str, Entry] = {
    "fasterrcnn_r50_fpn_1x": Entry(
        fasterrcnn_r50_fpn_1x,
        "Faster R-CNN, R-50-FPN as torchvision's, COCO, 12 epochs",
        "1x",
        "network torchvision's fasterrcnn_resnet50_fpn; schedule MMDetection 3.3 "
        "configs/_base_/schedules/schedule_1x.py",
        Published(37.4, "MMDetection with this schedule, 8 V100", 4.0),
    ),
    "fasterrcnn_r50_fpn_torchvision": Entry(
        fasterrcnn_r50_fpn_torchvision,
        "Faster R-CNN, R-50-FPN, COCO, torchvision's reference run of 26 epochs",
        "26 epochs",
        "pytorch/vision references/detection/README.md",
        Published(37.0, "torchvision, 8 V100, FasterRCNN_ResNet50_FPN_Weights.COCO_V1", 5.2),
    ),
    "fasterrcnn_r50_fpn_v2_torchvision": Entry(
        fasterrcnn_r50_fpn_v2_torchvision,
        "Faster R-CNN, R-50-FPN with trained norms and deeper heads, COCO, 400 epochs, without the "
        "large-scale jitter of its source",
        "400 epochs",
        "pytorch/vision pull request 5763",
        Published(46.7, "torchvision, 32 GPUs, with large-scale jitter"),
    ),
    "fasterrcnn_mobilenet_v3_large_fpn_torchvision": Entry(
        fasterrcnn_mobilenet_v3_large_fpn_torchvision,
        "Faster R-CNN, MobileNetV3-Large FPN, COCO, 26 epochs",
        "26 epochs",
        "pytorch/vision references/detection/README.md",
        Published(32.8, "torchvision, 8 V100"),
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn_torchvision": Entry(
        fasterrcnn_mobilenet_v3_large_320_fpn_torchvision,
        "Faster R-CNN, MobileNetV3-Large FPN at 320 px, COCO, 26 epochs",
        "26 epochs",
        "pytorch/vision references/detection/README.md",
        Published(22.8, "torchvision, 8 V100"),
    ),
    **_rows("MMDetection 3.3 configs/", MMDETECTION, "MMDetection, 8 V100", _MMDET_ROWS),
    **_rows("Detectron2 0.6 configs/", DETECTRON2, "Detectron2, 8 V100", _D2_ROWS),
    "fasterrcnn_vgg16_voc": Entry(
        fasterrcnn_vgg16_voc,
        "Faster R-CNN, VGG-16, VOC 2007 trainval, 70,000 steps, end to end",
        "70k",
        "arXiv 1506.01497v3; py-faster-rcnn models/VGG16, experiments/cfgs/faster_rcnn_end2end.yml",
    ),
    "rpn_vgg16_voc": Entry(
        rpn_vgg16_voc,
        "RPN, VGG-16, VOC 2007 trainval, 80,000 steps: steps 1 and 3 of alternating training",
        "80k",
        "arXiv 1506.01497v3; py-faster-rcnn models/VGG16/faster_rcnn_alt_opt",
    ),
    "fast_rcnn_vgg16_voc": Entry(
        fast_rcnn_vgg16_voc,
        "Fast R-CNN, VGG-16, VOC 2007 trainval, 40,000 steps: steps 2 and 4 of alternating "
        "training (the paper: mAP 69.9 on VOC 2007 test after step 4, 73.2 with 07+12)",
        "40k",
        "arXiv 1506.01497v3; py-faster-rcnn models/VGG16/faster_rcnn_alt_opt",
    ),
    "fasterrcnn_r50_fpn_voc": Entry(
        fasterrcnn_r50_fpn_voc,
        "Faster R-CNN, R-50-FPN, VOC 2007 and 2012 trainval, 12 epochs",
        "12 epochs",
        "schedule MMDetection 3.3 configs/pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py (its 4 "
        "epochs see every image three times)",
    ),
    "rpn_r50_fpn_voc": Entry(
        rpn_r50_fpn_voc,
        "RPN, R-50-FPN, VOC 2007 and 2012 trainval, for alternating training",
        "12 epochs",
        "this project",
    ),
    "fast_rcnn_r50_fpn_voc": Entry(
        fast_rcnn_r50_fpn_voc,
        "Fast R-CNN, R-50-FPN, VOC 2007 and 2012 trainval, for alternating training",
        "12 epochs",
        "this project",
    ),
    "fasterrcnn_r10_fpn_shapes": Entry(
        fasterrcnn_r10_fpn_shapes,
        "the demo: a small Faster R-CNN from scratch on synthetic shapes, minutes on two CPU cores",
        "4.25 epochs",
        "this project",
        measured="box AP 60.7, AP50 83.4 in 4:25 min (README.md, Measured so far)",
    ),
    "rpn_r10_fpn_shapes": Entry(
        rpn_r10_fpn_shapes,
        "the demo's region proposal network alone",
        "10 epochs",
        "this project",
        measured="AR100 62.6, AR1000 64.8 in 12:41 min beside another process (README.md)",
    ),
    "fast_rcnn_r10_fpn_shapes": Entry(
        fast_rcnn_r10_fpn_shapes,
        "the demo's box head on stored proposals, for alternating training",
        "4.25 epochs",
        "this project",
    ),
}


def get(name: str) -> Recipe:
    """The recipe called `name`. Raises UsageError that lists the names."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, 3, 0.3)
        raise UsageError(
            f"--recipe: {name}: unknown; did you mean {' or '.join(close)}? "
            "python -m fasterrcnn.recipes lists them"
        )
    return RECIPES[name].make()


def describe(recipe: Recipe) -> str:
    """The resolved recipe, a line per group, and what the user changed."""
    lines = [
        f"recipe {recipe.name}: {recipe.detector}, weights {recipe.weights}, amp {recipe.amp}, "
        f"seed {recipe.seed}"
    ]
    for name, group in vars(recipe).items():
        if dataclasses.is_dataclass(group):
            values = " ".join(f"{k}={as_text(v)}" for k, v in vars(group).items())
            lines.append(f"  {name}: {values}")
    changes = difference(get(recipe.name), recipe)
    return "\n".join([*lines, *(f"  changed: {line}" for line in changes)])
