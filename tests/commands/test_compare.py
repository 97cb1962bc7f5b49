"""The compare command: runs and files of detections in, a table, numbers and a page out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fasterrcnn import recipes
from fasterrcnn.commands import compare, evaluate, train
from fasterrcnn.data import coco_results, formats, shapes
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import checkpoint
from fasterrcnn.errors import CheckpointError, DataError, StorageError, UsageError
from tests.conftest import TINY, command
from tests.reports import html_pages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic images, enough for intervals."""
    root = tmp_path_factory.mktemp("shapes")
    shapes.write(root, train=8, val=40)
    return root


@pytest.fixture(scope="module")
def runs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one step, with detections of any score, and one that was not evaluated."""
    root = tmp_path_factory.mktemp("runs")
    flags = ("--data-path", str(folder), "--steps", "1", "--roi-heads.score-thresh", "0")
    for name, more in (("one", "1"), ("two", "2"), ("none", "3")):
        split = ("--val-split", "none") if name == "none" else ()
        out = str(root / name)
        train.main([*TINY, *flags, "--output-dir", out, "--seed", more, *split])
    return [root / name for name in ("one", "two", "none")]


@pytest.fixture(scope="module")
def val(folder: Path) -> Annotations:
    return formats.read(folder, "val", "auto", (), Problems())


@pytest.fixture(scope="module")
def files(val: Annotations, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The ground truth as detections, and the same moved by a tenth of its width, with no box at
    all in the image that has the most."""
    owner = val.owners()
    scores = np.linspace(0.95, 0.6, len(owner))
    good = np.column_stack([owner, val.xywh, scores, val.labels])
    moved = good[owner != np.diff(val.first).argmax()]
    moved[:, 1] += 0.1 * moved[:, 3]
    root = tmp_path_factory.mktemp("files")
    for name, found in (("good", good), ("moved", moved)):
        coco_results.write(root / f"{name}.json", val, found)
    return root / "good.json", root / "moved.json"


def call(*arguments: object, out: Path, resamples: int = 100) -> dict:
    """What the command writes with --json."""
    flags = ("--page", out / "page.html", "--json", out / "j", "--resamples", resamples)
    compare.main([str(word) for word in (*flags, *arguments)])
    return json.loads((out / "j").read_text())


def test_files_of_detections(folder: Path, files, val: Annotations, tmp_path: Path, capsys):
    good, moved = files
    where = ("--data-path", folder, "--split", "val")
    found = call(good, moved, good, *where, out=tmp_path)
    assert [(one["letter"], one["name"]) for one in found["detectors"]] == [
        ("A", str(good)), ("B", str(moved)), ("C", str(good)),
    ]  # fmt: skip
    worse, same = found["differences"]
    ap = worse["metrics"]["AP"]
    assert ap["first"] > 0.99 and ap["more_than_noise"] and ap["high"] < 0
    assert ap["difference"] == ap["other"] - ap["first"]
    every = [*same["metrics"].values(), *same["per_class"].values()]
    assert {one["difference"] for one in every} <= {0, None}
    assert {(one["low"], one["high"]) for one in every} == {(0, 0), (None, None)}
    assert set(worse["per_class"]) == set(shapes.CLASSES)
    text = capsys.readouterr().out
    assert "B - A" in text and "C - A" in text and "another seed" in text
    line = next(row for row in text.split("B - A")[1].splitlines() if row.startswith("AP "))
    assert line.split()[-1] == "worse"
    assert f"{100 * ap['difference']:+.2f}" in line and f"{100 * ap['low']:+.2f} to" in line
    page = html_pages.check((tmp_path / "page.html").read_text())
    first = val.files[int(np.diff(val.first).argmax())]
    assert page.all("img")[0]["alt"].startswith(f"{first}, ground truth: ")
    assert "B is worse than A" in page.text()
    assert "C against A: within noise" in page.text()
    assert "F1 is the same in all of them" in page.text()


def test_runs(runs: list[Path], tmp_path: Path, folder: Path, monkeypatch):
    """The data is that of the first; a run, its best and its checkpoint are the same here."""
    one, two, _ = runs
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "out"))
    (step,) = (one / "checkpoints").iterdir()
    compare.main([str(p) for p in (one, two, one / "best", step)] + ["--json", str(tmp_path / "j"),
                  "--resamples", "100", "--images", "2"])  # fmt: skip
    found = json.loads((tmp_path / "j").read_text())
    results = [json.loads((run / "results.json").read_text()) for run in (one, two)]
    other, *same = found["differences"]
    ap = other["metrics"]["AP"]
    assert [ap["first"], ap["other"]] == pytest.approx([r["AP"] for r in results], abs=1e-6)
    assert ap["first"] != ap["other"]
    assert all(s["metrics"]["AP"]["difference"] == 0 for s in same)
    assert (found["images"], found["split"], found["data_path"]) == (40, "val", str(folder))
    assert found["detectors"][0]["detail"] == "step 1"
    html_pages.check((tmp_path / "out" / "compare" / "index.html").read_text())


