"""The page of a run: of a detector, an RPN, PASCAL VOC, an unfinished run; its numbers."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fasterrcnn.commands import evaluate, report, train
from fasterrcnn.data import formats
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import results
from fasterrcnn.errors import CheckpointError, DataError, UsageError
from fasterrcnn.metrics import coco, diagnosis, proposals
from fasterrcnn.metrics.diagnosis import CROWDING
from tests.conftest import TINY
from tests.data import test_voc
from tests.reports import html_pages


@pytest.fixture(scope="module")
def finished(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run <i>"
    flags = ("--data-path", str(shapes_folder), "--output-dir", str(out), "--steps", "40")
    changed = ("--roi-heads.score-thresh", "0.02", "--rpn.post-nms-top-n-test", "300")
    train.main([*TINY, *flags, "--eval-every", "20", *changed])
    return out


def call(run: Path, *flags: object) -> html_pages.Page:
    report.main([str(word) for word in (run, *flags)])
    folder = (
        Path(flags[flags.index("--output-dir") + 1]) if "--output-dir" in flags else run / "report"
    )
    return html_pages.check((folder / "index.html").read_text())


def test_the_page_of_a_detector(finished: Path, shapes_folder: Path, tmp_path: Path, capsys):
    page = call(finished, "--output-dir", tmp_path, "--images", 4)
    out = capsys.readouterr().out
    assert f"page: {tmp_path / 'index.html'}" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "BoxF1_curve.png", "BoxPR_curve.png", "confusion_matrix_normalized.png", "index.html",
        "results.csv",
    ]  # fmt: skip
    text = page.text()
    row = json.loads((finished / "results.json").read_text())
    for name in coco.NAMES:
        assert name in text
    assert f"AP {100 * row['AP']:.1f} %" in text
    assert f"Validation loss {row['validation_loss']:.4f}" in text
    assert "run <i>" in text  # escaped
    assert f"Step 40 on split val: 8 images of {shapes_folder} ; the best checkpoint" in text
    assert f"--data-path {shapes_folder}" in text
    assert "--roi-heads.score-thresh 0.02" in text
    rows = [*csv.DictReader((tmp_path / "results.csv").open())]
    assert [row["step"] for row in rows] == ["20", "40"]
    assert float(rows[1]["val/AP"]) == row["AP"]


@pytest.fixture(scope="module")
def shown(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of the page."""
    return call(finished, "--output-dir", tmp_path_factory.mktemp("page"), "--images", 2).text()


@pytest.fixture(scope="module")
def data(shapes_folder: Path) -> Annotations:
    return formats.read(shapes_folder, "val", "auto", (), Problems())


