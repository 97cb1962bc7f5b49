"""Maps torchvision's parameter names and row orders to those of MMDetection and Detectron2.

`entries` is the whole translation of a model, in both directions: each of our tensors ("ours",
named as in torchvision) corresponds to exactly one of the framework's ("theirs"). Sources:
`mmdet/models` of MMDetection 3.3, `detectron2/modeling` of Detectron2 0.6.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fasterrcnn.recipes import Recipe

_Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]  # pattern, replacement


@dataclass(frozen=True)
class Entry:
    """One tensor: its name on both sides, and the conversions between them."""

    ours: str
    theirs: str
    to_ours: Callable[[Tensor], Tensor] = lambda tensor: tensor
    to_theirs: Callable[[Tensor], Tensor] = lambda tensor: tensor


def entries(framework: str, recipe: Recipe, ours: list[str], rpn: str = "rpn_head") -> list[Entry]:
    """The translation of the tensors named `ours` of the model of `recipe`.

    `rpn`: prefix of the RPN in MMDetection's file: "rpn_head", or "bbox_head" if the detector is an
    RPN alone (3.x). Batch counters of norms are left out.
    """
    bottom_up = "backbone.bottom_up." if recipe.backbone.neck == "fpn" else "backbone."
    rules: dict[str, _Rules] = {
        "mmdetection": _mmdetection(recipe),
        "detectron2": _detectron2(bottom_up, recipe.rpn.conv_depth),
        "torchvision": (),
    }
    found = []
    for name in ours:
        if name.endswith("num_batches_tracked"):
            continue
        theirs = _renamed(name, rules[framework])
        theirs = theirs.replace("RPN.", f"{rpn}.", 1) if framework == "mmdetection" else theirs
        found.append(Entry(name, theirs, *_conversions(framework, recipe, name)))
    return found


def _renamed(name: str, rules: _Rules) -> str:
    """`name` after the first rule that matches its start."""
    for pattern, replacement in rules:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def with_current_names(tensors: dict[str, Tensor], framework: str) -> dict[str, Tensor]:
    """Renames the tensors of torchvision before 0.14, such as COCO_V1's, and the offsets of
    MMDetection's old files, to the current names."""
    if framework == "mmdetection":
        return {n.replace(".conv2_offset.", ".conv2.conv_offset."): t for n, t in tensors.items()}
    if framework != "torchvision":
        return tensors
    old = ((r"rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
           (r"(backbone\.fpn\.\w+_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"))  # fmt: skip
    for pattern, replacement in old:
        tensors = {re.sub(pattern, replacement, name): value for name, value in tensors.items()}
    return tensors


# Statistics under which a norm with epsilon 1e-5 only scales and shifts.
IDENTITY = {"running_mean": 0.0, "running_var": 1.0 - 1e-5}
_STEMS = (
    "conv1.weight", "features.0.0.weight", "features.0.weight", "stem.conv1.weight", "conv1_w",
)  # fmt: skip
_VGG: _Rules = ((r"fc6\.", "classifier.0."), (r"fc7\.", "classifier.3."))


def is_body(tensors: dict[str, Tensor]) -> bool:
    """Whether these are the weights of an ImageNet classifier or its body, not of a detector."""
    return any(stem in tensors for stem in _STEMS)


def body(tensors: dict[str, Tensor], ours: list[str]) -> dict[str, Tensor]:
    """The tensors of an ImageNet body under our names, where they are in `ours`, else under theirs.

    `tensors` comes from torchvision or MMDetection, which use the same names, from Detectron2, or
    from Detectron, whose norms are a scale and a shift.
    """
    left = {_renamed(n.removeprefix("features."), _DETECTRON): v for n, v in tensors.items()}
    named = {}
    for name in ours:
        theirs = _renamed(f"backbone.body.{name}", _detectron2(""))
        for candidate in (name, theirs, _renamed(name, _VGG)):
            if candidate in left:
                named[name] = left.pop(candidate)
    if not any(name.endswith("running_var") for name in named):
        for name in [n for n in ours if n.endswith(tuple(IDENTITY))]:
            norm, leaf = name.rsplit(".", 1)
            if f"{norm}.weight" in named:
                named[name] = torch.full_like(named[f"{norm}.weight"], IDENTITY[leaf])
    return named | left


_NORM_LEAVES = {
    "s": "weight", "gamma": "weight", "b": "bias", "beta": "bias", "rm": "running_mean",
    "running_mean": "running_mean", "riv": "running_var", "running_var": "running_var",
}  # fmt: skip
_BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
# Detectron's names to Detectron2's (its `checkpoint/c2_model_loading.py`).
_DETECTRON: _Rules = (
    (r"conv1_w$", "stem.conv1.weight"),
    (r"(?:res_)?conv1_[bg]n_(\w+)$", lambda m: f"stem.conv1.norm.{_NORM_LEAVES[m[1]]}"),
    (r"res(\d)_(\d+)_branch(1|2[abc])_w$", lambda m: f"res{m[1]}.{m[2]}.{_BRANCHES[m[3]]}.weight"),
    (r"res(\d)_(\d+)_branch(1|2[abc])_[bg]n_(\w+)$",
     lambda m: f"res{m[1]}.{m[2]}.{_BRANCHES[m[3]]}.norm.{_NORM_LEAVES[m[4]]}"),
)  # fmt: skip

_STAGE = r"(\d\.)?"  # of a cascade
# Of a box head of convolutions: weight and norm of one of them, and the layer behind them.
_CONV = rf"roi_heads\.box_head\.{_STAGE}(\d)\.0\.weight$"
_CONV_NORM = rf"roi_heads\.box_head\.{_STAGE}(\d)\.1\.(\w+)$"
_AFTER_CONVS = rf"roi_heads\.box_head\.{_STAGE}5\.(weight|bias)$"
_MMDETECTION: _Rules = (
    (_CONV, r"roi_head.bbox_head.\1shared_convs.\2.conv.weight"),
    (_CONV_NORM, r"roi_head.bbox_head.\1shared_convs.\2.bn.\3"),
    (_AFTER_CONVS, r"roi_head.bbox_head.\1shared_fcs.0.\2"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.1\.", r"neck.lateral_convs.\1.bn."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.1\.", r"neck.fpn_convs.\1.bn."),
    (r"backbone\.body\.(layer\d\.\d+)\.conv2_offset\.", r"backbone.\1.conv2.conv_offset."),
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"rpn\.head\.conv\.0\.0\.", "RPN.rpn_conv."),
    (r"rpn\.head\.cls_logits\.", "RPN.rpn_cls."),
    (r"rpn\.head\.bbox_pred\.", "RPN.rpn_reg."),
    (r"roi_heads\.box_head\.layer4\.", "roi_head.shared_head.layer4."),
    (rf"roi_heads\.box_head\.{_STAGE}fc6\.", r"roi_head.bbox_head.\1shared_fcs.0."),
    (rf"roi_heads\.box_head\.{_STAGE}fc7\.", r"roi_head.bbox_head.\1shared_fcs.1."),
    (rf"roi_heads\.box_predictor\.{_STAGE}cls_score\.", r"roi_head.bbox_head.\1fc_cls."),
    (rf"roi_heads\.box_predictor\.{_STAGE}bbox_pred\.", r"roi_head.bbox_head.\1fc_reg."),
)


