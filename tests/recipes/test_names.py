"""Names of recipes: what they were called, what their sources call them, what they promise."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import asdict

import pytest

from fasterrcnn import recipes
from fasterrcnn.errors import UsageError
from fasterrcnn.recipes import conventions

# All names of before.
FORMER = """
fasterrcnn_r50_fpn_1x fasterrcnn_r50_fpn_torchvision fasterrcnn_r50_fpn_v2_torchvision
fasterrcnn_mobilenet_v3_large_fpn_torchvision fasterrcnn_mobilenet_v3_large_320_fpn_torchvision
rpn_r50_caffe_fpn_1x rpn_r50_fpn_1x rpn_r50_fpn_2x rpn_r101_caffe_fpn_1x rpn_r101_fpn_1x
rpn_r101_fpn_2x rpn_x101_32x4d_fpn_1x rpn_x101_32x4d_fpn_2x rpn_x101_64x4d_fpn_1x
rpn_x101_64x4d_fpn_2x rpn_r50_caffe_c4_1x fasterrcnn_r50_fpn_1x_mmdetection fasterrcnn_r50_fpn_2x
fasterrcnn_r50_fpn_ms_3x fasterrcnn_r50_caffe_fpn_1x fasterrcnn_r50_caffe_fpn_2x
fasterrcnn_r50_caffe_fpn_ms_1x fasterrcnn_r50_caffe_fpn_ms_3x fasterrcnn_r101_fpn_1x
fasterrcnn_r101_fpn_2x fasterrcnn_r101_fpn_ms_3x fasterrcnn_r101_caffe_fpn_1x
fasterrcnn_r101_caffe_fpn_2x fasterrcnn_r101_caffe_fpn_ms_3x fasterrcnn_x101_32x4d_fpn_1x
fasterrcnn_x101_32x4d_fpn_2x fasterrcnn_x101_32x4d_fpn_ms_3x fasterrcnn_x101_32x8d_fpn_ms_3x
fasterrcnn_x101_64x4d_fpn_1x fasterrcnn_x101_64x4d_fpn_2x fasterrcnn_x101_64x4d_fpn_ms_3x
fasterrcnn_r50_caffe_c4_1x fasterrcnn_r50_caffe_fpn_ms_1x_person
fasterrcnn_r50_caffe_fpn_ms_1x_person_bicycle_car fasterrcnn_r50_fpn_1x_detectron2
fasterrcnn_r50_fpn_3x_detectron2 fasterrcnn_r101_fpn_3x_detectron2
fasterrcnn_x101_32x8d_fpn_3x_detectron2 fasterrcnn_r50_c4_1x_detectron2
fasterrcnn_r50_c4_3x_detectron2 rpn_r50_fpn_1x_detectron2 rpn_r50_c4_1x_detectron2
fasterrcnn_vgg16_voc rpn_vgg16_voc fast_rcnn_vgg16_voc fasterrcnn_r50_fpn_voc rpn_r50_fpn_voc
fast_rcnn_r50_fpn_voc fasterrcnn_r10_fpn_shapes rpn_r10_fpn_shapes fast_rcnn_r10_fpn_shapes
""".split()


@pytest.mark.parametrize("old", FORMER)
def test_a_former_name_is_unchanged_or_answered_with_the_new_one(old: str):
    if old in recipes.RECIPES:
        assert recipes.get(old).name == old
        return
    new = f"{old}_mmdetection"
    with pytest.raises(UsageError, match=f"^--recipe: {old}: renamed to {new}$"):
        recipes.get(old)
    assert recipes.former_names(new) == [old]


def test_nothing_else_was_renamed():
    assert len(FORMER) == 56
    assert set(recipes.RENAMED_RECIPES) == set(FORMER) - set(recipes.RECIPES)
    assert set(recipes.RENAMED_RECIPES.values()) <= set(recipes.RECIPES) - set(FORMER)
    assert not recipes.former_names("fasterrcnn_r50_fpn_1x")
    fields = set(recipes.flat(recipes.fasterrcnn_r50_fpn_1x()))
    assert set(recipes.RENAMED_FIELDS.values()) <= fields
    assert not set(recipes.RENAMED_FIELDS) & fields
    for old, new in recipes.RENAMED_FIELDS.items():
        assert old.partition(".")[0] == new.partition(".")[0]


def test_a_recipe_stored_under_former_names_is_read():
    recipe = recipes.change(
        recipes.get("rpn_r50_fpn_1x_mmdetection"), rpn=dict(topk_by="logits", low_quality_gt="own")
    )
    saved = json.loads(json.dumps(asdict(recipe)))
    saved["name"] = "rpn_r50_fpn_1x"
    saved["rpn"]["rank"] = saved["rpn"].pop("topk_by")
    saved["rpn"]["low_quality_truth"] = saved["rpn"].pop("low_quality_gt")
    assert recipes.from_dict(saved) == recipe


MMDETECTION = {  # in the spelling of 3.x, of 2.x, and with folder and suffix
    "faster-rcnn_x101-64x4d_fpn_ms-3x_coco": "fasterrcnn_x101_64x4d_fpn_ms_3x",
    "faster_rcnn_x101_64x4d_fpn_mstrain_3x_coco": "fasterrcnn_x101_64x4d_fpn_ms_3x",
    "configs/faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py": "fasterrcnn_r50_fpn_1x",
    "faster-rcnn_r50-caffe-c4_1x_coco": "fasterrcnn_r50_caffe_c4_1x",
    "rpn_r50-caffe_fpn_1x_coco": "rpn_r50_caffe_fpn_1x",
    "rpn_r50_caffe_fpn_1x_coco.py": "rpn_r50_caffe_fpn_1x",
    "rpn/rpn_r50_fpn_1x_coco.py": "rpn_r50_fpn_1x",
    "faster-rcnn_r50-caffe_fpn_ms-1x_coco-person": "fasterrcnn_r50_caffe_fpn_ms_1x_person",
    "faster_rcnn_r50_caffe_fpn_mstrain_1x_coco-person-bicycle-car":
        "fasterrcnn_r50_caffe_fpn_ms_1x_person_bicycle_car",
}  # fmt: skip
THEIRS = {
    **{theirs: f"{ours}_mmdetection" for theirs, ours in MMDETECTION.items()},
    "faster_rcnn_R_50_FPN_1x": "fasterrcnn_r50_fpn_1x_detectron2",
    "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml": "fasterrcnn_r50_fpn_3x_detectron2",
    "faster_rcnn_X_101_32x8d_FPN_3x": "fasterrcnn_x101_32x8d_fpn_3x_detectron2",
    "rpn_R_50_C4_1x.yaml": "rpn_r50_c4_1x_detectron2",
    "fasterrcnn_resnet50_fpn": "fasterrcnn_r50_fpn_torchvision",
    "fasterrcnn_resnet50_fpn_v2": "fasterrcnn_r50_fpn_v2_torchvision",
    "fasterrcnn_mobilenet_v3_large_fpn": "fasterrcnn_mobilenet_v3_large_fpn_torchvision",
    "fasterrcnn_mobilenet_v3_large_320_fpn": "fasterrcnn_mobilenet_v3_large_320_fpn_torchvision",
}


@pytest.mark.parametrize("theirs", THEIRS)
def test_a_sources_own_name_is_accepted(theirs: str):
    assert recipes.get(theirs).name == THEIRS[theirs]


@pytest.mark.parametrize("near", [
    "faster_rcnn_r_50_fpn_1x", "faster_rcnn_R_50_FPN_9x", "faster-rcnn_r50_fpn_1x",
    "schedule_2x", "some/fasterrcnn_r50_fpn_1x", "",
])  # fmt: skip
def test_what_only_resembles_a_sources_name_is_refused(near: str):
    with pytest.raises(UsageError, match=f"^--recipe: {re.escape(near)}: unknown"):
        recipes.get(near)


def test_every_name_means_one_recipe():
    theirs = [
        name for entry in recipes.RECIPES.values() for name in dict.fromkeys(entry.names_of_source)
    ]
    every = [*recipes.RECIPES, *recipes.RENAMED_RECIPES, *theirs]
    assert len(set(every)) == len(every)


# A name's tokens.
PATTERN = re.compile(
    r"((?P<start>scratch)_)?(?P<detector>rpn|fasterrcnn|fast_rcnn|cascade_rcnn)"
    r"_(?P<body>r10|r50|r101|x101_32x4d|x101_32x8d|x101_64x4d|vgg16|mobilenet_v3_large"
    r"|regnetx_(400mf|800mf|1_6gf|3_2gf|4gf)|res2net_101|s50|s101)"
    r"(_(?P<weights>scratch|tnr_pre|rsb_pre))?(_(?P<style>caffe))?(_(?P<deformable>dconv|mdconv|mdconv_group4)_c3_c5)?(_(?P<size>320))?"
    r"(_(?P<neck>fpn(_syncbn_backbone_head)?|c4|dc5))?(_(?P<version>v2))?"
    r"(_(?P<scales>ms(_range)?))?(_(?P<variant>iou|giou|bounded_iou|gn_all|amp|noaug|ohem))?"
    r"(_(?P<schedule>1x|2x|3x|6x|20e|100ep|400ep|voc|shapes))?"
    r"(_(?P<layers>dconv_c3_c5|gn|syncbn|lsj))?(_(?P<subset>person(_bicycle_car)?))?"
    r"(_(?P<framework>mmdetection|detectron2|torchvision))?"
)


def fields(*changes: conventions.Changes) -> set[str]:
    """Dotted names of what `changes` change."""
    return {f"{group}.{name}" for each in changes for group in each for name in each[group]}


# What recipes may differ in whose names differ in one token, by the token's kind and by its values.
MAY_DIFFER = {
    "detector": {"detector", "rpn.pre_nms_top_n_test", "rpn.post_nms_top_n_test"},
    "cascade_rcnn": fields(conventions.CASCADE_MMDETECTION, conventions.CASCADE_DETECTRON2),
    "body": {"backbone.name"},
    "x101_32x8d": fields(conventions.X101_32X8D),
    "mobilenet_v3_large": {"rpn.all_sizes_per_level", "rpn.score_thresh"},
    "style": fields(conventions.CAFFE_STYLE),
    "size": {"input.min_size", "input.max_size", "rpn.pre_nms_top_n_test",
             "rpn.post_nms_top_n_test"},
    "deformable": {"backbone.deformable", "backbone.deformable_groups"},
    "layers": {"backbone.deformable", "backbone.norm", "backbone.fpn_norm",
               "backbone.stride_in_1x1", "roi_heads.head", "roi_heads.head_norm"},
    "start": {"weights", "backbone.trainable_layers"},
    "weights": {"weights", "schedule.optimizer", "schedule.lr", "schedule.weight_decay",
                "schedule.decay_norms"},
    **{f"regnetx_{size}": {"schedule.weight_decay"}
       for size in ("400mf", "800mf", "1_6gf", "3_2gf", "4gf")},
    "amp": {"amp"},
    "ohem": {"roi_heads.sampler"},
    "noaug": {"input.train_min_sizes", "rpn.beta", "roi_heads.beta", "roi_heads.aligned",
              "roi_heads.sampling_ratio"},
    "dc5": {*fields(conventions.DC5), "rpn.border_anchors", "rpn.edge_anchors"},
    "neck": {*fields(conventions.C4), "input.size_divisible", "rpn.post_nms_top_n_test"},
    "version": {"augment.jitter", "backbone.norm", "backbone.trainable_layers",
                "backbone.fpn_norm", "rpn.conv_depth", "roi_heads.head", "schedule.epochs",
                "schedule.milestones", "schedule.lr", "schedule.weight_decay",
                "schedule.images_per_step"},
    "variant": {"roi_heads.box_loss", "roi_heads.box_loss_weight"},
    "scales": {"input.train_min_sizes", "input.train_sampling"},
    "schedule": {"schedule.epochs", "schedule.milestones"},
    "voc": {"schedule.lr", "schedule.warmup_steps", "input.min_size", "input.max_size",
            "data.train_split"},
    "subset": {"weights", "data.classes"},
}  # fmt: skip
# What a source itself does differently from its neighbors.
EXCEPTIONS = {
    "fasterrcnn_r50_caffe_fpn_ms_2x_mmdetection": {"schedule.milestones"},  # 16 and 23
    "fasterrcnn_r50_caffe_dc5_ms_3x_mmdetection": MAY_DIFFER["scales"],
    # Six scales where MMDetection's other ms recipes of 3x draw from a range.
    "fasterrcnn_r50_caffe_fpn_ms_3x_mmdetection": MAY_DIFFER["scales"],
    # Alternating training of the paper.
    "rpn_vgg16_voc": {"rpn.pre_nms_top_n_train", "schedule.epochs", "schedule.milestones",
                      "schedule.images_per_step"},
    "fast_rcnn_vgg16_voc": {"roi_heads.batch_size_per_image", "schedule.epochs",
                            "schedule.milestones", "schedule.images_per_gpu"},
    "fasterrcnn_r50_c4_voc_detectron2": MAY_DIFFER["scales"],
    "fast_rcnn_r50_fpn_1x_detectron2": {"rpn.post_nms_top_n_train"},  # stored proposals
    # The demo's RPN alone: longer, on more anchors.
    "rpn_r10_fpn_shapes": {"rpn.batch_size_per_image", "schedule.epochs", "schedule.milestones"},
}  # fmt: skip


def tokens(name: str) -> dict[str, str | None]:
    match = PATTERN.fullmatch(name)
    assert match, f"{name}: not made of known tokens"
    return match.groupdict()


def neighbors() -> list[tuple[str, str, str]]:
    """Two recipes of one framework and the only kind of token that their names differ in."""
    found = []
    for a, b in itertools.combinations(recipes.RECIPES, 2):
        before, after = tokens(a), tokens(b)
        kinds = [kind for kind in before if before[kind] != after[kind]]
        if len(kinds) == 1 and kinds != ["framework"]:
            found.append((a, b, kinds[0]))
    return found


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_name_ends_in_its_framework_or_is_ours(name: str):
    assert (tokens(name)["framework"] or "") == recipes.RECIPES[name].framework


@pytest.mark.parametrize(("a", "b", "kind"), neighbors())
def test_recipes_differ_in_no_more_than_their_names_say(a: str, b: str, kind: str):
    allowed = {"name"}.union(*(
        table.get(key, set())
        for table, key in ((MAY_DIFFER, kind), (MAY_DIFFER, tokens(a)[kind]),
                           (MAY_DIFFER, tokens(b)[kind]), (EXCEPTIONS, a), (EXCEPTIONS, b))
    ))  # fmt: skip
    before, after = recipes.flat(recipes.get(a)), recipes.flat(recipes.get(b))
    different = {field for field in before if before[field] != after[field]}
    assert different - {"name"}
    assert different <= allowed


def test_there_are_neighbors_of_every_kind():
    pairs = neighbors()
    assert {kind for _, _, kind in pairs} == {*PATTERN.groupindex} - {"framework"}
    assert len(pairs) > 60


@pytest.mark.parametrize(
    "name", [n for n, entry in recipes.RECIPES.items() if entry.framework and entry.theirs]
)
def test_a_name_is_its_sources_in_our_spelling(name: str):
    entry = recipes.RECIPES[name]
    theirs = entry.names_of_source[-1].lower()
    theirs += "_voc" * ("VOC" in entry.theirs)  # in the folder's name only
    for before, after in (
        ("faster_rcnn", "fasterrcnn"), ("cascade_mask_rcnn", "cascade_rcnn"),
        ("mask_rcnn", "fasterrcnn"),
        ("_coco", ""), ("mstrain", "ms"), ("resnet", "r"),
        ("_r_", "_r"), ("_x_", "_x"), ("-", "_"), (".", "_"), ("+", "_"),
    ):  # fmt: skip
        theirs = theirs.replace(before, after)
    assert f"{theirs}_{entry.framework}" == name


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_label_says_source_command_and_numbers(name: str):
    entry = recipes.RECIPES[name]
    _, source, run, published, measured = entry.label().splitlines()
    assert source == f"Source: {entry.source}."
    assert run.startswith(f"Run: fasterrcnn train --recipe {name} --data-path DIR")
    assert ("--weights RUN" in run) == ("_person" in name or "_pre_" in name)
    assert ("--proposals" in run) == name.startswith("fast_rcnn_")
    if entry.published is None:
        assert published == "Published: nothing."
    else:
        assert entry.published.by in published
    assert measured == f"Here: {entry.measured}."


def test_labels_in_full():
    assert recipes.RECIPES["rpn_r50_caffe_fpn_1x_mmdetection"].label() == (
        "RPN, R-50-FPN (caffe), COCO, 12 epochs\n"
        "Source: MMDetection 3.3 configs/rpn/rpn_r50-caffe_fpn_1x_coco.py.\n"
        "Run: fasterrcnn train --recipe rpn_r50_caffe_fpn_1x_mmdetection --data-path DIR\n"
        "Published: AR_1000 58.7 (MMDetection, 8 V100, 3.5 GB per GPU, 22.6 images/s at batch 1).\n"
        "Here: not yet measured."
    )
    assert "mAP 69.9 on VOC 2007 test" in recipes.RECIPES["fast_rcnn_vgg16_voc"].label()