@pytest.fixture(scope="module")
def kept(finished: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The metrics and detections that the page is made from."""
    found = results.find(results.evaluated(finished), 40, None)
    assert found is not None
    return found


def test_every_number_of_the_tables_is_the_evaluators(shown: str, data: Annotations, kept):
    text, found = shown, kept
    evaluator = coco.evaluate_arrays(data, found[1])
    metrics = text.partition(" Validation loss")[0].rpartition(coco.NAMES[-1])[2]
    numbers = [word for word in metrics.split() if word != "%"]
    assert numbers == ["-" if v == -1 else f"{100 * v:.1f}" for v in evaluator.stats]
    tide = evaluator.tide_errors()
    for name, words in diagnosis.ERRORS.items():
        gain = f"{100 * tide['delta_ap'][name]:.1f} %"
        assert f"{words} {tide['counts'][name]} {gain}" in text
    for count in (100, 300):
        shares = (found[0]["proposals"][f"{kind}_{count}"] for kind in ("AR50", "AR70", "AR"))
        assert f"{count} proposals {' '.join(f'{100 * v:.1f} %' for v in shares)}" in text
    calibration = evaluator.calibration()
    assert (
        f"The mean difference is {100 * calibration['ece']:.1f} % (expected calibration error), "
        f"the largest {100 * calibration['mce']:.1f} %."
    ) in text
    counts = np.bincount(data.owners()[~data.crowd], minlength=len(data))
    groups = {n: np.flatnonzero((counts >= a) & (counts <= b)) for n, (a, b) in CROWDING.items()}
    groups = {name: some + 1 for name, some in groups.items() if len(some)}
    assert len(groups) > 1
    sliced = evaluator.slice_by({name: some.tolist() for name, some in groups.items()})
    for name, some in groups.items():
        values = " ".join(f"{100 * sliced[name][metric]:.1f} %" for metric in ("AP", "AP50"))
        assert f" {name} {len(some)} {values} " in text


def counted_by_hotcoco(data: Annotations, rows: np.ndarray) -> dict[int, tuple[int, int]]:
    """By label: right and wrong detections at IoU 0.5."""
    status = coco.evaluate_arrays(data, rows).image_diagnostics(iou_thr=0.5)["dt_status"]
    counts = {label: [0, 0] for label in range(1, data.classes.num_classes)}
    for id, what in status.items():
        counts[int(rows[id - 1, 6])][what != "tp"] += 1
    return {label: (right, wrong) for label, (right, wrong) in counts.items()}


def scores_of(data: Annotations, rows: np.ndarray, label: int) -> tuple[float, float, float]:
    """Precision, recall and F1 of a class with these detections."""
    right, wrong = counted_by_hotcoco(data, rows)[label]
    boxes = int((~data.crowd & (data.labels == label)).sum())
    both = right + wrong
    return right / max(both, 1), right / boxes, 2 * right / (both + boxes)


def test_the_table_of_classes_is_the_evaluators(shown: str, data: Annotations, kept):
    """At each class's score, hotcoco counts what precision and recall say; at none is F1 higher."""
    _, rows = kept
    precision = coco.evaluate_arrays(data, rows).eval["precision"]
    used = 0
    for label, name in enumerate(data.classes.names, start=1):
        own = ~data.crowd & (data.labels == label)
        ap, ap50 = (100 * precision[t, :, label - 1, 0, -1].mean() for t in (slice(None), 0))
        images = len(set(data.owners()[own]))
        start = f" {name} {own.sum()} {images} {ap:.1f} % {ap50:.1f} % "
        assert start in shown
        score, *values = shown.partition(start)[2].split()[:4]
        if score == "-":
            assert counted_by_hotcoco(data, rows)[label][0] == 0
            continue
        used += 1
        scores = np.unique(rows[rows[:, 6] == label, 5])
        near = [s for s in scores if f"{s:.2f}" == score]
        tried = {s: scores_of(data, rows[rows[:, 5] >= s], label) for s in (*near, *scores[::10])}
        best = max(tried, key=lambda s: (tried[s][2], s))
        assert [score, *values] == [f"{value:.2f}" for value in (best, *tried[best])]
    assert used > 1


def test_the_threshold_and_the_confusions_are_the_evaluators(shown: str, data: Annotations, kept):
    _, rows = kept
    f1, threshold = re.findall(
        r"highest mean F1 over the classes is (\S+), with .* score of at least (\S+) ?\. Precision",
        shown,
    )[0]  # fmt: skip
    labels = [*range(1, data.classes.num_classes)]

    def mean(score: float) -> float:
        best = rows[rows[:, 5] >= score]
        return float(np.mean([scores_of(data, best, label)[2] for label in labels]))

    at = float(threshold)
    near = [s for s in diagnosis.SCORES if abs(s - at) < 0.006]  # two digits are shown
    assert f"{max(map(mean, near)):.2f}" == f1
    assert all(mean(s) <= max(map(mean, near)) for s in diagnosis.SCORES[::10])
    best = max(near, key=lambda s: (mean(s), s))
    status = coco.evaluate_arrays(data, rows).image_diagnostics(iou_thr=0.5)["dt_status"]
    counted = rows[np.array([*status]) - 1]  # those on crowd boxes are neither right nor wrong
    found = coco.evaluator(data, counted).confusion_matrix(iou_thr=0.5, min_score=float(best))
    between = found["matrix"][:-1, :-1]
    assert between.sum() > np.trace(between) > 0
    for i, j in zip(*np.nonzero(between), strict=True):
        row = f" {data.classes.names[i]} {data.classes.names[j]} {between[i, j]} "
        assert (row in shown) == (i != j)


def test_another_split_and_another_checkpoint(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    with pytest.raises(
        UsageError, match="--split: train: not evaluated; first: fasterrcnn evaluate"
    ):
        call(run, "--split", "train")
    evaluate.main(
        ["--checkpoint", str(run), "--split", "train", "--device", "cpu", "--workers", "0"]
    )
    assert "on split train: 24 images" in call(run, "--split", "train", "--images", 2).text()
    flags = ("--split", "train", "--limit", "5", "--device", "cpu", "--workers", "0")
    evaluate.main(["--checkpoint", str(run), *flags])
    text = call(run, "--split", "train", "--images", 2).text()
    assert "on split train: 5 images" in text
    assert "Not as in the run: limit: the first 5 images" in text
    evaluate.main(["--checkpoint", str(run), *flags[2:]])  # of its own split
    assert "on split val: 5 images" in call(run, "--split", "val", "--images", 2).text()
    assert "on split val: 8 images" in call(run, "--images", 2).text()
    older = run / "checkpoints" / "step-00000020"
    assert (
        "on split val: 8 images"
        in call(older, "--split", "val", "--images", 2, "--output-dir", tmp_path / "own").text()
    )
    text = call(older, "--images", 2, "--output-dir", tmp_path / "older").text()
    assert "Step 20 on split val" in text
    with pytest.raises(UsageError, match="--split: train: not evaluated"):
        call(older, "--split", "train")  # that was the newest checkpoint


def test_data_that_has_changed_since(finished: Path, shapes_folder: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(shapes_folder, data)
    file = data / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="not the images and boxes that were evaluated"):
        call(finished, "--output-dir", tmp_path / "out", "--data-path", data)


def test_a_run_that_was_not_evaluated(shapes_folder: Path, tmp_path: Path):
    flags = ("--data-path", str(shapes_folder), "--output-dir", str(tmp_path / "run"))
    train.main([*TINY, *flags, "--steps", "3", "--val-split", "none"])
    page = call(tmp_path / "run")
    assert "Not evaluated yet" in page.text()
    assert [file.name for file in (tmp_path / "run" / "report").glob("*.png")] == []
    flags = ("--split", "train", "--limit", "2", "--device", "cpu", "--workers", "0")
    evaluate.main(["--checkpoint", str(tmp_path / "run"), *flags])
    text = call(tmp_path / "run").text()
    assert "Not evaluated yet on its own validation split. Evaluated on train: --split" in text


def test_a_region_proposal_network(shapes_folder: Path, tmp_path: Path):
    flags = ("--data-path", str(shapes_folder), "--output-dir", str(tmp_path / "run"))
    train.main([*TINY, *flags, "--detector", "rpn", "--steps", "4"])
    text = call(tmp_path / "run", "--images", 2).text()
    row = json.loads((tmp_path / "run" / "results.json").read_text())
    for name in ("AR_100", "AR_300", "AR_1000"):
        assert f"{name} {100 * row[name]:.1f} %" in text
    assert "Confusions" not in text
    assert "best boxes of each image" in text
    assert "AR as in Detectron2" in text
    assert f"1000 proposals {found_at_each_iou(tmp_path / 'run', shapes_folder)}" in text
    assert "missed, 0 false" not in text


def found_at_each_iou(run: Path, shapes_folder: Path) -> str:
    """Recall of a thousand proposals at IoU 0.5, at 0.7 and its mean."""
    data = formats.read(shapes_folder, "val", "auto", (), Problems())
    rows = results.load_detections(results.evaluated(run) / "detections.npz")
    (recall,) = proposals.recall(data, rows, (1000,))
    return " ".join(f"{100 * v:.1f} %" for v in (recall[0], recall[4], recall.mean()))


def test_classes_without_a_box_are_named(finished: Path, shapes_folder: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(shapes_folder, data)
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 1]
    file.write_text(json.dumps(content))
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    flags = ("--data-path", str(data), "--split", "train", "--device", "cpu", "--workers", "0")
    evaluate.main(["--checkpoint", str(run), *flags])
    text = call(run, "--images", 2, "--data-path", data, "--split", "train").text()
    (name,) = (c["name"] for c in content["categories"] if c["id"] == 1)
    assert f"Without a box in this split: {name}." in text


def test_pascal_voc(tmp_path: Path):
    root = test_voc.devkit(tmp_path)
    flags = ("--voc-sets", "07+12", "--val-split", "2007_test", "--steps", "2")
    run = tmp_path / "run"
    train.main([*TINY, "--data-path", str(root), "--output-dir", str(run), *flags])
    text = call(run, "--images", 2).text()
    assert "mAP_07" in text
    assert "AP_10" in text


def test_wrong_usage(finished: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="2 runs given; give one"):
        report.main([str(finished), str(finished)])
    with pytest.raises(CheckpointError, match="there is no such folder"):
        report.main([str(tmp_path / "none")])
