"""The evaluations of a run: none missing, none twice, and only its own split decides."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from fasterrcnn.commands import evaluate, train
from fasterrcnn.engine import checkpoint
from fasterrcnn.errors import CheckpointError, StorageError, UsageError
from tests.conftest import TINY


def command(data: Path, out: Path, *flags: object) -> list[str]:
    words = ("--data-path", data, "--output-dir", out, "--steps", 4, "--eval-every", 2, *flags)
    return [*TINY, *map(str, words)]


@pytest.fixture(scope="module")
def finished(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train.main(command(shapes_folder, out))
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def call(checkpoint_or_run: Path, *flags: object) -> None:
    words = ("--checkpoint", checkpoint_or_run, "--device", "cpu", "--workers", 0, *flags)
    evaluate.main([str(word) for word in words])


def test_every_evaluation_is_a_line(run: Path):
    first, second = lines(run)
    assert [(row["step"], row["split"], row["images"]) for row in (first, second)] == [
        (2, "val", 8), (4, "val", 8),
    ]  # fmt: skip
    assert first["digest"] == second["digest"]
    assert {"AP", "per_class", "validation_loss", "validation_loss_classifier"} <= set(first)
    assert json.loads((run / "results.json").read_text()) == second


def test_a_run_killed_before_its_last_evaluation_makes_up_for_it(run: Path, shapes_folder: Path):
    """As a process leaves it that dies after the last checkpoint is saved."""
    before = lines(run)
    file = run / "evaluations.jsonl"
    file.write_text(json.dumps(before[0]) + '\n{"step": 4, "sp')
    (run / "checkpoints" / "step-00000004" / "results.json").unlink()
    train.main(command(shapes_folder, run))
    assert lines(run) == before
    assert (run / "checkpoints" / "step-00000004" / "results.json").exists()
    with pytest.raises(UsageError, match="this run is finished"):
        train.main(command(shapes_folder, run))


def test_going_back_to_an_older_checkpoint_repeats_no_line(run: Path, shapes_folder: Path):
    before = lines(run)
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    train.main(command(shapes_folder, run))
    assert lines(run) == before


def test_another_split_decides_nothing(run: Path):
    (run / "checkpoints" / "step-00000002" / "results.json").write_text(
        json.dumps({**lines(run)[0], "AP": 0.99})
    )
    best, own = run / "checkpoints" / "step-00000002", (run / "results.json").read_bytes()
    assert checkpoint.find(run / "best") == best
    call(run, "--split", "train")
    assert (run / "results.json").read_bytes() == own
    assert json.loads((run / "results-train.json").read_text())["split"] == "train"
    assert [row["split"] for row in lines(run)] == ["val", "val", "train"]
    assert checkpoint.find(run / "best") == best
    assert checkpoint.find(run).name == "step-00000004"


def test_best_without_an_evaluation(run: Path):
    for file in run.glob("checkpoints/*/results.json"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"none of this run's checkpoints was evaluated"):
        call(run / "best")


def test_a_run_of_somebody_else_is_measured_all_the_same(run: Path, capsys, monkeypatch):
    """Root writes everywhere, so that writing is made to fail."""

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(run / "results.json"))

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr("fasterrcnn.engine.results._save_detections", refuse)
    call(run)
    out = capsys.readouterr().out
    assert "AP " in out
    assert "results.json: Permission denied: nothing is kept in the run folder" in out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_detections_to_a_file_and_from_it(run: Path, shapes_folder: Path, tmp_path: Path, capsys):
    found, metrics, again = (tmp_path / name for name in ("found.json", "a.json", "b.json"))
    call(run, "--detections", found, "--json", metrics)
    data = ("--data-path", shapes_folder, "--device", "cpu")
    evaluate.main([*map(str, ("--from", found, *data, "--json", again, "--draw", 1))])
    assert "split val: 8 images" in capsys.readouterr().out
    first, second = (json.loads(file.read_text()) for file in (metrics, again))
    assert second == {name: first[name] for name in second}
    assert "validation_loss" in set(first) - set(second)
    assert len([*(tmp_path / "found-pictures").iterdir()]) == 2


def test_wrong_usage(run: Path, shapes_folder: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="give --checkpoint, or --from"):
        evaluate.main([])
    with pytest.raises(UsageError, match="give --checkpoint, or --from"):
        call(run, "--from", tmp_path / "found.json")
    with pytest.raises(UsageError, match="--nms-threshold: is for a detector"):
        evaluate.main(["--from", "found.json", "--nms-threshold", "0.5"])
    with pytest.raises(UsageError, match="--data-path: not given"):
        evaluate.main(["--from", str(tmp_path / "found.json"), "--device", "cpu"])
    with pytest.raises(StorageError, match=r"--json: .*no such folder"):
        call(run, "--json", tmp_path / "none" / "metrics.json")
    with pytest.raises(StorageError, match=r"--detections: .*cannot be written"):
        call(run, "--detections", tmp_path)
    assert os.listdir(tmp_path) == ["run"]  # noqa: PTH208


def test_choices_at_inference_are_named_and_decide_nothing(run: Path, tmp_path: Path, capsys):
    own = (run / "results.json").read_bytes()
    call(run, "--score-threshold", 0.001, "--detections-per-image", 3, "--limit", 5,
         "--detections", tmp_path / "found.json")  # fmt: skip
    out = capsys.readouterr().out
    assert "split val: 5 images" in out
    assert "changed: roi_heads.detections_per_img: 100 -> 3" in out
    found = json.loads((tmp_path / "found.json").read_text())
    images = [row["image_id"] for row in found]
    assert max(images.count(id) for id in images) == 3
    assert len({*images}) == 5
    assert (run / "results.json").read_bytes() == own
    *_, last = lines(run)
    assert (last["images"], len(last["changed"])) == (5, 3)
    assert "limit: the first 5 images" in last["changed"]


def test_some_classes_and_more_detections(run: Path, tmp_path: Path, shapes_folder: Path, capsys):
    metrics, found = tmp_path / "metrics.json", tmp_path / "found.json"
    flags = ("--score-threshold", 0.001, "--max-dets", 50, "--classes", "ring")
    call(run, *flags, "--json", metrics, "--detections", found)
    results = json.loads(metrics.read_text())
    assert set(results["per_class"]) == {"ring"}
    assert {"AR_50"} == {name for name in results if name.startswith("AR_")} - {
        "AR_1", "AR_10", "AR_small", "AR_medium", "AR_large",
    }  # fmt: skip
    again = tmp_path / "again.json"
    data = ("--data-path", shapes_folder, "--device", "cpu", "--json", again)
    evaluate.main([*map(str, ("--from", found, *flags[2:], *data))])
    assert json.loads(again.read_text()).items() <= results.items()
