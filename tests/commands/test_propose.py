"""propose as a command, and what a run of an RPN alone leaves to evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from fasterrcnn.commands import evaluate, predict, propose, train
from fasterrcnn.errors import UsageError
from tests.conftest import TINY, command

RPN = ("--recipe", "rpn_r10_fpn_shapes", "--steps", "6", "--save-every", "3")


@pytest.fixture(scope="module")
def run(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "rpn"
    train.main([*TINY, *RPN, "--data-path", str(shapes_folder), "--output-dir", str(out)])
    return out


def test_boxes_scores_and_file_names(run: Path, shapes_folder: Path, tmp_path: Path, capsys):
    folder, file = shapes_folder / "val", tmp_path / "proposals.json"
    propose.main([
        "--checkpoint", str(run), "--device", "cpu", "--json", str(file),
        "--output-dir", str(tmp_path / "out"), str(folder),
    ])  # fmt: skip
    rows = json.loads(file.read_text())
    names = sorted(p.name for p in folder.iterdir())
    assert [*dict.fromkeys(row["file_name"] for row in rows)] == names
    for name in names:
        own = [row for row in rows if row["file_name"] == name]
        assert 50 < len(own) <= 1000
        scores = [row["score"] for row in own]
        assert scores == sorted(scores, reverse=True)
        assert 0 <= scores[-1] <= scores[0] <= 1
        width, height = Image.open(folder / name).size
        for row in own:
            x, y, w, h = row["bbox"]
            assert 0 <= x < x + w <= width + 1e-3
            assert 0 <= y < y + h <= height + 1e-3
    assert len([*(tmp_path / "out").glob("*.jpg")]) == len(names)
    assert f"{len(rows)} proposals in {file}" in capsys.readouterr().out


def test_a_whole_detector_proposes_too(shapes_folder: Path, tmp_path: Path, capsys):
    run = tmp_path / "run"
    flags = ("--steps", "2", "--val-split", "none", "--output-dir", str(run))
    train.main([*TINY, "--data-path", str(shapes_folder), *flags])
    image = min((shapes_folder / "val").iterdir())
    propose.main(["--checkpoint", str(run), "--device", "cpu", "--draw", "0", str(image)])
    assert f"{image}: 100 proposals" in capsys.readouterr().out
    assert not (run / "proposals").exists()


def test_a_run_is_evaluated_by_proposal_metrics(run: Path, capsys):
    results = json.loads((run / "results.json").read_text())
    assert results["step"] == 6
    assert 0 < results["AR_100"] <= results["AR_1000"] <= 1
    assert {"proposal_fast", "proposal", "box_proposals"} <= set(results)
    assert "validation_loss_objectness" in results
    assert "AP" not in results
    evaluate.main(["--checkpoint", str(run), "--device", "cpu", "--workers", "0", "--draw", "1"])
    again = json.loads((run / "results.json").read_text())
    assert again["AR_1000"] == results["AR_1000"]
    out = capsys.readouterr().out
    assert f"AR_1000 {100 * results['AR_1000']:.1f}" in out
    assert len([*(run / "pictures").glob("[0-9]*.jpg")]) == 1


def test_two_ranks_evaluate_the_same(run: Path, shell, tmp_path: Path):
    flags = ("--checkpoint", run, "--device", "cpu", "--workers", "0", "--images-per-gpu", "1")
    group = ("--standalone", "--nproc-per-node", "2", "-m", "fasterrcnn", "evaluate")
    done = shell(command("torchrun", *group, *flags, "--json", tmp_path / "two.json"))
    assert done.code == 0, done.err
    evaluate.main(["--checkpoint", str(run), "--device", "cpu", "--workers", "0",
                   "--images-per-gpu", "1", "--json", str(tmp_path / "one.json")])  # fmt: skip
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("one", "two"))
    for kind in ("proposal_fast", "proposal", "box_proposals"):
        assert one[kind] == pytest.approx(two[kind], abs=1e-6)


def test_detecting_with_an_rpn_is_refused(run: Path, shapes_folder: Path):
    with pytest.raises(UsageError, match=r"use fasterrcnn propose"):
        predict.main(["--checkpoint", str(run), "--device", "cpu", str(shapes_folder / "val")])


def test_a_detector_starts_from_an_rpn(run: Path, shapes_folder: Path, tmp_path: Path, capsys):
    flags = ("--steps", "1", "--val-split", "none", "--output-dir", str(tmp_path / "run"))
    train.main([*TINY, "--data-path", str(shapes_folder), *flags, "--weights", str(run)])
    assert "box head: none in the file, fresh" in capsys.readouterr().out


def test_an_rpn_starts_from_a_detector(shapes_folder: Path, tmp_path: Path, capsys):
    flags = ("--steps", "1", "--val-split", "none", "--data-path", str(shapes_folder))
    train.main([*TINY, *flags, "--output-dir", str(tmp_path / "detector")])
    weights = ("--weights", str(tmp_path / "detector"))
    train.main([*TINY, *RPN[:2], *flags, *weights, "--output-dir", str(tmp_path / "rpn")])
    assert "8 tensors of the file not used" in capsys.readouterr().out
