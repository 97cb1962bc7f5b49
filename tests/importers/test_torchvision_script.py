"""Stock torchvision, in a process of its own, detects what the exported run detects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fasterrcnn import recipes
from fasterrcnn.commands import export
from fasterrcnn.data.annotations import Classes
from fasterrcnn.engine import checkpoint
from fasterrcnn.errors import UsageError
from fasterrcnn.importers import translate
from fasterrcnn.models.build import build
from fasterrcnn.recipes import Recipe
from tests.models.stock import randomize_norms

SHAPES = recipes.fasterrcnn_r10_fpn_shapes()
RUNS = {  # recipe, names of the classes
    "norms without epsilon, small anchors": (
        recipes.change(
            SHAPES, backbone=dict(fpn_channels=16, norm="frozen", norm_eps=0.0),
            input=dict(min_size=160, max_size=200, train_min_sizes=()),
            roi_heads=dict(score_thresh=0.2, nms_thresh=0.4),
        ),
        ("ring", "square", 'a "quoted"\n\\name'),
    ),
    "8-bit pixel values, two sizes per level, other weights": (
        recipes.change(
            SHAPES, backbone=dict(name="resnet18", fpn_channels=24, norm="affine", norm_eps=1e-3),
            input=dict(min_size=128, max_size=300, train_min_sizes=(), pixel_scale=1.0,
                       image_mean=(123.0, 116.0, 103.0), image_std=(58.0, 57.0, 57.5),
                       size_divisible=64),
            rpn=dict(anchor_sizes=(8, 12, 16, 24, 32, 48, 64, 96, 128, 192),
                     aspect_ratios=(0.4, 1.0, 1.7, 3.0), post_nms_top_n_test=77,
                     pre_nms_top_n_test=150, nms_thresh=0.6),
            roi_heads=dict(bbox_reg_weights=(8.0, 8.0, 4.0, 4.0), pool_size=5, sampling_ratio=1,
                           representation_size=48, detections_per_img=30, score_thresh=0.01),
        ),
        ("cat",),
    ),
    "trained norms and deeper heads": (
        recipes.change(
            SHAPES, backbone=dict(fpn_channels=8, norm="batch", fpn_norm="batch"),
            input=dict(min_size=192, max_size=256, train_min_sizes=()),
            rpn=dict(conv_depth=2),
            roi_heads=dict(head="4conv1fc", representation_size=32),
        ),
        tuple("abcdefghijk"),
    ),
    "MobileNet": (
        recipes.change(
            recipes.get("fasterrcnn_mobilenet_v3_large_320_fpn_torchvision"),
            input=dict(min_size=160, max_size=320),
            rpn=dict(anchor_sizes=(16, 48, 96), score_thresh=0.02),
            roi_heads=dict(detections_per_img=20),  # random weights score many nearly the same
        ),
        ("cat", "dog"),
    ),
}  # fmt: skip
STOCK = """
import sys, runpy, torch
assert not any(name.startswith("fasterrcnn") for name in sys.modules)
script, images, output = sys.argv[1:]
made = runpy.run_path(script)
model = made["build"]()
with torch.no_grad():
    found = [model([image / 255])[0] for image in torch.load(images)]
