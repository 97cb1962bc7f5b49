"""Detectors that frameworks publish: the recipe that a name stands for, and the URL of its file.

Sources of URLs: `configs/{faster_rcnn,rpn,cascade_rcnn,dcn,scratch,resnet_strikes_back}` of
MMDetection (metafile.yml, README.md), MODEL_ZOO.md of Detectron2 and torchvision's weight enums.
Left out: detectors that no recipe here computes, bodies that are not imported, and MMDetection's
r101_caffe_fpn_ms_3x, whose configs of 2.x and 3.x disagree about pixels and strides.
"""

from __future__ import annotations

import difflib
import re

from torchvision.models import detection

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError

PREFIXES = {"mmdet": "mmdetection", "detectron2": "detectron2", "torchvision": "torchvision"}

_MMDETECTION = {  # recipe without the framework: file
    "rpn_r50_caffe_fpn_1x": "rpn_r50_caffe_fpn_1x_coco_20200531-5b903a37",
    "rpn_r50_fpn_1x": "rpn_r50_fpn_1x_coco_20200218-5525fa2e",
    "rpn_r50_fpn_2x": "rpn_r50_fpn_2x_coco_20200131-0728c9b3",
    "rpn_r101_caffe_fpn_1x": "rpn_r101_caffe_fpn_1x_coco_20200531-0629a2e2",
    "rpn_r101_fpn_1x": "rpn_r101_fpn_1x_coco_20200131-2ace2249",
    "rpn_r101_fpn_2x": "rpn_r101_fpn_2x_coco_20200131-24e3db1a",
    "rpn_x101_32x4d_fpn_1x": "rpn_x101_32x4d_fpn_1x_coco_20200219-b02646c6",
    "rpn_x101_32x4d_fpn_2x": "rpn_x101_32x4d_fpn_2x_coco_20200208-d22bd0bb",
    "rpn_x101_64x4d_fpn_1x": "rpn_x101_64x4d_fpn_1x_coco_20200208-cde6f7dd",
    "rpn_x101_64x4d_fpn_2x": "rpn_x101_64x4d_fpn_2x_coco_20200208-c65f524f",
    "fasterrcnn_r50_fpn_1x": "faster_rcnn_r50_fpn_1x_coco_20200130-047c8118",
    "fasterrcnn_r50_fpn_2x": "faster_rcnn_r50_fpn_2x_coco_bbox_mAP-0.384_20200504_210434-a5d8aa15",
    "fasterrcnn_r50_fpn_ms_3x": "faster_rcnn_r50_fpn_mstrain_3x_coco_20210524_110822-e10bd31c",
    "fasterrcnn_r50_caffe_fpn_1x":
        "faster_rcnn_r50_caffe_fpn_1x_coco_bbox_mAP-0.378_20200504_180032-c5925ee5",
    "fasterrcnn_r50_caffe_fpn_ms_3x":
        "faster_rcnn_r50_caffe_fpn_mstrain_3x_coco_20210526_095054-1f77628b",
    "fasterrcnn_r101_fpn_1x": "faster_rcnn_r101_fpn_1x_coco_20200130-f513f705",
    "fasterrcnn_r101_fpn_2x":
        "faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c",
    "fasterrcnn_r101_fpn_ms_3x": "faster_rcnn_r101_fpn_mstrain_3x_coco_20210524_110822-4d4d2ca8",
    "fasterrcnn_r101_caffe_fpn_1x":
        "faster_rcnn_r101_caffe_fpn_1x_coco_bbox_mAP-0.398_20200504_180057-b269e9dd",
    "fasterrcnn_x101_32x4d_fpn_1x": "faster_rcnn_x101_32x4d_fpn_1x_coco_20200203-cff10310",
    "fasterrcnn_x101_32x4d_fpn_2x":
        "faster_rcnn_x101_32x4d_fpn_2x_coco_bbox_mAP-0.412_20200506_041400-64a12c0b",
    "fasterrcnn_x101_32x4d_fpn_ms_3x":
        "faster_rcnn_x101_32x4d_fpn_mstrain_3x_coco_20210524_124151-16b9b260",
    "fasterrcnn_x101_32x8d_fpn_ms_3x":
        "faster_rcnn_x101_32x8d_fpn_mstrain_3x_coco_20210604_182954-002e082a",
    "fasterrcnn_x101_64x4d_fpn_1x": "faster_rcnn_x101_64x4d_fpn_1x_coco_20200204-833ee192",
    "fasterrcnn_x101_64x4d_fpn_2x": "faster_rcnn_x101_64x4d_fpn_2x_coco_20200512_161033-5961fa95",
    "fasterrcnn_x101_64x4d_fpn_ms_3x":
        "faster_rcnn_x101_64x4d_fpn_mstrain_3x_coco_20210524_124528-26c63de6",
    "fasterrcnn_r50_caffe_c4_1x": "faster_rcnn_r50_caffe_c4_1x_coco_20220316_150152-3f885b85",
    "fasterrcnn_r50_caffe_fpn_ms_1x_person":
        "faster_rcnn_r50_fpn_1x_coco-person_20201216_175929-d022e227",
    "fasterrcnn_r50_caffe_fpn_ms_1x_person_bicycle_car":
        "faster_rcnn_r50_fpn_1x_coco-person-bicycle-car_20201216_173117-6eda6d92",
    "cascade_rcnn_r50_caffe_fpn_1x":
        "cascade_rcnn_r50_caffe_fpn_1x_coco_bbox_mAP-0.404_20200504_174853-b857be87",
    "cascade_rcnn_r50_fpn_1x": "cascade_rcnn_r50_fpn_1x_coco_20200316-3dc56deb",
    "cascade_rcnn_r50_fpn_20e":
        "cascade_rcnn_r50_fpn_20e_coco_bbox_mAP-0.41_20200504_175131-e9872a90",
    "cascade_rcnn_r101_caffe_fpn_1x":
        "cascade_rcnn_r101_caffe_fpn_1x_coco_bbox_mAP-0.423_20200504_175649-cab8dbd5",
    "cascade_rcnn_r101_fpn_1x": "cascade_rcnn_r101_fpn_1x_coco_20200317-0b6a2fbf",
    "cascade_rcnn_r101_fpn_20e":
        "cascade_rcnn_r101_fpn_20e_coco_bbox_mAP-0.425_20200504_231812-5057dcc5",
    "cascade_rcnn_x101_32x4d_fpn_1x": "cascade_rcnn_x101_32x4d_fpn_1x_coco_20200316-95c2deb6",
    "cascade_rcnn_x101_32x4d_fpn_20e":
        "cascade_rcnn_x101_32x4d_fpn_20e_coco_20200906_134608-9ae0a720",
    "cascade_rcnn_x101_64x4d_fpn_1x":
        "cascade_rcnn_x101_64x4d_fpn_1x_coco_20200515_075702-43ce6a30",
    "cascade_rcnn_x101_64x4d_fpn_20e":
        "cascade_rcnn_x101_64x4d_fpn_20e_coco_20200509_224357-051557b1",
    "fasterrcnn_r50_caffe_fpn_ms_2x":
        "faster_rcnn_r50_caffe_fpn_mstrain_2x_coco_bbox_mAP-0.397_20200504_231813-10b2de58",
    "fasterrcnn_r50_scratch_fpn_gn_all_6x":
        "scratch_faster_rcnn_r50_fpn_gn_6x_bbox_mAP-0.407_20200201_193013-90813d01",
    "fasterrcnn_r50_rsb_pre_fpn_1x":
        "faster_rcnn_r50_fpn_rsb-pretrain_1x_coco_20220113_162229-32ae82a9",
    "fasterrcnn_r50_fpn_iou_1x": "faster_rcnn_r50_fpn_iou_1x_coco-fdd207f3",
    "fasterrcnn_r50_fpn_giou_1x": "faster_rcnn_r50_fpn_giou_1x_coco-0eada910",
    "fasterrcnn_r50_fpn_bounded_iou_1x": "faster_rcnn_r50_fpn_bounded_iou_1x_coco-98ad993b",
    "fasterrcnn_r50_caffe_dc5_1x": "faster_rcnn_r50_caffe_dc5_1x_coco_20201030_151909-531f0f43",
    "fasterrcnn_r50_caffe_dc5_ms_1x":
        "faster_rcnn_r50_caffe_dc5_mstrain_1x_coco_20201028_233851-b33d21b9",
    "fasterrcnn_r50_caffe_dc5_ms_3x":
        "faster_rcnn_r50_caffe_dc5_mstrain_3x_coco_20201028_002107-34a53b2c",
    "fasterrcnn_r50_dconv_c3_c5_fpn_1x":
        "faster_rcnn_r50_fpn_dconv_c3-c5_1x_coco_20200130-d68aed1e",
    "fasterrcnn_r50_mdconv_c3_c5_fpn_1x":
        "faster_rcnn_r50_fpn_mdconv_c3-c5_1x_coco_20200130-d099253b",
    "fasterrcnn_r50_mdconv_group4_c3_c5_fpn_1x":
        "faster_rcnn_r50_fpn_mdconv_c3-c5_group4_1x_coco_20200130-01262257",
    "fasterrcnn_r101_dconv_c3_c5_fpn_1x":
        "faster_rcnn_r101_fpn_dconv_c3-c5_1x_coco_20200203-1377f13d",
    "fasterrcnn_x101_32x4d_dconv_c3_c5_fpn_1x":
        "faster_rcnn_x101_32x4d_fpn_dconv_c3-c5_1x_coco_20200203-4f85c69c",
    "cascade_rcnn_r50_dconv_c3_c5_fpn_1x":
        "cascade_rcnn_r50_fpn_dconv_c3-c5_1x_coco_20200130-2f1fca44",
    "cascade_rcnn_r101_dconv_c3_c5_fpn_1x":
        "cascade_rcnn_r101_fpn_dconv_c3-c5_1x_coco_20200203-3b2f0594",
}  # fmt: skip
_DETECTRON2 = {  # recipe: config, model id and start of the MD5
    "fasterrcnn_r50_fpn_1x_detectron2": "faster_rcnn_R_50_FPN_1x/137257794/b275ba",
    "fasterrcnn_r50_fpn_3x_detectron2": "faster_rcnn_R_50_FPN_3x/137849458/280758",
    "fasterrcnn_r101_fpn_3x_detectron2": "faster_rcnn_R_101_FPN_3x/137851257/f6e8b1",
    "fasterrcnn_x101_32x8d_fpn_3x_detectron2": "faster_rcnn_X_101_32x8d_FPN_3x/139173657/68b088",
    "fasterrcnn_r50_c4_1x_detectron2": "faster_rcnn_R_50_C4_1x/137257644/721ade",
    "fasterrcnn_r50_c4_3x_detectron2": "faster_rcnn_R_50_C4_3x/137849393/f97cb7",
    "rpn_r50_fpn_1x_detectron2": "rpn_R_50_FPN_1x/137258492/02ce48",
    "rpn_r50_c4_1x_detectron2": "rpn_R_50_C4_1x/137258005/450694",
    "fasterrcnn_r101_c4_3x_detectron2": "faster_rcnn_R_101_C4_3x/138204752/298dad",
    "fasterrcnn_r50_dc5_1x_detectron2": "faster_rcnn_R_50_DC5_1x/137847829/51d356",
    "fasterrcnn_r50_dc5_3x_detectron2": "faster_rcnn_R_50_DC5_3x/137849425/68d202",
    "fasterrcnn_r101_dc5_3x_detectron2": "faster_rcnn_R_101_DC5_3x/138204841/3e0943",
    "fasterrcnn_r50_fpn_1x_dconv_c3_c5_detectron2":
        "mask_rcnn_R_50_FPN_1x_dconv_c3-c5/138602867/65c703",
    "fasterrcnn_r50_fpn_3x_dconv_c3_c5_detectron2":
        "mask_rcnn_R_50_FPN_3x_dconv_c3-c5/144998336/821d0b",
    "cascade_rcnn_r50_fpn_1x_detectron2": "cascade_mask_rcnn_R_50_FPN_1x/138602847/e9d89b",
    "cascade_rcnn_r50_fpn_3x_detectron2": "cascade_mask_rcnn_R_50_FPN_3x/144998488/480dd8",
    "fasterrcnn_r50_fpn_3x_syncbn_detectron2": "mask_rcnn_R_50_FPN_3x_syncbn/169527823/3b3c51",
    "fasterrcnn_r50_fpn_3x_gn_detectron2": "mask_rcnn_R_50_FPN_3x_gn/138602888/dc5d9e",
    "scratch_fasterrcnn_r50_fpn_3x_gn_detectron2":
        "scratch_mask_rcnn_R_50_FPN_3x_gn/138602908/01ca85",
    "fasterrcnn_r50_fpn_100ep_lsj_detectron2": "mask_rcnn_R_50_FPN_100ep_LSJ/42047764/bb69de",
    "fasterrcnn_r50_fpn_400ep_lsj_detectron2": "mask_rcnn_R_50_FPN_400ep_LSJ/42019571/14d201",
    "fasterrcnn_r101_fpn_100ep_lsj_detectron2": "mask_rcnn_R_101_FPN_100ep_LSJ/42025812/4f7b58",
    "fasterrcnn_r101_fpn_400ep_lsj_detectron2": "mask_rcnn_R_101_FPN_400ep_LSJ/42073830/f96b26",
}  # fmt: skip
_TORCHVISION = {
    "fasterrcnn_r50_fpn_torchvision": detection.FasterRCNN_ResNet50_FPN_Weights,
    "fasterrcnn_r50_fpn_v2_torchvision": detection.FasterRCNN_ResNet50_FPN_V2_Weights,
    "fasterrcnn_mobilenet_v3_large_fpn_torchvision":
        detection.FasterRCNN_MobileNet_V3_Large_FPN_Weights,
    "fasterrcnn_mobilenet_v3_large_320_fpn_torchvision":
        detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights,
}  # fmt: skip


