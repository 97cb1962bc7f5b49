"""The page of a run: of a detector, an RPN, PASCAL VOC, an unfinished run; its numbers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from fasterrcnn.commands import evaluate, report, train
from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import results
from fasterrcnn.errors import CheckpointError, DataError, UsageError
from fasterrcnn.metrics import coco
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
    assert "Step 40 on split val: 8 images" in text
    assert f"--data-path {shapes_folder}" in text
    assert "--roi-heads.score-thresh 0.02" in text
    rows = [*csv.DictReader((tmp_path / "results.csv").open())]
    assert [row["step"] for row in rows] == ["20", "40"]
    assert float(rows[1]["val/AP"]) == row["AP"]


def test_every_number_of_the_tables_is_the_evaluators(
    finished: Path, shapes_folder: Path, tmp_path
):
    text = call(finished, "--output-dir", tmp_path, "--images", 2).text()
    data = formats.read(shapes_folder, "val", "auto", (), Problems())
    path = results.evaluated(finished)
    found = results.find(path, 40, None)
    assert found is not None
    evaluator = coco.evaluate_arrays(data, found[1])
    shown = text.partition(" Validation loss")[0].rpartition(coco.NAMES[-1])[2]
    numbers = [word for word in shown.split() if word != "%"]
    assert numbers == ["-" if v == -1 else f"{100 * v:.1f}" for v in evaluator.stats]
    tide = evaluator.tide_errors()
    for name, words in (("Cls", "wrong class"), ("Miss", "missed"), ("Bkg", "nothing there")):
        gain = f"{100 * tide['delta_ap'][name]:.1f} %"
        assert f"{words} {tide['counts'][name]} {gain}" in text
    for count in (100, 300):
        shares = (found[0]["proposals"][f"{kind}_{count}"] for kind in ("AR50", "AR70", "AR"))
        assert f"{count} proposals {' '.join(f'{100 * v:.1f} %' for v in shares)}" in text
    calibration = evaluator.calibration()
    assert f"The mean difference is {100 * calibration['ece']:.1f} %" in text
    crowded = evaluator.slice_by({"all": [*range(1, 9)]})["all"]
    assert crowded["AP"] == pytest.approx(found[0]["AP"])


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
    older = run / "checkpoints" / "step-00000020"
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


def test_a_region_proposal_network(shapes_folder: Path, tmp_path: Path):
    flags = ("--data-path", str(shapes_folder), "--output-dir", str(tmp_path / "run"))
    train.main([*TINY, *flags, "--detector", "rpn", "--steps", "4"])
    text = call(tmp_path / "run", "--images", 2).text()
    row = json.loads((tmp_path / "run" / "results.json").read_text())
    for name in ("AR_100", "AR_300", "AR_1000"):
        assert f"{name} {100 * row[name]:.1f} %" in text
    assert "Confusions" not in text
    assert "best boxes of each image" in text


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