torch.save({"found": found, "classes": made["CLASSES"]}, output)
"""


@torch.no_grad()
def run_of(folder: Path, recipe: Recipe, names: tuple[str, ...]):
    """A run of random weights whose scores are far apart, and its detector."""
    torch.manual_seed(3)
    classes = Classes(names, tuple(range(1, len(names) + 1)))
    model = build(recipe, classes.num_classes).eval()
    randomize_norms(model)
    nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.3)
    nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.1)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.2)
    state = checkpoint.State(1, 1, recipe, classes, {}, {"digest": ""}, {})
    checkpoint.save(folder / "checkpoints", {"model": model.state_dict()}, state, keep=2)
    return model


def picture(height: int, width: int) -> torch.Tensor:
    """Rectangles of random colors, uint8 ``(3, H, W)``: few anchors score nearly the same."""
    draw = torch.Generator().manual_seed(height)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for _ in range(40):
        y, x = (int(torch.randint(side, (1,), generator=draw)) for side in (height, width))
        h, w = torch.randint(5, 60, (2,), generator=draw).tolist()
        color = torch.randint(0, 256, (3, 1, 1), dtype=torch.uint8, generator=draw)
        image[:, y : y + h, x : x + w] = color
    return image


@pytest.mark.parametrize("name", RUNS)
def test_the_same_boxes(name: str, tmp_path: Path):
    recipe, names = RUNS[name]
    model = run_of(tmp_path / "run", recipe, names)
    export.main(["--checkpoint", str(tmp_path / "run"), "--format", "torchvision",
                 "-o", str(tmp_path / "x.pth")])  # fmt: skip
    images = [picture(h, w) for h, w in ((120, 160), (210, 140), (97, 333))]
    torch.save(images, tmp_path / "images.pt")
    subprocess.run(
        [sys.executable, "-I", "-c", STOCK, tmp_path / "x.py", tmp_path / "images.pt",
         tmp_path / "found.pt"],
        check=True, cwd=tmp_path, timeout=600,
    )  # fmt: skip
    there = torch.load(tmp_path / "found.pt")
    assert there["classes"] == ["__background__", *names]
    with torch.no_grad():
        here = [model([image])[0] for image in images]
    assert sum(len(found["boxes"]) for found in here) > 10
    for mine, theirs in zip(here, there["found"], strict=True):
        assert len(mine["boxes"]) == len(theirs["boxes"])
        distance = (mine["boxes"][:, None] - theirs["boxes"]).abs().amax(-1)
        distance[mine["labels"][:, None] != theirs["labels"]] = torch.inf
        nearest, index = distance.min(1)
        assert nearest.max() < 1e-3
        assert len(set(index.tolist())) == len(index)
        assert (mine["scores"] - theirs["scores"][index]).abs().max() < 1e-5


def test_a_file_of_the_users_stays(tmp_path: Path):
    recipe, names = RUNS["norms without epsilon, small anchors"]
    run_of(tmp_path / "run", recipe, names)
    (tmp_path / "x.py").write_text("print('mine')\n")
    flags = ["--checkpoint", str(tmp_path / "run"), "--format", "torchvision"]
    with pytest.raises(UsageError, match=r"x\.py: exists and is no export; give another --output"):
        export.main([*flags, "-o", str(tmp_path / "x.pth")])
    assert (tmp_path / "x.py").read_text() == "print('mine')\n"
    assert not (tmp_path / "x.pth").exists()
    for _ in range(2):  # an export may be written again
        export.main([*flags, "-o", str(tmp_path / "y.pth")])
    assert (tmp_path / "y.py").exists()


@pytest.mark.parametrize(("changes", "message"), [
    (dict(detector="rpn"), "detector is rpn, there faster_rcnn"),
    (dict(backbone=dict(stride_in_1x1=True)), "backbone.stride_in_1x1 is True, there False"),
    (dict(input=dict(channel_order="bgr")), "input.channel_order is bgr, there rgb"),
    (dict(input=dict(rounding="nearest")), "input.rounding is nearest, there floor"),
    (dict(rpn=dict(clamp="both")), "rpn.clamp is both, there max"),
    (dict(rpn=dict(anchor_strides="fixed")), "rpn.anchor_strides is fixed, there grid"),
    (dict(roi_heads=dict(aligned=True)), "roi_heads.aligned is True, there False"),
    (dict(roi_heads=dict(min_side=0.0)), "roi_heads.min_side is 0.0, there 0.01"),
])  # fmt: skip
def test_what_stock_torchvision_cannot_express(changes: dict, message: str):
    with pytest.raises(UsageError, match=message):
        translate.check_expressible(recipes.change(SHAPES, **changes), "torchvision")
