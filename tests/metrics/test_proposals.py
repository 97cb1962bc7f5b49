"""The three proposal metrics: COCOeval's against pycocotools, the others against cases by hand."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.metrics import proposals
from tests.data.make import annotations_of


def random_proposals(annotations, count: int) -> np.ndarray:
    """`count` rows per image: some near gt boxes, the rest anywhere; scores with ties."""
    rng = np.random.default_rng(0)
    rows = []
    for i, (height, width) in enumerate(annotations.sizes):
        own = annotations.xywh[annotations.first[i] : annotations.first[i + 1]]
        corner = rng.random((count, 2)) * [width, height] * 0.8
        boxes = np.concatenate([corner, rng.random((count, 2)) * [width, height] * 0.4], axis=1)
        if len(own):
            near = own[rng.integers(len(own), size=count // 3)]
            boxes[: len(near)] = near + rng.normal(size=near.shape) * near[:, 2:].mean() * 0.1
            boxes[:, 2:] = np.abs(boxes[:, 2:])
        scores = np.round(rng.random(count), 2)
        rows.append(np.column_stack([np.full(count, i), boxes, scores, np.ones(count)]))
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def real(coco_tiny: Path):
    annotations = formats.read(coco_tiny, "val", "auto", (), Problems(skip=True))
    return annotations, random_proposals(annotations, 1100)


def test_proposal_is_pycocotools_without_classes(real, coco_tiny: Path, capsys):
    annotations, rows = real
    results = proposals.evaluate(annotations, rows)
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(coco_tiny / "annotations/instances_val2017.json"))
        found = rows.copy()
        found[:, 0] = [int(annotations.ids[int(i)]) for i in rows[:, 0]]
        evaluator = COCOeval(gt, gt.loadRes(found), "bbox")
        evaluator.params.useCats = 0
        evaluator.params.maxDets = [100, 300, 1000]
        evaluator.evaluate()
        evaluator.accumulate()
    recall = evaluator.eval["recall"]
    expected = {f"AR_{n}": recall[:, 0, 0, i].mean() for i, n in enumerate((100, 300, 1000))}
    expected |= {
        f"AR_{size}_1000": recall[:, 0, i, -1].mean()
        for i, size in enumerate(("small", "medium", "large"), start=1)
    }
    assert results["proposal"] == expected
    with capsys.disabled():
        print("\nthe same proposals:", *(
            f"{kind} AR_100 {results[kind]['AR_100']:.6f} AR_1000 {results[kind]['AR_1000']:.6f};"
            for kind in ("proposal_fast", "proposal", "box_proposals")
        ))  # fmt: skip
    assert results["AR_1000"] == results["proposal_fast"]["AR_1000"]


def test_the_closest_pair_is_made_first():
    """Two gt boxes overlap the same proposal: the closer one gets it, the other what is left.

    GT box A is 0..10, B 0..8; proposal 1 is 0..9.6 (IoU 0.96 with A, 0.833 with B), proposal 2 is
    0..5 (0.5 with A, 0.625 with B). A takes 1, B takes 2: up to 0.60 both are found, to 0.95 A.
    """
    data = annotations_of([[(0, 0, 10, 10), (0, 0, 8, 10)]])
    rows = np.array([[0, 0, 0, 9.6, 10, 0.9, 1], [0, 0, 0, 5, 10, 0.8, 1]], dtype=float)
    results = proposals.evaluate(data, rows)
    expected = (3 * 2 + 7 * 1) / 20
    assert results["AR_100"] == pytest.approx(expected)
    assert results["box_proposals"]["AR_100"] == pytest.approx(expected)


def test_who_chooses_first_decides():
    """GT box A is 0..10, B 0..8; the better proposal 0..9 (IoU 0.9 with A, 0.889 with B), the other
    0..10 (1.0 and 0.8). COCOeval: the first takes A up to 0.90, so both are found up to 0.80. The
    closest pair first: the second takes A, the first B, so both are found up to 0.85.
    """
    data = annotations_of([[(0, 0, 10, 10), (0, 0, 8, 10)]])
    rows = np.array([[0, 0, 0, 9, 10, 0.9, 1], [0, 0, 0, 10, 10, 0.8, 1]], dtype=float)
    results = proposals.evaluate(data, rows)
    assert results["proposal"]["AR_100"] == pytest.approx((7 * 2 + 3) / 20)
    assert results["proposal_fast"]["AR_100"] == pytest.approx((8 * 2 + 2) / 20)
    assert results["box_proposals"]["AR_100"] == pytest.approx((8 * 2 + 2) / 20)


def test_only_the_best_count():
    """101 proposals of which the worst is the only good one: at 300 found, at 100 not."""
    data = annotations_of([[(0, 0, 10, 10)]])
    rows = np.array([[0, 50, 50, 10, 10, 1 - i / 200, 1] for i in range(101)], dtype=float)
    rows[100, 1:5] = 0, 0, 10, 10
    results = proposals.evaluate(data, rows)
    assert results["AR_100"] == results["proposal"]["AR_100"] == 0
    assert results["AR_300"] == results["proposal"]["AR_300"] == 1
    assert results["box_proposals"]["AR_100"] == 0
    assert results["box_proposals"]["AR_1000"] == 1


def test_images_without_proposals_count_except_for_detectron2():
    data = annotations_of([[(0, 0, 10, 10)], [(0, 0, 10, 10)]])
    rows = np.array([[0, 0, 0, 10, 10, 0.9, 1]], dtype=float)
    results = proposals.evaluate(data, rows)
    assert results["AR_100"] == results["proposal"]["AR_100"] == 0.5
    assert results["box_proposals"]["AR_100"] == 1


def test_sizes_and_crowd():
    """A small gt box found, a large one missed, a crowd that nobody has to find."""
    data = annotations_of([[(0, 0, 10, 10), (0, 0, 100, 100), (0, 0, 300, 300)]], crowd=[2])
    rows = np.array([[0, 0, 0, 10, 10, 0.9, 1]], dtype=float)
    results = proposals.evaluate(data, rows)
    assert results["AR_1000"] == 0.5
    sizes = results["box_proposals"]
    assert (sizes["AR_small_1000"], sizes["AR_large_1000"]) == (1, 0)
    assert sizes["AR_medium_1000"] is None
    assert results["proposal"]["AR_small_1000"] == 1


def test_image_by_image():
    """Boxes of two images: found with an IoU of 0.82 by the first proposal, with 1.0 by the second,
    and with 0.62 by the first; a crowd that does not count."""
    data = annotations_of([[(0, 0, 10, 10), (0, 0, 90, 90)], [(0, 0, 10, 10)]], crowd=[1])
    two = np.array([[0, 0, 8.2, 10], [0, 0, 10, 10]])
    one = np.array([[0, 0, 6.2, 10]])
    parts = [proposals.matched(data, i, boxes, (1, 2)) for i, boxes in enumerate((two, one))]
    found = np.concatenate(parts, axis=1)
    assert found == pytest.approx(np.array([[0.82, 0.62], [1.0, 0.62]]))
    assert proposals.by_name(proposals.recall_of(found), (1, 2)) == pytest.approx({
        "AR_1": (7 + 3) / 20, "AR_2": (10 + 3) / 20,
        "AR50_1": 1.0, "AR50_2": 1.0,
        "AR70_1": 0.5, "AR70_2": 0.5,
    })  # fmt: skip


def test_image_by_image_as_all_together(real):
    annotations, rows = real
    best = rows[np.argsort(-rows[:, 5], kind="stable")]
    found = np.concatenate([
        proposals.matched(annotations, i, best[best[:, 0] == i, 1:5], (100, 1000))
        for i in range(len(annotations))
    ], axis=1)  # fmt: skip
    expected = proposals.recall(annotations, rows, (100, 1000))
    assert proposals.recall_of(found).tolist() == expected.tolist()


def test_nothing_at_all():
    data = annotations_of([[], []])
    results = proposals.evaluate(data, np.zeros((0, 7)))
    assert results["AR_1000"] is None
    nothing = proposals.matched(data, 0, np.zeros((0, 4)), (100,))
    assert nothing.shape == (1, 0)
    assert set(proposals.by_name(proposals.recall_of(nothing), (100,)).values()) == {None}
    assert set(results["proposal"].values()) == {None}