def _mmdetection_url(file: str) -> str:
    config = re.split(r"(?:_bbox_mAP-[\d.]+)?_20\d{6}", file)[0]
    if "iou_1x" in config:  # all three are beside the plain detector
        config = "faster_rcnn_r50_fpn_1x_coco"
    if config.startswith("scratch"):
        config = "faster_rcnn_r50_fpn_gn-all_scratch_6x_coco"
    folders = {"_scratch_": "scratch", "rsb": "resnet_strikes_back", "dconv": "dcn"}
    for word, folder in folders.items():
        if word in config:
            return f"https://download.openmmlab.com/mmdetection/v2.0/{folder}/{config}/{file}.pth"
    kind = next(k for k in ("rpn", "cascade_rcnn", "faster_rcnn") if config.startswith(k))
    return f"https://download.openmmlab.com/mmdetection/v2.0/{kind}/{config}/{file}.pth"


def _detectron2_url(file: str) -> str:
    folder, digits = file.rsplit("/", 1)
    page = "Misc" if "mask" in folder else "COCO-Detection"
    page = "new_baselines" if "LSJ" in folder else page
    return f"https://dl.fbaipublicfiles.com/detectron2/{page}/{folder}/model_final_{digits}.pkl"


URLS = {  # by prefix and recipe
    "mmdet": {f"{name}_mmdetection": _mmdetection_url(file) for name, file in _MMDETECTION.items()},
    "detectron2": {recipe: _detectron2_url(file) for recipe, file in _DETECTRON2.items()},
    "torchvision": {recipe: weights.COCO_V1.url for recipe, weights in _TORCHVISION.items()},
}