def _mmdetection(recipe: Recipe) -> _Rules:
    """Our names to MMDetection's, which calls group norms gn, where batch norms are bn."""
    several: _Rules = ((r"rpn\.head\.conv\.(\d)\.0\.", r"RPN.rpn_conv.\1.conv."),)
    rules = several + _MMDETECTION if recipe.rpn.conv_depth > 1 else _MMDETECTION
    if recipe.backbone.norm == "group":
        body: _Rules = ((r"backbone\.body\.(.*)\bbn(\d)\.", r"backbone.\1gn\2."),)
        rules = body + rules
    groups = {
        r"roi_heads\.": recipe.roi_heads.head_norm == "group",
        r"backbone\.fpn\.": recipe.backbone.fpn_norm == "group",
    }

    def renamed(pattern: str, replacement: Any) -> Any:
        is_group = any(pattern.startswith(part) for part, given in groups.items() if given)
        return replacement.replace(".bn.", ".gn.") if is_group else replacement

    return tuple((pattern, renamed(pattern, target)) for pattern, target in rules)


def _detectron2(body: str, rpn_convs: int = 1) -> _Rules:
    """Our names to Detectron2's, whose body has the prefix `body`."""
    one, many = r"\.(\d+)\.", r"(\d)\."

    def stage(match: re.Match[str]) -> str:
        return f"{body}res{int(match[1]) + 1}.{match[2]}."

    def level(kind: str) -> Callable[[re.Match[str]], str]:
        return lambda match: f"backbone.fpn_{kind}{int(match[1]) + 2}."

    def block(prefix: str, target: Callable[[re.Match[str]], str]) -> _Rules:
        inside = rf"{prefix}{one}"
        return (
            (rf"{inside}conv{many}", lambda m: f"{target(m)}conv{m[m.re.groups]}."),
            (rf"{inside}conv2_offset\.", lambda m: f"{target(m)}conv2_offset."),
            (rf"{inside}bn{many}", lambda m: f"{target(m)}conv{m[m.re.groups]}.norm."),
            (rf"{inside}downsample\.0\.", lambda m: f"{target(m)}shortcut."),
            (rf"{inside}downsample\.1\.", lambda m: f"{target(m)}shortcut.norm."),
        )

    def norm(kind: str) -> Callable[[re.Match[str]], str]:
        return lambda match: f"backbone.fpn_{kind}{int(match[1]) + 2}.norm."

    def in_head(match: re.Match[str]) -> str:
        last = "weight" if match.re.groups == 2 else f"norm.{match[3]}"
        return f"roi_heads.box_head.{match[1] or ''}conv{int(match[2]) + 1}.{last}"

    first = r"rpn\.head\.conv\.(\d)\.0\."
    several = r"proposal_generator.rpn_head.conv.conv\1."
    return (
        (_CONV, in_head),
        (_CONV_NORM, in_head),
        (_AFTER_CONVS, r"roi_heads.box_head.\1fc1.\2"),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.1\.", norm("lateral")),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.1\.", norm("output")),
        (first, several if rpn_convs > 1 else "proposal_generator.rpn_head.conv."),
        (r"backbone\.body\.conv1\.", f"{body}stem.conv1."),
        (r"backbone\.body\.bn1\.", f"{body}stem.conv1.norm."),
        *block(r"backbone\.body\.layer(\d)", stage),
        *block(r"roi_heads\.box_head\.layer4", lambda m: f"roi_heads.res5.{m[1]}."),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", level("lateral")),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", level("output")),
        (r"rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
        (r"rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
        (rf"roi_heads\.box_head\.{_STAGE}fc6\.", r"roi_heads.box_head.\1fc1."),
        (rf"roi_heads\.box_head\.{_STAGE}fc7\.", r"roi_heads.box_head.\1fc2."),
    )


def _conversions(
    framework: str, recipe: Recipe, name: str
) -> tuple[Callable[[Tensor], Tensor], ...] | tuple[()]:
    """How the rows of tensor `name` are reordered to ours and to theirs; () if they are the same.

    Background is row 0 here, and the last one, without box deltas, in MMDetection and Detectron2.
    Anchors of several sizes of one level are grouped by ratio here and by size in Detectron2.
    """
    if framework == "torchvision":
        return ()
    if re.match(rf"roi_heads\.box_predictor\.{_STAGE}cls_score\.", name):
        return (lambda t: t.roll(1, dims=0), lambda t: t.roll(-1, dims=0))
    if name.startswith("roi_heads.box_predictor."):
        if recipe.roi_heads.agnostic:
            return ()
        return (lambda t: torch.cat([torch.zeros_like(t[:4]), t]), lambda t: t[4:])
    heads = ("rpn.head.cls_logits", "rpn.head.bbox_pred")
    if framework == "detectron2" and name.startswith(heads):
        ratios = len(recipe.rpn.aspect_ratios)
        rows = 4 if "bbox_pred" in name else 1  # of one anchor

        def transposed(tensor: Tensor, first: int, second: int) -> Tensor:
            if len(tensor) % (rows * ratios):
                return tensor  # of another number of anchors; its shape is refused
            grid = tensor.reshape(first, second, rows, *tensor.shape[1:])
            return grid.transpose(0, 1).reshape(tensor.shape)

        return (lambda t: transposed(t, -1, ratios), lambda t: transposed(t, ratios, -1))
    return ()
