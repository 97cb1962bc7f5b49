"""predict and evaluate as commands: files in, files out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasterrcnn.commands import evaluate, predict, train
from fasterrcnn.errors import CheckpointError, DataError, UsageError
from tests.conftest import TINY


@pytest.fixture(scope="module")
def run(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps: its detections are poor, but there are some."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = ("--steps", "30", "--classes", "star,ring", "--val-split", "none")
    train.main([*TINY, "--data-path", str(shapes_folder), "--output-dir", str(out), *flags])
    return out


def call(run: Path, *flags: object) -> None:
    predict.main(["--checkpoint", str(run), "--device", "cpu", *map(str, flags)])


def test_pictures_and_json(run: Path, shapes_folder: Path, tmp_path: Path, capsys):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    sources = sorted((shapes_folder / "val").glob("*.png"))
    shutil.copy(sources[0], folder / "a.png")
    shutil.copy(sources[1], folder / "sub" / "b.png")
    (folder / "notes.txt").write_text("no image")
    out, file = tmp_path / "out", tmp_path / "found.json"
    call(run, "--score-threshold", 0.01, "--json", file, "--output-dir", out, folder, sources[2])
    rows = json.loads(file.read_text())
    names = {row["file_name"] for row in rows}
    assert names <= {"a.png", "sub/b.png", sources[2].name}
    assert len(rows) > 3
    for row in rows:
        assert row["category_id"] in (4, 6)  # the data's own ids
        assert row["category_name"] == {4: "star", 6: "ring"}[row["category_id"]]
        assert row["score"] >= 0.01
        x, y, w, h = row["bbox"]
        source = {"a.png": sources[0], "sub/b.png": sources[1]}.get(row["file_name"], sources[2])
        width, height = Image.open(source).size
        assert 0 <= x <= x + w <= width + 1e-3
        assert 0 <= y <= y + h <= height + 1e-3
    pictures = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png"))
    assert pictures == sorted(["a.png", "sub/b.png", sources[2].name])
    assert "3 detections" not in capsys.readouterr().err


def test_a_checkpoint_that_is_none_is_explained(run: Path, shapes_folder: Path, tmp_path: Path):
    image = min((shapes_folder / "val").glob("*.png"))
    with pytest.raises(CheckpointError, match="there is no such folder"):
        call(tmp_path / "nope", image)
    with pytest.raises(CheckpointError, match="a file is imported first: fasterrcnn import"):
        call(image, image)


def test_the_images_are_never_replaced_by_pictures(run: Path, shapes_folder: Path, tmp_path: Path):
    source = shutil.copy(min((shapes_folder / "val").glob("*.png")), tmp_path / "a.png")
    before = source.read_bytes()
    with pytest.raises(UsageError, match=r"a\.png is one of the images"):
        call(run, "--output-dir", tmp_path, source)
    assert source.read_bytes() == before


def test_results_are_pixels_of_the_displayed_image(run: Path, shapes_folder: Path, tmp_path: Path):
    """A file that EXIF turns gives the boxes of its turned copy."""
    image = Image.open(min((shapes_folder / "val").glob("*.png"))).convert("RGB")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "shown.png")
    file = tmp_path / "x.json"
    call(run, "--json", file, "--output-dir", tmp_path / "o", "--score-threshold", 0.01,
         tmp_path / "turned.png", tmp_path / "shown.png")  # fmt: skip
    rows = json.loads(file.read_text())
    boxes = {
        n: [r["bbox"] for r in rows if r["file_name"] == n] for n in ("turned.png", "shown.png")
    }
    assert boxes["shown.png"]
    assert boxes["turned.png"] == boxes["shown.png"]


def test_wrong_input(run: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="no such image or folder"):
        call(run, tmp_path / "x.jpg")
    with pytest.raises(UsageError, match="no image in this folder"):
        call(run, tmp_path)
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        call(tmp_path, __file__)
    with pytest.raises(DataError, match=r"test_predict\.py: not an image"):
        call(run, "--output-dir", tmp_path, __file__)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / "x.png")
    with pytest.raises(UsageError, match="another image is called x"):
        call(run, tmp_path / "a" / "x.png", tmp_path / "b" / "x.png")


def test_evaluate_command(run: Path, tmp_path: Path, capsys):
    file = tmp_path / "metrics.json"
    flags = ["--checkpoint", str(run), "--device", "cpu", "--workers", "0"]
    evaluate.main([*flags, "--json", str(file), "--draw", "2"])
    text = capsys.readouterr().out
    assert "8 images" in text
    metrics = json.loads(file.read_text())
    assert set(metrics["per_class"]) == {"star", "ring"}
    results = json.loads((run / "results.json").read_text())
    assert results["step"] == 30
    assert results["AP"] == metrics["AP"]
    assert len(list((run / "pictures").glob("*.png"))) == 2
    assert (run / "pictures" / "best_and_worst.jpg").is_file()
    evaluate.main([*flags, "--split", "train"])
    assert "24 images" in capsys.readouterr().out
    with pytest.raises(UsageError, match="no split test; found: train, val"):
        evaluate.main([*flags, "--split", "test"])


def test_evaluation_needs_no_flags_of_the_model(run: Path, shapes_folder: Path, tmp_path: Path):
    """A run that moved, and data that moved: the path is all it needs."""
    moved = shutil.copytree(run, tmp_path / "moved")
    data = shutil.copytree(shapes_folder, tmp_path / "data")
    evaluate.main(
        ["--checkpoint", str(moved), "--data-path", str(data), "--device", "cpu", "--workers", "0"]
    )
    assert (moved / "results.json").exists()