def recipe_of(name: str) -> str | None:
    """The recipe that ``mmdet:NAME``, ``detectron2:NAME`` or ``torchvision:NAME`` stands for.

    NAME is ours, with or without the framework at its end, or the framework's. None if unknown.
    """
    prefix, _, rest = name.partition(":")
    prefix = prefix.lower()
    if name.lower() == "torchvision:coco_v1":  # each of its four detectors has one; the first
        return "fasterrcnn_r50_fpn_torchvision"
    return recipes.find(PREFIXES[prefix], rest) if prefix in PREFIXES else None


def prefix_of(framework: str) -> str:
    """The part before the colon: ``mmdet`` for mmdetection."""
    return next(prefix for prefix, value in PREFIXES.items() if value == framework)


def name_of(recipe: str) -> str:
    """The shortest name that `recipe_of` accepts: ``mmdet:rpn_r50_fpn_1x``."""
    framework = recipes.RECIPES[recipe].framework
    return f"{prefix_of(framework)}:{recipe.removesuffix(f'_{framework}')}"


def is_name(text: str) -> bool:
    """Whether `text` has the form of a published name, known or not, rather than a path."""
    prefix, colon, _ = text.partition(":")
    return bool(colon) and prefix.lower() in URLS


def url_of(name: str) -> str:
    """The URL of a published name. Raises UsageError, suggesting close names."""
    prefix = name.partition(":")[0].lower()
    recipe = recipe_of(name)
    if recipe not in URLS[prefix]:
        close = difflib.get_close_matches(name, map(name_of, URLS[prefix]), 3, 0.3)
        raise UsageError(f"{name}: no published file known; did you mean {' or '.join(close)}?")
    return URLS[prefix][recipe]
