"""State dicts as MMDetection and Detectron2 name and shape them, written down from their rules.

Independent of `fasterrcnn.importers`: a wrong name there does not match here.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
Shapes = dict[str, tuple[int, ...]]


def body(depth: int, groups: int, width: int, stages: int = 4) -> list[tuple[str, tuple[int, ...]]]:
    """torchvision-like names of a bottleneck ResNet and their shapes; norms as "bnK.*"."""
    found: list[tuple[str, tuple[int, ...]]] = [("conv1.weight", (64, 3, 7, 7)), ("bn1", (64,))]
    channels = 64
    for stage in range(stages):
        inner = 64 * 2**stage * width * groups // 64
        outer = 256 * 2**stage
        for block in range(BLOCKS[depth][stage]):
            key = f"layer{stage + 1}.{block}"
            found += [
                (f"{key}.conv1.weight", (inner, channels, 1, 1)), (f"{key}.bn1", (inner,)),
                (f"{key}.conv2.weight", (inner, inner // groups, 3, 3)), (f"{key}.bn2", (inner,)),
                (f"{key}.conv3.weight", (outer, inner, 1, 1)), (f"{key}.bn3", (outer,)),
            ]  # fmt: skip
            if block == 0:
                found += [(f"{key}.downsample.0.weight", (outer, channels, 1, 1)),
                          (f"{key}.downsample.1", (outer,))]  # fmt: skip
            channels = outer
    return found


def mmdetection(
    depth: int = 50, groups: int = 1, width: int = 64, *, neck: str = "fpn", detector: str,
    classes: int = 80, old_rpn_names: bool = False, stages: int = 1, dilated: bool = False,
    offsets: int = 0, norm: str = "", rpn_convs: int = 1,
) -> Shapes:  # fmt: skip
    """Keys of an MMDetection 3 file (`old_rpn_names`: of 2.x); `norm`: of pyramid and box head, of
    which "group" is the body's too."""
    shapes: Shapes = {}
    whole = body(depth, groups, width)
    for name, shape in whole:
        stage4 = name.startswith("layer4")
        if neck == "none" and stage4 and not dilated:
            if detector == "rpn":
                continue
            name = f"roi_head.shared_head.{name}"
        else:
            name = f"backbone.{name}"
        if norm == "group":
            name = re.sub(r"\bbn(\d)$", r"gn\1", name)
        _norm_or_weight(shapes, name, shape, counts=True, stats=norm != "group")
        if offsets and name.endswith("conv2.weight") and "layer1" not in name:
            conv = name.replace("conv2.weight", "conv2.conv_offset")
            shapes |= _conv(conv, offsets, shape[0], 3)
    channels, anchors = (256, 3) if neck == "fpn" else (2048 if dilated else 1024, 15)
    has_layers = neck == "fpn" or dilated
    if neck == "fpn":
        for i in range(4):
            for kind, channels_in, side in (("lateral", 256 * 2**i, 1), ("fpn", 256, 3)):
                layer = f"neck.{kind}_convs.{i}"
                if not norm:
                    shapes |= _conv(f"{layer}.conv", 256, channels_in, side)
                else:
                    shapes |= _normed(
                        f"{layer}.conv", f"{layer}.{norm[0]}n", channels_in, side, norm, counts=True
                    )
    rpn = "bbox_head" if detector == "rpn" and not old_rpn_names else "rpn_head"
    for conv in [f".{i}.conv" for i in range(rpn_convs)] if rpn_convs > 1 else [""]:
        shapes |= _conv(f"{rpn}.rpn_conv{conv}", channels, channels, 3)
    shapes |= _conv(f"{rpn}.rpn_cls", anchors, channels, 1)
    shapes |= _conv(f"{rpn}.rpn_reg", 4 * anchors, channels, 1)
    if detector != "rpn":
        features = 1024 if has_layers else 2048
        for stage in range(stages):
            head = f"roi_head.bbox_head.{stage}" if stages > 1 else "roi_head.bbox_head"
            shapes |= _linear(f"{head}.fc_cls", classes + 1, features)
            shapes |= _linear(f"{head}.fc_reg", 4 if stages > 1 else 4 * classes, features)
            if norm:
                for i in range(4):
                    layer = f"{head}.shared_convs.{i}"
                    shapes |= _normed(
                        f"{layer}.conv", f"{layer}.{norm[0]}n", 256, 3, norm, counts=True
                    )
                shapes |= _linear(f"{head}.shared_fcs.0", 1024, channels * 49)
            elif has_layers:
                shapes |= _linear(f"{head}.shared_fcs.0", 1024, channels * 49)
                shapes |= _linear(f"{head}.shared_fcs.1", 1024, 1024)
    return shapes


