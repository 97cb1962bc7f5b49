"""Names of published detectors: the table, and what a name means."""

from __future__ import annotations

import re

import pytest

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.importers import published

MMDET = "https://download.openmmlab.com/mmdetection/v2.0"
D2 = "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection"
# Copied from MMDetection's metafile.yml and README.md and from Detectron2's MODEL_ZOO.md.
KNOWN = {
    "mmdet:rpn_r50_fpn_1x":
        f"{MMDET}/rpn/rpn_r50_fpn_1x_coco/rpn_r50_fpn_1x_coco_20200218-5525fa2e.pth",
    "mmdet:rpn_r101_fpn_2x_mmdetection":
        f"{MMDET}/rpn/rpn_r101_fpn_2x_coco/rpn_r101_fpn_2x_coco_20200131-24e3db1a.pth",
    "mmdet:faster-rcnn_r50-caffe_fpn_1x_coco":
        f"{MMDET}/faster_rcnn/faster_rcnn_r50_caffe_fpn_1x_coco/"
        "faster_rcnn_r50_caffe_fpn_1x_coco_bbox_mAP-0.378_20200504_180032-c5925ee5.pth",
    "mmdet:faster_rcnn_x101_64x4d_fpn_mstrain_3x":
        f"{MMDET}/faster_rcnn/faster_rcnn_x101_64x4d_fpn_mstrain_3x_coco/"
        "faster_rcnn_x101_64x4d_fpn_mstrain_3x_coco_20210524_124528-26c63de6.pth",
    "mmdet:fasterrcnn_r50_fpn_1x":
        f"{MMDET}/faster_rcnn/faster_rcnn_r50_fpn_1x_coco/"
        "faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
    "mmdet:faster-rcnn_r50-caffe_fpn_ms-1x_coco-person":
        f"{MMDET}/faster_rcnn/faster_rcnn_r50_fpn_1x_coco-person/"
        "faster_rcnn_r50_fpn_1x_coco-person_20201216_175929-d022e227.pth",
    "detectron2:faster_rcnn_R_50_FPN_3x":
        f"{D2}/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl",
    "detectron2:faster_rcnn_X_101_32x8d_FPN_3x":
        f"{D2}/faster_rcnn_X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl",
    "detectron2:COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml":
        f"{D2}/faster_rcnn_R_50_FPN_1x/137257794/model_final_b275ba.pkl",
    "detectron2:faster_rcnn_r50_c4_1x":
        f"{D2}/faster_rcnn_R_50_C4_1x/137257644/model_final_721ade.pkl",
    "detectron2:new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py":
        "https://dl.fbaipublicfiles.com/detectron2/new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ/"
        "42047764/model_final_bb69de.pkl",
    "mmdet:scratch/faster-rcnn_r50-scratch_fpn_gn-all_6x_coco.py":
        f"{MMDET}/scratch/faster_rcnn_r50_fpn_gn-all_scratch_6x_coco/"
        "scratch_faster_rcnn_r50_fpn_gn_6x_bbox_mAP-0.407_20200201_193013-90813d01.pth",
    "detectron2:rpn_r50_c4_1x": f"{D2}/rpn_R_50_C4_1x/137258005/model_final_450694.pkl",
    "torchvision:COCO_V1":
        "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "torchvision:fasterrcnn_resnet50_fpn_v2":
        "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_names(name: str):
    assert published.is_name(name)
    assert published.url_of(name) == KNOWN[name]


@pytest.mark.parametrize("prefix", published.URLS)
def test_every_name_is_a_recipe_of_its_framework(prefix: str):
    for recipe, url in published.URLS[prefix].items():
        assert recipes.RECIPES[recipe].framework == published.PREFIXES[prefix]
        assert published.url_of(f"{prefix}:{recipe}") == url
        short = recipe.removesuffix(f"_{published.PREFIXES[prefix]}")
        assert published.name_of(recipe) == f"{prefix}:{short}"
        for name in (short, *recipes.RECIPES[recipe].names_of_source):
            assert published.recipe_of(f"{prefix}:{name}") == recipe
            assert published.url_of(f"{prefix}:{name.upper()}") == url
        digits = r"model_final_[0-9a-f]{6}\.pkl" if prefix == "detectron2" else r"-[0-9a-f]{8}\.pth"
        assert re.search(f"{digits}$", url)
    urls = [url for table in published.URLS.values() for url in table.values()]
    assert len(set(urls)) == len(urls)


@pytest.mark.parametrize("name", [n for n, e in recipes.RECIPES.items() if e.framework])
def test_every_recipe_of_a_framework_is_meant_by_its_names(name: str):
    """With or without a file."""
    entry = recipes.RECIPES[name]
    prefix = published.prefix_of(entry.framework)
    for known in (name, name.removesuffix(f"_{entry.framework}"), *entry.names_of_source):
        assert published.recipe_of(f"{prefix}:{known}") == name
    if entry.theirs:
        assert published.recipe_of(f"{prefix}:{entry.theirs}") == name


@pytest.mark.parametrize(("name", "close"), [
    ("mmdet:rpn_r50_fpn_9x", "mmdet:rpn_r50_fpn_1x"),
    ("detectron2:faster_rcnn_R_50_FPN", "detectron2:fasterrcnn_r50_fpn_3x"),
    ("torchvision:COCO_V2", "torchvision:fasterrcnn"),
    ("mmdet:fasterrcnn_r101_caffe_fpn_ms_3x", "mmdet:fasterrcnn_r101_caffe_fpn_1x"),
])  # fmt: skip
def test_unknown_names(name: str, close: str):
    with pytest.raises(UsageError, match=f"^{name}: no published file known; .*{close}"):
        published.url_of(name)


def test_paths_are_no_names():
    assert not any(map(published.is_name, ("x.pth", "a/mmdet/x.pth", "mmdet", "c:/x.pth")))


@pytest.mark.parametrize("name", [
    "mmdet:fasterrcnn_r50_fpn_voc", "mmdet:fasterrcnn_r50_fpn_1x_detectron2",
    "detectron2:faster-rcnn_r50_fpn_2x_coco", "elsewhere:rpn_r50_fpn_1x", "rpn_r50_fpn_1x",
])  # fmt: skip
def test_a_prefix_names_recipes_of_its_framework_only(name: str):
    assert published.recipe_of(name) is None
