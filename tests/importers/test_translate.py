"""Every configuration of the zoos: each tensor exactly once, and back to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import detection

from fasterrcnn import recipes
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.importers import mmdetection_text, recognize, translate
from fasterrcnn.importers.names import entries
from fasterrcnn.importers.recognize import Hints
from fasterrcnn.models.build import build
from fasterrcnn.safe_load.reading import File
from tests.importers import synthetic

X101 = {"32x4d": (101, 32, 4), "64x4d": (101, 64, 4), "32x8d": (101, 32, 8)}
# framework, body, neck, detector, source where the tensors cannot tell -> the recipe they are of
CONFIGURATIONS = {
    **{f"mmdet r{depth} {style} {kind}": (
        "mmdetection", (depth, 1, 64), "fpn", kind,
        f"mmdet:{name}_r{depth}{'_caffe' if style == 'caffe' else ''}_fpn_1x")
       for depth in (50, 101) for style in ("pytorch", "caffe")
       for kind, name in (("rpn", "rpn"), ("faster_rcnn", "faster_rcnn"))},
    **{f"mmdet x101 {width} {kind}": ("mmdetection", X101[width], "fpn", kind, None)
       for width in X101 for kind in ("rpn", "faster_rcnn") if (width, kind) != ("32x8d", "rpn")},
    "mmdet c4": ("mmdetection", (50, 1, 64), "none", "faster_rcnn", None),
    "mmdet c4 rpn": ("mmdetection", (50, 1, 64), "none", "rpn", None),
    "detectron2 r50": ("detectron2", (50, 1, 64), "fpn", "faster_rcnn", None),
    "detectron2 r50 rpn": ("detectron2", (50, 1, 64), "fpn", "rpn", None),
    "detectron2 r101": ("detectron2", (101, 1, 64), "fpn", "faster_rcnn", None),
    "detectron2 x101": ("detectron2", X101["32x8d"], "fpn", "faster_rcnn", None),
    "mmdet cascade r50 pytorch": (
        "mmdetection", (50, 1, 64), "fpn", "faster_rcnn", "mmdet:cascade_rcnn_r50_fpn_1x"),
    "mmdet cascade x101 64x4d": (
        "mmdetection", X101["64x4d"], "fpn", "faster_rcnn", None),
    "detectron2 cascade r50": ("detectron2", (50, 1, 64), "fpn", "faster_rcnn", None),
    "mmdet caffe dc5": ("mmdetection", (50, 1, 64), "none", "faster_rcnn", None),
    "detectron2 dc5": ("detectron2", (50, 1, 64), "none", "faster_rcnn", None),
    "mmdet dconv r101": ("mmdetection", (101, 1, 64), "fpn", "faster_rcnn", None),
    "mmdet dconv cascade": (
        "mmdetection", (50, 1, 64), "fpn", "faster_rcnn",
        "mmdet:cascade_rcnn_r50_dconv_c3_c5_fpn_1x"),
    "mmdet mdconv group4": (
        "mmdetection", (50, 1, 64), "fpn", "faster_rcnn",
        "mmdet:fasterrcnn_r50_mdconv_group4_c3_c5_fpn_1x"),
    "mmdet gn": ("mmdetection", (50, 1, 64), "fpn", "faster_rcnn", None),
    "detectron2 gn": ("detectron2", (50, 1, 64), "fpn", "faster_rcnn", None),
    "detectron2 syncbn 2 rpn convs": (
        "detectron2", (50, 1, 64), "fpn", "faster_rcnn", "detectron2:fasterrcnn_r50_fpn_100ep_lsj"),
    "detectron2 cascade syncbn 2 rpn convs": (
        "detectron2", (50, 1, 64), "fpn", "faster_rcnn", None),
    "detectron2 dconv": ("detectron2", (50, 1, 64), "fpn", "faster_rcnn", None),
    "detectron2 c4": ("detectron2", (50, 1, 64), "none", "faster_rcnn", None),
    "detectron2 c4 rpn": ("detectron2", (50, 1, 64), "none", "rpn", None),
}  # fmt: skip


def file_of(tensors: dict[str, torch.Tensor], **meta) -> File:
    return File(Path("x.pth"), tensors, "0" * 64, meta)


def shapes_of(name: str) -> synthetic.Shapes:
    framework, body, neck, detector, _ = CONFIGURATIONS[name]
    offsets = 108 if "group4" in name else 27 if "mdconv" in name else 18 if "dconv" in name else 0
    return getattr(synthetic, framework)(
        *body, neck=neck, detector=detector, stages=3 if "cascade" in name else 1,
        dilated="dc5" in name, offsets=offsets, rpn_convs=2 if "2 rpn convs" in name else 1,
        norm="group" if "gn" in name else "batch" if "syncbn" in name else "",
    )  # fmt: skip


def check_recipe(name: str, recipe: recipes.Recipe) -> None:
    """The conventions are those of the framework and the style."""
    framework = CONFIGURATIONS[name][0]
    version = "v2" if "mdconv" in name else "v1" if "dconv" in name else "none"
    assert recipe.backbone.deformable == version
    assert recipe.backbone.deformable_groups == (4 if "group4" in name else 1)
    assert recipe.backbone.dilation == (2 if "dc5" in name else 1)
    norm = "group" if "gn" in name else "batch" if "syncbn" in name else "none"
    assert (recipe.backbone.fpn_norm, recipe.backbone.norm == "group") == (norm, norm == "group")
    assert recipe.roi_heads.head == ("2fc" if norm == "none" else "4conv1fc") or "c4" in name
    caffe = "caffe" in name or "c4" in name or (framework == "detectron2" and "x101" not in name)
    caffe &= "gn" not in name
    assert recipe.backbone.stride_in_1x1 == caffe
    bgr = caffe or framework == "detectron2" or "32x8d" in name
    assert recipe.input.channel_order == ("bgr" if bgr else "rgb")
    assert recipe.input.image_std == (
        (1.0, 1.0, 1.0) if caffe or name == "detectron2 gn"
        else (57.375, 57.12, 58.395) if bgr else (58.395, 57.12, 57.375)
    )  # fmt: skip
    assert recipe.rpn.topk_by == ("scores" if framework == "mmdetection" else "logits")
    assert recipe.roi_heads.drop_empty == (framework == "detectron2")
    assert recipe.roi_heads.stages == (3 if "cascade" in name else 1)
    if "cascade" in name:
        mmdet = framework == "mmdetection"
        assert recipe.roi_heads.stage_average == ("logits" if mmdet else "scores")
        assert recipe.roi_heads.stage_sampling == ("each" if mmdet else "first")
        assert recipe.rpn.border_anchors == (not mmdet)
        assert recipe.rpn.post_nms_top_n_train == 2000
    if recipe.detector == "rpn":
        assert (recipe.rpn.pre_nms_top_n_test, recipe.rpn.post_nms_top_n_test) == {
            ("mmdetection", "fpn"): (2000, 1000), ("mmdetection", "none"): (12000, 2000),
            ("detectron2", "fpn"): (1000, 2000), ("detectron2", "none"): (12000, 2000),
        }[framework, recipe.backbone.neck]  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_names_and_shapes(name: str):
    """On the meta device: every tensor of theirs has one of ours, of the shape it becomes."""
    framework, _, _, _, source = CONFIGURATIONS[name]
    theirs = {k: torch.empty(s, device="meta") for k, s in shapes_of(name).items()}
    found = recognize.recognize(file_of(theirs), Hints(source))
    check_recipe(name, found.recipe)
    with torch.device("meta"):
        ours = build(found.recipe, 81).state_dict()
    left = {k for k in theirs if not k.endswith("num_batches_tracked")}
    for entry in entries(framework, found.recipe, [*ours], found.rpn):
        assert entry.to_ours(theirs[entry.theirs]).shape == ours[entry.ours].shape, entry
        assert entry.to_theirs(ours[entry.ours]).shape == theirs[entry.theirs].shape, entry
        left.remove(entry.theirs)
    assert not left


@pytest.mark.parametrize(("builder", "source"), [
    ("fasterrcnn_resnet50_fpn", None),
    ("fasterrcnn_resnet50_fpn_v2", None),
    ("fasterrcnn_mobilenet_v3_large_fpn", None),
    ("fasterrcnn_mobilenet_v3_large_320_fpn", "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"),
])  # fmt: skip
def test_names_and_shapes_of_torchvision(builder: str, source: str | None):
    with torch.device("meta"):
        theirs = getattr(detection, builder)(weights=None, weights_backbone=None).state_dict()
    found = recognize.recognize(file_of(theirs), Hints(source))
    assert found.recipe.name == f"{builder.replace('resnet', 'r')}_torchvision"
    assert found.rows == [0, *recognize.COCO.category_ids]
    with torch.device("meta"):
        ours = build(found.recipe, 91).state_dict()
    counts = {name for name in theirs if name.endswith("num_batches_tracked")}
    assert {k: v.shape for k, v in ours.items() if k not in counts} == {
        k: v.shape for k, v in theirs.items() if k not in counts
    }


def there_and_back(name: str) -> None:
    framework, _, _, detector, source = CONFIGURATIONS[name]
    tensors = synthetic.filled(shapes_of(name))
    found = recognize.recognize(file_of(tensors), Hints(source))
    model, report = translate.load(file_of(tensors), found)
    assert all(name.endswith("num_batches_tracked") for name in report["not_used"])
    again = translate.dump(model, found.recipe, framework, found.rpn)
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in tensors.items()}
    assert all(again[k].equal(v) for k, v in tensors.items())
    model.transform.config = recipes.change(
        found.recipe, input=dict(min_size=96, max_size=128, train_min_sizes=())
    ).input
    with torch.no_grad():
        (detections,) = model([torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)])
    assert torch.isfinite(detections["boxes"]).all()
    assert torch.isfinite(detections["scores"]).all()
    assert detector != "rpn" or len(detections["scores"]) > 10


@pytest.mark.parametrize("name", ["mmdet r50 caffe rpn", "detectron2 cascade r50"])
def test_there_and_back(name: str):
    there_and_back(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_there_and_back(name: str):
    there_and_back(name)


def test_rows_change_places():
    """Background first here and last there; boxes of background only here."""
    shapes = synthetic.detectron2(detector="faster_rcnn", classes=3)
    tensors = synthetic.filled(shapes)
    found = recognize.recognize(file_of(tensors), Hints(names=("cat", "dog", "fox")))
    model, _ = translate.load(file_of(tensors), found)
    predictor = model.roi_heads.box_predictor
    theirs = tensors["roi_heads.box_predictor.cls_score.weight"]
    assert predictor.cls_score.weight[0].equal(theirs[3])
    assert predictor.cls_score.weight[1:].equal(theirs[:3])
    boxes = tensors["roi_heads.box_predictor.bbox_pred.weight"]
    assert not predictor.bbox_pred.weight[:4].any()
    assert predictor.bbox_pred.weight[4:].equal(boxes)
    assert found.classes.names == ("cat", "dog", "fox")


def test_anchors_of_several_sizes_change_places():
    """Detectron2 goes size by size, 5 sizes of 3 ratios; here ratio by ratio."""
    tensors = synthetic.filled(synthetic.detectron2(neck="none", detector="rpn"))
    found = recognize.recognize(file_of(tensors), Hints())
    model, _ = translate.load(file_of(tensors), found)
    logits = tensors["proposal_generator.rpn_head.objectness_logits.bias"]
    deltas = tensors["proposal_generator.rpn_head.anchor_deltas.bias"]
    for size in range(5):
        for ratio in range(3):
            ours, theirs = ratio * 5 + size, size * 3 + ratio
            assert model.rpn.head.cls_logits.bias[ours] == logits[theirs]
            own = model.rpn.head.bbox_pred.bias[4 * ours : 4 * ours + 4]
            assert own.equal(deltas[4 * theirs : 4 * theirs + 4])
            anchor = model.rpn.anchor_generator.cell_anchors[0][ours]
            area = (anchor[2] - anchor[0]) * (anchor[3] - anchor[1])
            assert area.sqrt() == pytest.approx(32 * 2**size)


def test_a_file_of_a_lazy_config_is_told_by_its_layers():
    """It has no config inside: a name or flags say the rest."""
    shapes = synthetic.detectron2(detector="faster_rcnn", norm="batch", rpn_convs=2)
    tensors = {k: torch.empty(s, device="meta") for k, s in shapes.items()}
    given = {"backbone.stride_in_1x1": False}
    for hints, name, style in (
        (Hints(), "fasterrcnn_r50_fpn_100ep_lsj_detectron2", True),
        (Hints(fields=given), "fasterrcnn_r50_fpn_100ep_lsj_detectron2", False),
        (Hints("detectron2:new_baselines/mask_rcnn_R_50_FPN_400ep_LSJ.py"),
         "fasterrcnn_r50_fpn_400ep_lsj_detectron2", True),
    ):  # fmt: skip
        found = recognize.recognize(file_of(tensors), hints).recipe
        assert (found.name, found.backbone.stride_in_1x1) == (name, style)
    with pytest.raises(
        UsageError, match=r"holds .* a box head of four convolutions with batch norm"
    ):
        recognize.recognize(file_of(tensors), Hints("detectron2:faster_rcnn_R_50_FPN_3x"))
    regnet = {k.replace("res2.0.conv1", "s1.b1.f.a"): v for k, v in tensors.items()}
    regnet = {k: v for k, v in regnet.items() if ".res" not in k}
    with pytest.raises(CheckpointError, match="its body is a RegNet; detectors are"):
        recognize.recognize(file_of(regnet), Hints())


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.pop("neck.fpn_convs.2.conv.bias"), "neck.fpn_convs.2.conv.bias: missing"),
    (lambda t: t.update({"roi_head.other_head.conv.weight": torch.zeros(3)}),
     r"other_head.conv.weight: unknown \(1 such"),
    (lambda t: t.update({"rpn_head.rpn_cls.bias": torch.zeros(5)}), r"rpn_cls.bias: shape \(5,\)"),
    (lambda t: t.update({"rpn_head.rpn_cls.bias": torch.zeros(3, dtype=torch.int64)}),
     "rpn_cls.bias: torch.int64: is not a dtype of weights"),
], ids=["missing", "extra", "shape", "dtype"])  # fmt: skip
def test_files_that_do_not_fit(change, message: str):
    tensors = synthetic.filled(synthetic.mmdetection(detector="faster_rcnn"))
    change(tensors)
    file = file_of(tensors)
    found = recognize.recognize(file, Hints("mmdet:faster_rcnn_r50_fpn_1x"))
    with pytest.raises(CheckpointError, match=message):
        translate.load(file, found)


def test_statistics_that_detectron2_left_out():
    tensors = synthetic.filled(synthetic.detectron2(detector="rpn"))
    for leaf in ("running_mean", "running_var"):
        del tensors[f"backbone.bottom_up.stem.conv1.norm.{leaf}"]
    found = recognize.recognize(file_of(tensors), Hints())
    model, report = translate.load(file_of(tensors), found)
    norm = model.backbone.body.bn1
    assert not norm.running_mean.any()
    assert (norm.running_var + norm.eps == 1).all()
    assert report["tensors"]["backbone.body.bn1.running_var"]["from"] is None


@pytest.mark.parametrize(("name", "framework", "message"), [
    ("fasterrcnn_r50_fpn_1x", "mmdetection", "rpn.round_anchors is True, there False"),
    ("fasterrcnn_r50_fpn_1x_mmdetection", "torchvision", "rpn.round_anchors is False"),
    ("fasterrcnn_r50_fpn_1x_detectron2", "mmdetection", "rpn.topk_by is logits"),
    ("fasterrcnn_mobilenet_v3_large_fpn_torchvision", "detectron2", "rpn.round_anchors"),
    ("cascade_rcnn_r50_fpn_1x", "torchvision", "a cascade of 3 box heads, there 1"),
    ("cascade_rcnn_r50_fpn_1x_mmdetection", "torchvision", "a cascade of 3 box heads, there 1"),
    ("cascade_rcnn_r50_fpn_1x_mmdetection", "detectron2", r"there .* and \d+ more"),
    ("fasterrcnn_r50_dconv_c3_c5_fpn_1x_mmdetection", "torchvision", r"and \d+ more"),
    ("fasterrcnn_vgg16_voc", "torchvision", "rpn.anchor_strides is fixed, there grid"),
    ("fast_rcnn_r50_fpn_voc", "torchvision", "it needs a region proposal network"),
])  # fmt: skip
def test_what_another_framework_cannot_compute_is_not_exported(name, framework, message):
    with pytest.raises(UsageError, match=message):
        translate.check_expressible(recipes.get(name), framework)


def test_another_resizing_is_another_detector():
    recipe = recipes.get("fasterrcnn_r50_fpn_1x")
    translate.check_expressible(recipe, "torchvision")
    with pytest.raises(UsageError, match=r"input\.resize is pillow, there float"):
        translate.check_expressible(
            recipes.change(recipe, input=dict(resize="pillow")), "torchvision"
        )


@pytest.mark.parametrize("source", [None, "torchvision:COCO_V1", "torchvision:fasterrcnn_r50_fpn"])
def test_torchvisions_published_detector_has_norms_without_epsilon(source: str | None):
    with torch.device("meta"):
        theirs = detection.fasterrcnn_resnet50_fpn(weights_backbone=None).state_dict()
    file = File(Path("x.pth"), theirs, "258fb6c6" + "0" * 56, {})
    found = recognize.recognize(file, Hints(source))
    assert found.recipe.backbone.norm_eps == 0
    assert "epsilon 0" in found.rule
    other = recognize.recognize(file_of(theirs), Hints(source))
    assert other.recipe.backbone.norm_eps == 1e-5


def test_mmdetections_config_says_what_tensors_cannot():
    tensors = synthetic.filled(synthetic.mmdetection(detector="rpn", old_rpn_names=True))
    with pytest.raises(UsageError, match=r"mmdet:rpn_r50_caffe_fpn_1x or mmdet:rpn_r50_fpn_1x$"):
        recognize.recognize(file_of(tensors), Hints())
    old = (
        "model = dict(type='RPN', pretrained='x', backbone=dict(type='ResNet', style='caffe', "
        "norm_cfg=dict(type='BN', requires_grad=False)))\n"
        "test_cfg = dict(rpn=dict(nms_across_levels=False, nms_pre=2000, nms_post=2000, "
        "max_num=900, nms_thr=0.65, min_bbox_size=0))\n"
        "img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)\n"
        "x = __import__('os').system('false')\n"
    )
    found = recognize.recognize(file_of(tensors, config=old), Hints())
    assert found.rpn == "rpn_head"
    recipe = found.recipe
    assert recipe.backbone.stride_in_1x1
    assert recipe.backbone.norm == "frozen"
    assert recipe.input.channel_order == "bgr"
    assert recipe.input.image_mean == (103.53, 116.28, 123.675)
    assert (recipe.rpn.post_nms_top_n_test, recipe.rpn.nms_thresh) == (900, 0.65)
    text = mmdetection_text.text(recipe)
    assert recognize.recognize(file_of(tensors, cfg=text), Hints()).recipe == recipe


@pytest.mark.parametrize("framework", ["mmdetection", "detectron2"])
def test_a_mask_head_is_left_out_and_said(framework: str):
    prefix = "roi_head" if framework == "mmdetection" else "roi_heads"
    tensors = synthetic.filled(getattr(synthetic, framework)(detector="faster_rcnn", stages=3))
    masks = {f"{prefix}.mask_head.0.convs.0.conv.weight": torch.zeros(4, 4, 3, 3),
             f"{prefix}.mask_head.predictor.bias": torch.zeros(4)}  # fmt: skip
    source = "mmdet:cascade_rcnn_r50_fpn_1x" if framework == "mmdetection" else None
    found = recognize.recognize(file_of(tensors | masks), Hints(source))
    _, report = translate.load(file_of(tensors | masks), found)
    assert report["heads_left_out"] == ["mask"]
    assert set(masks) <= set(report["not_used"])


@pytest.mark.parametrize(("builder", "head", "recipe"), [
    ("maskrcnn_resnet50_fpn", "mask", "fasterrcnn_r50_fpn_torchvision"),
    ("maskrcnn_resnet50_fpn_v2", "mask", "fasterrcnn_r50_fpn_v2_torchvision"),
    ("keypointrcnn_resnet50_fpn", "keypoint", "fasterrcnn_r50_fpn_torchvision"),
])  # fmt: skip
def test_torchvisions_mask_and_keypoint_detectors(builder: str, head: str, recipe: str):
    theirs = getattr(detection, builder)(weights=None, weights_backbone=None).state_dict()
    names = ("person",) if head == "keypoint" else ()
    found = recognize.recognize(file_of(theirs), Hints(names=names))
    model, report = translate.load(file_of(theirs), found)
    assert (found.recipe.name, report["heads_left_out"]) == (recipe, [head])
    assert model.backbone.body.conv1.weight.equal(theirs["backbone.body.conv1.weight"])


def test_a_plain_file_is_no_cascade_and_a_cascade_no_plain_one():
    for stages, other in ((1, "cascade_rcnn_r50_fpn_1x"), (3, "fasterrcnn_r50_fpn_1x")):
        shapes = synthetic.mmdetection(detector="faster_rcnn", stages=stages)
        tensors = {k: torch.empty(s, device="meta") for k, s in shapes.items()}
        with pytest.raises(
            UsageError, match=r"fpn(, a cascade of 3)?, but x.pth holds faster_rcnn"
        ):
            recognize.recognize(file_of(tensors), Hints(f"mmdet:{other}"))


@pytest.mark.parametrize("framework", ["mmdetection", "detectron2"])
def test_class_agnostic_boxes_of_a_plain_head(framework: str):
    shapes = getattr(synthetic, framework)(detector="faster_rcnn")
    prefix = "roi_head.bbox_head.fc_reg" if framework == "mmdetection" else (
        "roi_heads.box_predictor.bbox_pred"
    )  # fmt: skip
    shapes |= {f"{prefix}.weight": (4, 1024), f"{prefix}.bias": (4,)}
    tensors = synthetic.filled(shapes)
    source = "mmdet:fasterrcnn_r50_fpn_1x" if framework == "mmdetection" else None
    found = recognize.recognize(file_of(tensors), Hints(source))
    assert found.recipe.roi_heads.class_agnostic
    model, _ = translate.load(file_of(tensors), found)
    again = translate.dump(model, found.recipe, framework, found.rpn)
    assert again[f"{prefix}.weight"].equal(tensors[f"{prefix}.weight"])


@pytest.mark.parametrize("name", [
    "fasterrcnn_r50_caffe_dc5_1x_mmdetection",
    "fasterrcnn_r50_mdconv_group4_c3_c5_fpn_1x_mmdetection",
])  # fmt: skip
def test_the_config_says_dilation_and_deformable_convolutions(name: str):
    recipe = recipes.get(name)
    dilated = "dc5" in name
    shapes = synthetic.mmdetection(
        neck="none" if dilated else "fpn", detector="faster_rcnn", dilated=dilated,
        offsets=0 if dilated else 108,
    )  # fmt: skip
    tensors = {k: torch.empty(s, device="meta") for k, s in shapes.items()}
    text = mmdetection_text.text(recipe)
    found = recognize.recognize(file_of(tensors, cfg=text), Hints()).recipe
    assert recipes.change(found, name=recipe.name) == recipe
    for old, new, message in (
        ("strides=[1, 2, 2, 1]", "strides=[1, 2, 2, 2]", "backbone.strides is"),
        ("stage_with_dcn=[False", "stage_with_dcn=[True", "stage_with_dcn is"),
        ("fallback_on_stride=False", "fallback_on_stride=True", "fallback_on_stride is True"),
    ):
        if old in text:
            with pytest.raises(CheckpointError, match=message):
                recognize.recognize(file_of(tensors, cfg=text.replace(old, new)), Hints())


def test_old_names_of_offsets_are_read():
    shapes = synthetic.mmdetection(detector="faster_rcnn", offsets=18)
    tensors = {
        name.replace("conv2.conv_offset", "conv2_offset"): value
        for name, value in synthetic.filled(shapes).items()
    }
    found = recognize.recognize(file_of(tensors), Hints("mmdet:fasterrcnn_r50_dconv_c3_c5_fpn_1x"))
    model, _ = translate.load(file_of(tensors), found)
    bias = tensors["backbone.layer3.1.conv2_offset.bias"]
    assert model.backbone.body.layer3[1].conv2_offset.bias.equal(bias)


def test_a_config_of_a_cascade_says_what_its_stages_are():
    shapes = synthetic.mmdetection(detector="faster_rcnn", stages=3)
    tensors = {k: torch.empty(s, device="meta") for k, s in shapes.items()}
    recipe = recipes.change(
        recipes.get("cascade_rcnn_r50_caffe_fpn_1x_mmdetection"),
        rpn=dict(border_anchors=True, edge_anchors=True),
        roi_heads=dict(
            stage_iou_thresh=(0.4, 0.55, 0.65),
            stage_loss_weights=(1.0, 0.7, 0.3),
            stage_reg_weights=(10.0, 10.0, 4.0, 4.0, 16.0, 16.0, 8.0, 8.0, 25.0, 25.0, 20.0, 20.0),
        ),
    )
    text = mmdetection_text.text(recipe)
    assert recognize.recognize(file_of(tensors, cfg=text), Hints()).recipe == recipe
    for old, new, message in (
        ("reg_class_agnostic=True", "reg_class_agnostic=False", "reg_class_agnostic is False"),
        ("allowed_border=-1", "allowed_border=2", "allowed_border is 2"),
    ):
        with pytest.raises(CheckpointError, match=message):
            recognize.recognize(file_of(tensors, cfg=text.replace(old, new)), Hints())


def test_other_files_are_named():
    conv = torch.zeros(64, 3, 7, 7)
    for tensors, message in (
        ({"conv1.weight": conv, "fc.weight": torch.zeros(2, 2)}, "a classifier; to start training"),
        ({"transformer.encoder.weight": conv}, "no Faster R-CNN or RPN of"),
        ({"rpn_head.rpn_conv.weight": conv, "backbone.stage1.weight": conv}, "no ResNet body"),
    ):
        with pytest.raises(CheckpointError, match=message):
            recognize.recognize(file_of(tensors), Hints())
