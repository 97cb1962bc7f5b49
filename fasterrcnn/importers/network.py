"""The framework and the network of a checkpoint file, from the names and shapes of its tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fasterrcnn.errors import CheckpointError
from fasterrcnn.recipes import Recipe
from fasterrcnn.safe_load.reading import File

_PLAIN = {6: "resnet50", 23: "resnet101", 36: "resnet152"}  # by number of blocks in the third stage
_GROUPED = {(32, 128): "resnext101_32x4d", (64, 256): "resnext101_64x4d",
            (32, 256): "resnext101_32x8d"}  # fmt: skip
# The biases of the classifiers, with the stage of a cascade.
_BOX_HEAD = r"(?:roi_head\.bbox_head|roi_heads\.box_predictor)\.(\d)?\.?(?:fc_cls|cls_score)\.bias$"


_OTHER_BODIES = {  # as Detectron2's LazyConfigs and MMDetection have them
    "RegNet": re.compile(r"backbone\.bottom_up\.s1\.b1\."),
    "plain vision transformer": re.compile(r"backbone\.net\.blocks\.\d"),
    "transformer of stages": re.compile(r"backbone\.(bottom_up\.)?(stages|layers|blocks)\.\d"),
    "HRNet": re.compile(r"backbone\.(transition1|stage2)\."),
}


@dataclass(frozen=True)
class Network:
    """What tensors say of a detector, in the words of a recipe."""

    detector: str
    body: str
    neck: str
    stages: int = 1  # box heads of a cascade
    dilation: int = 1
    deformable: str = "none"
    norm: str = "batch"  # of the body: batch or group
    fpn_norm: str = "none"
    head_norm: str = "none"  # of the four convolutions of a box head; none: it has no convolutions
    rpn_convs: int = 1

    @classmethod
    def of(cls, recipe: Recipe) -> Network:
        """That of `recipe`."""
        stages, body = 1 if recipe.detector == "rpn" else recipe.roi_heads.stages, recipe.backbone
        heads, rpn_convs = recipe.roi_heads, recipe.rpn.conv_depth
        deep = recipe.detector != "rpn" and heads.head == "4conv1fc"
        return cls(
            *(recipe.detector, body.name, body.neck, stages, body.dilation, body.deformable),
            norm="group" if body.norm == "group" else "batch",
            fpn_norm=body.fpn_norm,
            head_norm=heads.head_norm if deep else "none",
            rpn_convs=rpn_convs,
        )

    @property
    def layers(self) -> dict[str, dict[str, Any]]:
        """The fields of a recipe, by group, about norms and the layers of the heads."""
        heads = dict(head="4conv1fc", head_norm=self.head_norm) if self.head_norm != "none" else {}
        body = dict(norm="group") if self.norm == "group" else {}
        return {
            "backbone": dict(body, fpn_norm=self.fpn_norm),
            "rpn": dict(conv_depth=self.rpn_convs),
            "roi_heads": heads,
        }

    def __str__(self) -> str:
        words = [self.detector, self.body, self.neck]
        words += [f"a cascade of {self.stages}"] if self.stages > 1 else []
        words += ["dilated"] if self.dilation > 1 else []
        words += [f"deformable {self.deformable}"] if self.deformable != "none" else []
        words += [f"{self.norm} norm in the body"] if self.norm != "batch" else []
        words += [f"{self.fpn_norm} norm in the pyramid"] if self.fpn_norm != "none" else []
        if self.head_norm != "none":
            words.append(f"a box head of four convolutions with {self.head_norm} norm")
        words += [f"an RPN of {self.rpn_convs} convolutions"] if self.rpn_convs > 1 else []
        return ", ".join(words)


def framework_of(file: File) -> str:
    """The framework: "mmdetection", "detectron2" or "torchvision". Raises CheckpointError."""
    for framework, pattern in (
        ("detectron2", r"proposal_generator\.rpn_head\.(conv|objectness_logits)\."),
        ("mmdetection", r"(rpn_head|bbox_head)\.rpn_conv\."),
        ("torchvision", r"rpn\.head\.conv\."),
    ):
        if any(re.match(pattern, name) for name in file.tensors):
            return framework
    if any(name.startswith(("fc.", "classifier.", "pred_", "fc1000")) for name in file.tensors):
        what = "a classifier; to start training from it: train --weights FILE"
    else:
        what = "no Faster R-CNN or RPN of MMDetection, Detectron2 or torchvision"
    raise CheckpointError(f"{file.path}: {what} (its first tensor is {next(iter(file.tensors))})")


def network_of(file: File, framework: str) -> Network:
    """The network whose tensors are in `file`. Raises CheckpointError."""
    body, neck = _body_and_neck(file, framework)
    detector = "faster_rcnn" if box_rows(file.tensors) else "rpn"
    last = r"backbone\.(res5|layer4)\.0\."  # in C4, it belongs to the box head
    dilated = neck == "none" and any(re.match(last, name) for name in file.tensors)
    return Network(
        detector,
        body,
        neck,
        _stages(file.tensors),
        2 if dilated else 1,
        deformable(file.tensors)[0],
        *_norms(file.tensors),
        _rpn_convs(file.tensors),
    )


# Norms of the body's first convolution, of the pyramid and of the box head's first convolution, as
# MMDetection, Detectron2 and torchvision call them.
_NORMS = (
    r"backbone\.(?:[bg]n1|(?:bottom_up\.)?stem\.conv1\.norm|body\.bn1)\.",
    r"(?:neck\.lateral_convs\.0\.[bg]n|backbone\.fpn_lateral2\.norm|backbone\.fpn\.inner_blocks\.0\.1)\.",
    r"roi_heads?\.(?:bbox_head\.(?:\d\.)?shared_convs\.0\.[bg]n|box_head\.(?:\d\.)?conv1\.norm|"
    r"box_head\.(?:\d\.)?0\.1)\.",
)


def _norms(tensors: dict[str, Tensor]) -> tuple[str, str, str]:
    """The kinds of the norms of body, pyramid and box head: batch norms have statistics, which only
    Detectron2's oldest bodies leave out."""
    kinds = []
    for pattern in _NORMS:
        leaves = {m[1] for name in tensors if (m := re.match(rf"{pattern}(\w+)$", name))}
        kinds.append("batch" if "running_var" in leaves else "group" if leaves else "none")
    body, fpn, head = kinds
    return ("group" if body == "group" in (fpn, head) else "batch"), fpn, head