def detectron2(
    depth: int = 50, groups: int = 1, width: int = 64, *, neck: str = "fpn", detector: str,
    classes: int = 80, stages: int = 1, dilated: bool = False, offsets: int = 0,
    norm: str = "", rpn_convs: int = 1,
) -> Shapes:  # fmt: skip
    """Keys of a Detectron2 file."""
    shapes: Shapes = {}
    prefix = "backbone.bottom_up." if neck == "fpn" else "backbone."
    for name, shape in body(depth, groups, width):
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            parts = ["stem", "conv1", "weight" if parts[0] == "conv1" else "norm"]
        else:
            stage, block, kind = int(parts[0][5:]), parts[1], parts[2:]
            leaf = {
                "conv": lambda k: [k[0], "weight"], "bn": lambda k: [f"conv{k[0][2]}", "norm"],
                "do": lambda k: ["shortcut", "weight" if k[1] == "0" else "norm"],
            }["do" if kind[0] == "downsample" else kind[0][:-1]](kind)  # fmt: skip
            parts = [f"res{stage + 1}", block, *leaf]
        if neck == "none" and parts[0] == "res5" and not dilated:
            if detector == "rpn":
                continue
            _norm_or_weight(shapes, "roi_heads." + ".".join(parts), shape, counts=False)
        else:
            _norm_or_weight(
                shapes, prefix + ".".join(parts), shape, counts=False, stats=norm != "group"
            )
            if offsets and parts[-2:] == ["conv2", "weight"] and parts[0] != "res2":
                conv = prefix + ".".join(parts[:-2]) + ".conv2_offset"
                shapes |= _conv(conv, offsets, shape[0], 3)
    channels, anchors = (256, 3) if neck == "fpn" else (2048 if dilated else 1024, 15)
    has_layers = neck == "fpn" or dilated
    if neck == "fpn":
        for i in range(4):
            for kind, channels_in, side in (("lateral", 256 * 2**i, 1), ("output", 256, 3)):
                layer = f"backbone.fpn_{kind}{i + 2}"
                if not norm:
                    shapes |= _conv(layer, 256, channels_in, side)
                else:
                    shapes |= _normed(layer, f"{layer}.norm", channels_in, side, norm)
    rpn = "proposal_generator.rpn_head"
    for conv in [f".conv{i}" for i in range(rpn_convs)] if rpn_convs > 1 else [""]:
        shapes |= _conv(f"{rpn}.conv{conv}", channels, channels, 3)
    shapes |= _conv(f"{rpn}.objectness_logits", anchors, channels, 1)
    shapes |= _conv(f"{rpn}.anchor_deltas", 4 * anchors, channels, 1)
    if detector != "rpn":
        features = 1024 if has_layers else 2048
        for stage in range(stages):
            own = f".{stage}" if stages > 1 else ""
            predictor, head = f"roi_heads.box_predictor{own}", f"roi_heads.box_head{own}"
            shapes |= _linear(f"{predictor}.cls_score", classes + 1, features)
            shapes |= _linear(f"{predictor}.bbox_pred", 4 if own else 4 * classes, features)
            if norm:
                for i in range(4):
                    layer = f"{head}.conv{i + 1}"
                    shapes |= _normed(layer, f"{layer}.norm", 256, 3, norm)
                shapes |= _linear(f"{head}.fc1", 1024, channels * 49)
            elif has_layers:
                shapes |= _linear(f"{head}.fc1", 1024, channels * 49)
                shapes |= _linear(f"{head}.fc2", 1024, 1024)
    return shapes


def filled(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random weights in a range in which activations stay finite."""
    torch.manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        leaf = name.rsplit(".", 1)[1]
        if leaf == "num_batches_tracked":
            tensors[name] = torch.zeros((), dtype=torch.int64)
        elif leaf == "running_var":
            tensors[name] = 1 + 0.2 * torch.rand(shape)
        elif len(shape) == 1:
            center = 1.0 if leaf == "weight" else 0.0
            tensors[name] = center + 0.1 * torch.randn(shape)
            if "bn3.weight" in name or "conv3.norm.weight" in name:
                tensors[name] *= 0.2
        else:
            tensors[name] = torch.randn(shape) * math.sqrt(1 / math.prod(shape[1:]))
    return tensors


def _conv(name: str, out: int, channels: int, side: int) -> Shapes:
    return {f"{name}.weight": (out, channels, side, side), f"{name}.bias": (out,)}


def _linear(name: str, out: int, features: int) -> Shapes:
    return {f"{name}.weight": (out, features), f"{name}.bias": (out,)}


def _normed(
    conv: str, name: str, channels: int, side: int, norm: str, *, counts: bool = False
) -> Shapes:
    """A convolution to 256 channels without bias, and its norm."""
    shapes: Shapes = {f"{conv}.weight": (256, channels, side, side)}
    _norm_or_weight(shapes, name, (256,), counts=counts, stats=norm == "batch")
    return shapes


def _norm_or_weight(
    shapes: Shapes, name: str, shape: tuple[int, ...], *, counts: bool, stats: bool = True
) -> None:
    if len(shape) > 1:
        shapes[name] = shape
        return
    leaves = ("weight", "bias", "running_mean", "running_var")
    for leaf in leaves if stats else leaves[:2]:
        shapes[f"{name}.{leaf}"] = shape
    if counts and stats:
        shapes[f"{name}.num_batches_tracked"] = ()
