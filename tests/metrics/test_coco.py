"""COCO metrics: every array bit-equal to pycocotools' on real annotations."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fasterrcnn.data import formats
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.metrics import coco
from tests.data import make


def detections(
    data: Annotations, seed: int, per_box: int, noise: float, decimals: int = 1
) -> np.ndarray:
    """Jittered ground truth and false positives; scores of one decimal have many ties."""
    random = np.random.RandomState(seed)
    owner = data.owners()
    rows = []
    for k in range(len(data.xywh)):
        for _ in range(per_box):
            box = data.xywh[k] + random.normal(0, noise, 4)
            other = 1 + random.randint(len(data.classes.names))
            label = data.labels[k] if random.rand() < 0.7 else other
            score = round(random.rand(), decimals)
            rows.append([owner[k], *box[:2], *abs(box[2:]), score, label])
    return np.array(rows)


def reference(data: Annotations, json_file: Path, found: np.ndarray) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(json_file)
        rows = [
            {
                "image_id": int(data.ids[int(row[0])]),
                "bbox": row[1:5].tolist(),
                "score": row[5],
                "category_id": data.classes.category_ids[int(row[6]) - 1],
            }
            for row in found
        ]
        evaluator = COCOeval(gt, gt.loadRes(rows), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


@pytest.mark.parametrize(("seed", "per_box", "noise"), [(0, 3, 5.0), (1, 1, 0.5), (2, 20, 20.0)])
def test_bit_equal_to_pycocotools(coco_tiny: Path, seed: int, per_box: int, noise: float):
    data = formats.read(coco_tiny, "val", "auto", (), Problems())
    found = detections(data, seed, per_box, noise)
    expected = reference(data, coco_tiny / "annotations" / "instances_val2017.json", found)
    arrays = coco.evaluate_arrays(data, found).eval
    for name in ("precision", "recall", "scores"):
        assert (arrays[name] == expected.eval[name]).all(), name
    results = coco.evaluate(data, found)
    # Means: numpy before 2.3 adds in another order.
    assert [results[name] for name in coco.NAMES] == pytest.approx(expected.stats, abs=1e-12)
    assert 0 < results["AP"] < 1
    for k, name in enumerate(data.classes.names):
        known = expected.eval["precision"][0, :, k, 0, -1]
        ap50 = results["per_class"][name]["AP50"]
        assert ap50 == (None if (known == -1).all() else pytest.approx(known.mean(), abs=1e-12))


def test_annotation_id_0_is_a_match_like_any_other(tmp_path: Path):
    """pycocotools itself gives AP 0 here."""
    content = json.loads(json.dumps(make.CONTENT))
    content["annotations"] = [content["annotations"][0] | {"id": 0}]
    make.coco(tmp_path, content)
    data = formats.read(tmp_path, "train", "auto", (), Problems())
    perfect = np.array([[0, 1, 2, 10, 20, 0.9, 1.0]])
    results = coco.evaluate(data, perfect)
    assert results["AP"] == pytest.approx(1)
    assert results["per_class"]["dog"] == {"AP": None, "AP50": None}


def test_no_detections_give_0(coco_tiny: Path):
    data = formats.read(coco_tiny, "val", "auto", (), Problems())
    results = coco.evaluate(data, np.zeros((0, 7)))
    assert results["AP"] == results["AP50"] == results["AR_100"] == 0


def test_a_detection_on_a_crowd_box_is_not_false(tmp_path: Path):
    make.coco(tmp_path)
    data = formats.read(tmp_path, "train", "auto", (), Problems())
    found = np.array([[1, 0, 0, 8, 9, 0.9, 1.0], [0, 1, 2, 10, 20, 0.8, 1.0]])
    assert coco.evaluate(data, found)["per_class"]["cat"]["AP"] == pytest.approx(1)


def test_nothing_is_printed(coco_tiny: Path, capfd: pytest.CaptureFixture):
    data = formats.read(coco_tiny, "val", "auto", (), Problems())
    coco.evaluate(data, np.zeros((0, 7)))
    assert capfd.readouterr().out == ""