def test_pictures_show_the_range_of_the_first_run_and_the_bands_asked_for(
    runs: list[Path], val: Annotations, tmp_path: Path
):
    run = compare.load(runs[0])
    config = recipes.change(run.state.recipe, input=dict(value_range="5,9"))
    run = replace(run, state=replace(run.state, recipe=config))
    options = compare.Options(tuple(runs), display_bands=(3, 2, 1))
    assert compare.to_draw(val, [run], options).pixel_format == (
        config.input.pixel_format.drawn((3, 2, 1))
    )
    flags = (*map(str, runs[:2]), "--page", str(tmp_path / "x.html"), "--display-bands")
    for bands, said in (("9", r"9: \S+ has 3"), ("1,2", "1,2: must be three bands, or one")):
        with pytest.raises(UsageError, match=f"^--display-bands: {said}"):
            compare.main([*flags, bands])


def test_a_run_and_a_file_on_another_split(runs: list[Path], files, folder: Path, tmp_path: Path):
    """The detections of the split are those that evaluate keeps beside the run's own."""
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    train_split = formats.read(folder, "train", "auto", (), Problems())
    coco_results.write(tmp_path / "none.json", train_split, np.zeros((0, 7)))
    arguments = (run, tmp_path / "none.json", "--split", "train")
    with pytest.raises(UsageError, match=r"run: has no detections in train .* evaluate --checkp"):
        call(*arguments, out=tmp_path)
    flags = ("--checkpoint", run, "--split", "train", "--device", "cpu", "--workers", 0)
    evaluate.main([str(word) for word in flags])
    found = call(*arguments, out=tmp_path)
    results = json.loads((run / "results-train.json").read_text())
    ap = found["differences"][0]["metrics"]["AP"]
    assert (ap["first"], ap["other"]) == (pytest.approx(results["AP"], abs=1e-6), 0)
    assert ap["low"] is None, "8 images"
    with pytest.raises(DataError, match=r"good\.json: /0/image_id: .* not an image of this split"):
        call(run, files[0], "--split", "train", out=tmp_path)


def test_one_line_says_what_to_do(runs: list[Path], files, folder: Path, tmp_path: Path):
    one, two, none = runs
    good, _ = files
    where = ("--data-path", folder, "--split", "val")

    def refused(kind: type, match: str, *arguments: object, **more) -> None:
        with pytest.raises(kind, match=match) as caught:
            call(*arguments, out=tmp_path, **more)
        assert len(str(caught.value).splitlines()) == 1

    refused(UsageError, "1 given; give 2 to 26: fasterrcnn compare A B", one)
    refused(UsageError, "--resamples: 99: must be 100 or more", one, two, resamples=99)
    refused(UsageError, "--data-path, --split: not given", good, good)
    refused(UsageError, "--data-path, --split: not given", good, good, *where[:2])
    refused(UsageError, "nothing: missing; give a run", one, tmp_path / "nothing")
    refused(DataError, r"nothing\.json: missing", good, tmp_path / "nothing.json", *where)
    refused(DataError, r"results\.json: /: dict: must be a list", one / "results.json", one)
    refused(CheckpointError, "^/.*none/best: none of this run's checkpoints", one, none / "best")
    refused(UsageError, f"none: has no detections in val .* --checkpoint {none} first", one, none)
    refused(StorageError, "--json: .*no such folder", one, two, "--json", tmp_path / "no" / "j")
    refused(StorageError, "--page: .*cannot be written", one, two, "--page", tmp_path)
    refused(UsageError, "--images: -1: must be 0 or more", one, two, "--images", -1)
    assert not (tmp_path / "page.html").exists()


def test_detections_that_do_not_fit(runs: list[Path], folder: Path, tmp_path: Path):
    """A run whose data has changed since, one of other classes, an RPN, a damaged file."""
    one = runs[0]
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    file = other / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][0] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=rf"first, with --data-path {other} --split val"):
        call(one, one, "--data-path", other, out=tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(one, copy)
    (step,) = (copy / "checkpoints").iterdir()
    whole = (step / "detections.npz").read_bytes()
    for damaged in (b"PK", whole[: len(whole) // 2], b""):
        (step / "detections.npz").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"detections\.npz: .*evaluate the checkpoint"):
            call(one, copy, out=tmp_path)


def test_an_image_that_cannot_be_drawn(folder: Path, files, tmp_path: Path):
    """Damaged where only a decoder sees it."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for file in (copy / "val").iterdir():
        content = bytearray(file.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 50] = bytes(50)
        file.write_bytes(content)
    where = ("--data-path", copy, "--split", "val")
    with pytest.raises(DataError, match=r"copy/val/\d+\.png: "):
        call(*files, *where, "--check-images", "headers", out=tmp_path)
    call(*files, *where, "--check-images", "headers", "--images", "0", out=tmp_path)


def test_detectors_of_other_kinds(runs: list[Path], tmp_path: Path, monkeypatch):
    one, two, _ = runs
    read = checkpoint.load_state

    def changed(path: Path) -> checkpoint.State:
        state = read(path)
        if two not in path.parents:
            return state
        return replace(state, **change(state))

    monkeypatch.setattr(checkpoint, "load_state", changed)
    change = lambda state: {"recipe": replace(state.recipe, detector="rpn")}  # noqa: E731
    with pytest.raises(UsageError, match="two: proposes, but detects no classes; fasterrcnn comp"):
        call(one, two, out=tmp_path)
    change = lambda state: {"classes": state.classes.subset(["star"])}  # noqa: E731
    with pytest.raises(UsageError, match="two: detects other classes"):
        call(one, two, out=tmp_path)


def test_exit_codes(shell, folder: Path, files, tmp_path: Path):
    flags = (*files, "--data-path", folder, "--split", "nothing", "--page", tmp_path / "p")
    done = shell(command("compare", *flags))
    assert done.code == 2
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
