"""The evaluate command on PASCAL VOC (a run trained on sets of two years) and on files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fasterrcnn.commands import evaluate, train
from fasterrcnn.data import formats
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import evaluation
from fasterrcnn.errors import UsageError
from fasterrcnn.metrics import coco, voc
from tests.conftest import TINY
from tests.data import test_voc
from tests.importers import peers


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `test_voc`, with a 2012_test without annotation files."""
    root = test_voc.devkit(tmp_path_factory.mktemp("data"))
    for name in ("2008_000001", "2008_000003"):
        test_voc.write(root / "VOC2012", name=name, split="test").unlink()
    return root


@pytest.fixture(scope="module")
def run(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step, then detections of any score."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = ("--voc-sets", "07+12", "--val-split", "2007_test", "--roi-heads.score-thresh", "0")
    train.main(
        [*TINY, "--data-path", str(devkit), "--output-dir", str(out), "--steps", "1", *flags]
    )
    return out


def call(run: Path, *flags: object) -> None:
    command = ["--checkpoint", run, "--device", "cpu", "--workers", 0, *flags]
    evaluate.main([str(word) for word in command])


def test_training_measures_by_voc(run: Path):
    """Of the classes only cat has a gt box in 2007_test that is not difficult."""
    results = json.loads((run / "results.json").read_text())
    cat = results["per_class"]["cat"]
    assert (results["mAP_07"], results["mAP_10"]) == (cat["AP_07"], cat["AP_10"])
    assert 0 <= cat["AP_10"] <= 1
    assert results["per_class"]["dog"]["AP_07"] is None


def truth_below_false_ones(model, images, targets, keys):
    """For `evaluation.detect_with_losses`: each gt box found, each time after a false detection."""
    found = [
        {
            "boxes": torch.cat([target["boxes"], target["boxes"] + 15]),
            "labels": target["labels"].repeat(2),
            "scores": torch.tensor([0.25, 0.75]).repeat_interleave(len(target["boxes"])),
        }
        for target in targets
    ]
    return found, [{"loss": torch.zeros(())}] * len(targets), None


def test_result_files_hold_what_was_measured(
    run: Path, devkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """Read back, as detections, they have the AP that was printed."""
    monkeypatch.setattr(evaluation, "detect_with_losses", truth_below_false_ones)
    call(run, "--split", "2007_trainval", "--voc-submission", tmp_path / "results")
    out = capsys.readouterr().out
    results = json.loads((run / "results-2007_trainval.json").read_text())
    assert "mAP_07 50.0  mAP_10 50.0" in out
    assert "2 result files" in out
    data = formats.read(devkit, "2007_trainval", "auto", (), Problems())
    rows = []
    for label, name in enumerate(data.classes.names, start=1):
        lines = (tmp_path / f"results/comp4_det_trainval_{name}.txt").read_text().splitlines()
        for image, score, *box in map(str.split, lines):
            x1, y1, x2, y2 = map(float, box)
            edges = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
            rows.append([list(data.ids).index(image), *edges, float(score), label])
    assert len(rows) == 4
    again = voc.evaluate(data, np.array(rows))
    for name, values in again["per_class"].items():
        assert values == {"AP_07": 0.5, "AP_10": 0.5}
        assert values.items() <= results["per_class"][name].items()


def test_a_split_without_public_boxes(run: Path, tmp_path: Path, capsys):
    before = (run / "results.json").read_bytes()
    file = tmp_path / "metrics.json"
    call(run, "--split", "2012_test", "--voc-submission", tmp_path / "out", "--json", file)
    out = capsys.readouterr().out
    assert ", split 2012_test: 2 images, amp off" in out
    assert "nothing measured: 2012_test has no boxes" in out
    lines = (tmp_path / "out" / "comp4_det_test_cat.txt").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {"2008_000001", "2008_000003"}
    assert (run / "results.json").read_bytes() == before
    assert not file.exists()
    with pytest.raises(UsageError, match=r"2012_test: no image has a box.* --voc-submission"):
        call(run, "--split", "2012_test")


def test_held_out_images_are_evaluated_on_again(shapes_folder: Path, tmp_path: Path, capsys):
    data, out = ("--data-path", str(shapes_folder)), ("--output-dir", str(tmp_path / "run"))
    train.main([*TINY, *data, *out, "--steps", "1", "--val-fraction", "0.25"])
    trained = json.loads((tmp_path / "run" / "results.json").read_text())
    held_out = capsys.readouterr().out.split(" validation images")[0].split()[-1]
    call(tmp_path / "run", "--amp", "off")
    assert f", split train, 0.25 of it held out: {held_out} images, " in capsys.readouterr().out
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    for name in ("AP", "validation_loss"):  # the same images
        assert again[name] == pytest.approx(trained[name])


def test_tiles_are_told_and_decide_nothing(run: Path, capsys):
    before = (run / "results.json").read_text()
    call(run, "--slice", 64, "--tta", "flip")
    line = "also detected in: tiles of 64 px, overlap 0.2; mirrored"
    assert f"changed: {line}\n" in capsys.readouterr().out
    row = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
    assert row["changed"] == [line]
    assert (run / "results.json").read_text() == before


def test_refusals(run: Path, devkit: Path, tmp_path: Path):
    for flag, value in (("--slice", 64), ("--tta", "flip")):
        with pytest.raises(UsageError, match=f"{flag}: is for a detector, not for detections"):
            evaluate.main(["--from", "x.json", flag, str(value)])
    flags = ("--voc-submission", tmp_path / "out")
    with pytest.raises(UsageError, match="result files are of one set"):
        call(run, "--split", "07+12", *flags)
    with pytest.raises(UsageError, match="not said to be PASCAL VOC; say --dataset voc"):
        call(run, "--data-path", devkit / "VOC2007", "--split", "trainval", *flags)
    assert not (tmp_path / "out").exists()
    one = ("--data-path", devkit / "VOC2007", "--dataset", "voc", "--split", "trainval")
    call(run, *one, *flags)
    assert (tmp_path / "out" / "comp4_det_trainval_dog.txt").exists()


def test_a_proposal_network_has_no_result_files(devkit: Path, tmp_path: Path):
    flags = ("--detector", "rpn", "--voc-sets", "07", "--val-split", "none", "--steps", "1")
    out = tmp_path / "run"
    train.main([*TINY, "--data-path", str(devkit), "--output-dir", str(out), *flags])
    with pytest.raises(UsageError, match="proposes, but detects no classes"):
        call(out, "--split", "07", "--voc-submission", tmp_path / "out")


@pytest.mark.parametrize("kind", ["final", "uncapped"])
@pytest.mark.parametrize("name", ["mmdet", "detectron2"])
def test_detections_of_another_framework(
    name: str, kind: str, coco_tiny: Path, tmp_path: Path, capsys
):
    """What MMDetection and Detectron2 detected in two images, in pycocotools' format."""
    data = tmp_path / "data"
    gt = write_annotations_of(peers.IMAGES, coco_tiny, data)
    file = tmp_path / "found.json"
    file.write_text(json.dumps(detected(gt, name, kind)))
    metrics = tmp_path / "metrics.json"
    evaluate.main([*map(str, ("--from", file, "--data-path", data, "--json", metrics))])
    evaluator = COCOeval(gt, gt.loadRes(str(file)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    found = json.loads(metrics.read_text())
    ours = [-1 if found[name] is None else found[name] for name in coco.NAMES]
    assert ours == pytest.approx(evaluator.stats.tolist(), abs=1e-9)
    assert found["AP50"] > 1e-3  # so that equal to 1e-9 says something
    assert f"AP {100 * evaluator.stats[0]:.1f}  AP50 " in capsys.readouterr().out


def write_annotations_of(images: tuple[str, ...], source: Path, target: Path) -> COCO:
    """A data set of these images of COCO alone, as pycocotools reads it."""
    content = json.loads((source / "annotations/instances_val2017.json").read_text())
    ids = {*map(int, images)}
    content["images"] = [image for image in content["images"] if image["id"] in ids]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in ids]
    file = target / "annotations" / "instances_val2017.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(content))
    (target / "val2017").symlink_to(source / "val2017")
    return COCO(str(file))


def detected(gt: COCO, name: str, kind: str) -> list[dict]:
    """Boxes and scores of a peer, whose weights are random and know no classes: each box has the
    category of the object that it overlaps most."""
    arrays = np.load(peers.folder() / f"{peers.NAMES[name]}.npz")
    rows = []
    for i, image in enumerate(map(int, peers.IMAGES)):
        boxes = arrays[f"img{i}_{kind}_boxes"].astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        objects = gt.loadAnns(gt.getAnnIds(imgIds=[image], iscrowd=False))
        iou = mask.iou(boxes, np.array([one["bbox"] for one in objects]), [0] * len(objects))
        scores = arrays[f"img{i}_{kind}_scores"].tolist()
        for box, score, best in zip(boxes.tolist(), scores, iou.argmax(axis=1), strict=True):
            category = objects[best]["category_id"]
            row = {"image_id": image, "category_id": category, "bbox": box, "score": score}
            rows.append(row)
    return rows