def _rpn_convs(tensors: dict[str, Tensor]) -> int:
    """The number of 3x3 convolutions of the RPN's head."""
    layer = r"(?:rpn_head|bbox_head|head)\.(?:rpn_)?conv\.(?:conv)?(\d)\.(?:0\.|conv\.)?weight$"
    return max(1, len({m[1] for name in tensors if (m := re.search(layer, name))}))


def deformable(tensors: dict[str, Tensor]) -> tuple[str, int]:
    """The version of the deformable convolutions, as in recipes, and their number of groups; of
    each group there are 18 offsets, in v2 with 9 weights."""
    offsets = r"backbone\..*\.(conv2_offset|conv2\.conv_offset)\.bias$"
    for name, tensor in tensors.items():
        if re.match(offsets, name):
            v2 = len(tensor) % 27 == 0
            return "v2" if v2 else "v1", max(1, len(tensor) // (27 if v2 else 18))
    return "none", 1


def _stages(tensors: dict[str, Tensor]) -> int:
    """The number of box heads, 1 without one."""
    found = {m[1] for name in tensors if (m := re.match(_BOX_HEAD, name)) and m[1]}
    return max(1, len(found))


def _body_and_neck(file: File, framework: str) -> tuple[str, str]:
    """Names of body and neck, as in recipes. Raises CheckpointError."""
    tensors, path = file.tensors, file.path
    if framework == "torchvision" and "backbone.body.0.0.weight" in tensors:
        return "mobilenet_v3_large", "fpn"
    first, third = (
        (r"res2\.", r"res4\.") if framework == "detectron2" else (r"layer1\.", r"layer3\.")
    )
    inside = {"detectron2": r"backbone\.(?:bottom_up\.)?", "mmdetection": r"backbone\.",
              "torchvision": r"backbone\.body\."}[framework]  # fmt: skip
    blocks = {int(m[1]) for name in tensors if (m := re.match(rf"{inside}{third}(\d+)\.", name))}
    middle = [v for k, v in tensors.items() if re.match(rf"{inside}{first}0\.conv2\.weight", k)]
    if not middle or middle[0].dim() != 4:
        kind = next((k for k, p in _OTHER_BODIES.items() if any(map(p.match, tensors))), None)
        found = "no ResNet body found" if kind is None else f"its body is a {kind}"
        raise CheckpointError(
            f"{path}: {found}; detectors are imported with ResNet and ResNeXt, other networks "
            "start from ImageNet weights: train --backbone.name"
        )
    width, per_group = middle[0].shape[:2]
    bottleneck = any(re.match(rf"{inside}{first}0\.conv3\.weight", name) for name in tensors)
    groups = width // max(1, per_group)
    if not bottleneck:
        body = {2: "resnet18", 6: "resnet34"}.get(len(blocks))
    elif groups > 1:
        body = _GROUPED.get((groups, width))
    else:
        body = _PLAIN.get(len(blocks))
    if body is None:
        raise CheckpointError(
            f"{path}: a body of {len(blocks)} blocks in its third stage, {groups} groups and width "
            f"{width} is not supported"
        )
    has_pyramid = any(
        re.search(r"fpn_lateral|lateral_convs|inner_blocks", name) for name in tensors
    )
    return body, "fpn" if has_pyramid else "none"


def box_rows(tensors: dict[str, Tensor]) -> int:
    """Number of classes of the box head, background included; 0 without a box head."""
    for name, tensor in tensors.items():
        if re.match(_BOX_HEAD, name):
            return len(tensor)
    return 0
