"""Names that recipes and their fields had before, and what they are called now.

Recipes stored in older checkpoints are read through these tables. A user who gives an old name is
told the new one.
"""

from __future__ import annotations

RENAMED_RECIPES: dict[str, str] = {
    old: f"{old}_mmdetection"
    for old in (
        "rpn_r50_caffe_fpn_1x",
        "rpn_r50_fpn_1x",
        "rpn_r50_fpn_2x",
        "rpn_r101_caffe_fpn_1x",
        "rpn_r101_fpn_1x",
        "rpn_r101_fpn_2x",
        "rpn_x101_32x4d_fpn_1x",
        "rpn_x101_32x4d_fpn_2x",
        "rpn_x101_64x4d_fpn_1x",
        "rpn_x101_64x4d_fpn_2x",
        "rpn_r50_caffe_c4_1x",
        "fasterrcnn_r50_fpn_2x",
        "fasterrcnn_r50_fpn_ms_3x",
        "fasterrcnn_r50_caffe_fpn_1x",
        "fasterrcnn_r50_caffe_fpn_2x",
        "fasterrcnn_r50_caffe_fpn_ms_1x",
        "fasterrcnn_r50_caffe_fpn_ms_3x",
        "fasterrcnn_r101_fpn_1x",
        "fasterrcnn_r101_fpn_2x",
        "fasterrcnn_r101_fpn_ms_3x",
        "fasterrcnn_r101_caffe_fpn_1x",
        "fasterrcnn_r101_caffe_fpn_2x",
        "fasterrcnn_r101_caffe_fpn_ms_3x",
        "fasterrcnn_x101_32x4d_fpn_1x",
        "fasterrcnn_x101_32x4d_fpn_2x",
        "fasterrcnn_x101_32x4d_fpn_ms_3x",
        "fasterrcnn_x101_32x8d_fpn_ms_3x",
        "fasterrcnn_x101_64x4d_fpn_1x",
        "fasterrcnn_x101_64x4d_fpn_2x",
        "fasterrcnn_x101_64x4d_fpn_ms_3x",
        "fasterrcnn_r50_caffe_c4_1x",
        "fasterrcnn_r50_caffe_fpn_ms_1x_person",
        "fasterrcnn_r50_caffe_fpn_ms_1x_person_bicycle_car",
    )
}

# By dotted name. A field stays in its group.
RENAMED_FIELDS: dict[str, str] = {
    "rpn.rank": "rpn.topk_by",
    "rpn.low_quality_truth": "rpn.low_quality_gt",
}


def former_names(name: str) -> list[str]:
    """What the recipe `name` was called before."""
    return [old for old, new in RENAMED_RECIPES.items() if new == name]
