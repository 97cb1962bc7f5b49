"""Writes the Python file that builds the stock torchvision detector of an exported state dict.

A state dict holds neither anchors, sizes, pixel values and thresholds nor class names; the file
says them as arguments of torchvision's classes, and imports nothing but torch and torchvision.
"""

from __future__ import annotations

from pathlib import Path

from fasterrcnn.errors import UsageError
from fasterrcnn.models.backbones import BODIES
from fasterrcnn.models.build import FasterRCNN
from fasterrcnn.recipes import Backbone, Recipe, RoIHeads

_FIRST_LINE = '"""Written by fasterrcnn export for stock torchvision.\n'
_TEMPLATE = (
    _FIRST_LINE
    + '''
build() makes the detector and loads the state dict beside this file. It takes a list of images,
RGB, float (3, H, W), 0 to 1, and returns their boxes, labels and scores; a label is an index into
CLASSES.
"""

from pathlib import Path

import torch
from torchvision.models import resnet
from torchvision.models.detection import FasterRCNN, anchor_utils, backbone_utils, faster_rcnn, rpn
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

CLASSES = {classes}


def build():
{backbone}
    anchors = anchor_utils.AnchorGenerator(
        {sizes},
        {ratios},
    )
    model = FasterRCNN(
        backbone,
{arguments}
    )
    file = Path(__file__).with_suffix(".pth")
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return model.eval()
'''
)


def write(path: Path, model: FasterRCNN, recipe: Recipe, names: tuple[str, ...]) -> None:
    """Write the file for `model`, which `recipe` describes, with classes of these `names`.

    Raises UsageError if `path` is a file that was not written here, OSError.
    """
    if path.exists() and not path.read_bytes().startswith(_FIRST_LINE.encode()):
        raise UsageError(f"--output: {path}: exists and is no export; give another --output")
    path.write_text(text(model, recipe, names), encoding="utf-8")


def text(model: FasterRCNN, recipe: Recipe, names: tuple[str, ...]) -> str:
    """The file's text. `recipe` is one that `translate.check_expressible` accepts."""
    generator = model.rpn.anchor_generator
    per_cell = generator.num_anchors_per_location()[0]
    arguments = {
        **_input(recipe),
        "rpn_anchor_generator": "anchors",
        "rpn_head": f"rpn.RPNHead({model.backbone.out_channels}, {per_cell}, "
        f"conv_depth={recipe.rpn.conv_depth})",
        **{f"rpn_{name}": repr(getattr(recipe.rpn, name)) for name in _RPN},
        **_heads(recipe.roi_heads, model.backbone.out_channels, len(names) + 1),
        **{f"box_{name}": repr(getattr(recipe.roi_heads, name)) for name in _BOX},
        "bbox_reg_weights": repr(recipe.roi_heads.bbox_reg_weights),
    }
    return _TEMPLATE.format(
        classes=_classes(names),
        backbone=_backbone(recipe.backbone),
        sizes=generator.sizes,
        ratios=generator.aspect_ratios,
        arguments="\n".join(f"        {name}={value}," for name, value in arguments.items()),
    )


_RPN = (
    "pre_nms_top_n_train", "pre_nms_top_n_test", "post_nms_top_n_train", "post_nms_top_n_test",
    "nms_thresh", "fg_iou_thresh", "bg_iou_thresh", "batch_size_per_image", "positive_fraction",
    "score_thresh",
)  # fmt: skip
_BOX = (
    "score_thresh", "nms_thresh", "detections_per_img", "fg_iou_thresh", "bg_iou_thresh",
    "batch_size_per_image", "positive_fraction",
)  # fmt: skip


def _classes(names: tuple[str, ...]) -> str:
    """A list, one name a line."""
    lines = "".join(f"    {name!r},\n" for name in ("__background__", *names))
    return f"[\n{lines}]"


def _input(recipe: Recipe) -> dict[str, str]:
    """Sizes, and mean and standard deviation of pixels from 0 to 1."""
    config = recipe.input
    unit = config.pixel_scale / 255
    return {
        "min_size": repr(config.min_size),
        "max_size": repr(config.max_size),
        "image_mean": repr([value * unit for value in config.image_mean]),
        "image_std": repr([value * unit for value in config.image_std]),
        "size_divisible": repr(config.size_divisible),
    }


def _backbone(config: Backbone) -> str:
    """The lines that make the backbone."""
    norm = "torch.nn.BatchNorm2d" if config.norm == "batch" else "FrozenBatchNorm2d"
    if config.name not in BODIES:
        return (
            "    backbone = backbone_utils.mobilenet_backbone(\n"
            f"        backbone_name={config.name!r}, weights=None, fpn=True, norm_layer={norm}\n"
            "    )"
        )
    block, layers, groups, width = BODIES[config.name]
    kind = block.__name__  # as in torchvision, of which it is a subclass
    grouped = f"groups={groups}, width_per_group={width}, " if groups > 1 else ""
    channels = [planes * block.expansion for planes in (64, 128, 256, 512)]
    fpn_norm = ", norm_layer=torch.nn.BatchNorm2d" if config.fpn_norm == "batch" else ""
    levels = {f"layer{i + 1}": str(i) for i in range(4)}
    return (
        f"    body = resnet.ResNet(resnet.{kind}, {layers}, {grouped}norm_layer={norm})\n"
        "    backbone = backbone_utils.BackboneWithFPN(\n"
        f"        body, {levels}, {channels}, {config.fpn_channels}{fpn_norm}\n"
        "    )"
    )


def _heads(config: RoIHeads, channels: int, num_classes: int) -> dict[str, str]:
    """RoIAlign, box head and box predictor."""
    pool, width = config.pool_size, config.representation_size
    align = f"MultiScaleRoIAlign(['0', '1', '2', '3'], {pool}, {config.sampling_ratio})"
    if config.head == "4conv1fc":
        head = (
            f"faster_rcnn.FastRCNNConvFCHead(({channels}, {pool}, {pool}), {[channels] * 4}, "
            f"[{width}], norm_layer=torch.nn.BatchNorm2d)"
        )
    else:
        head = f"faster_rcnn.TwoMLPHead({channels * pool**2}, {width})"
    return {
        "box_roi_pool": align,
        "box_head": head,
        "box_predictor": f"faster_rcnn.FastRCNNPredictor({width}, {num_classes})",
    }
