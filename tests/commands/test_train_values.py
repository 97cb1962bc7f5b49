"""Images of more than 8 bits, through training, resume, evaluation, prediction and its pages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fasterrcnn
from fasterrcnn.commands import check_data, evaluate, predict, report
from fasterrcnn.data import images
from fasterrcnn.engine import checkpoint
from fasterrcnn.errors import DataError, UsageError
from fasterrcnn.pixel_format import PixelFormat
from tests.commands.runs import assert_same_bits, refused, run

STEPS = ("--steps", "4", "--val-split", "val", "--eval-every", "0")


@pytest.fixture(scope="module")
def folder(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic images as 12-bit values in 16-bit files."""
    root = tmp_path_factory.mktemp("deep")
    shutil.copytree(shapes_folder / "annotations", root / "annotations")
    for file in sorted(shapes_folder.glob("*/*.png")):
        gray = np.asarray(Image.open(file).convert("L")).astype(np.uint16)
        (root / file.parent.name).mkdir(exist_ok=True)
        Image.fromarray(1500 + 4 * gray).save(root / file.parent.name / file.name)
    return root


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose range is measured."""
    out = tmp_path_factory.mktemp("run") / "run"
    run(folder, out, *STEPS)
    return out


def value_range(out: Path) -> str:
    return checkpoint.load_state(checkpoint.find(out)).recipe.input.value_range


def test_the_measured_range_is_kept_and_resumed_to_the_same_bits(
    folder: Path, trained: Path, tmp_path: Path, capsys
):
    low, high = map(float, value_range(trained).split(","))
    assert 1500 <= low < 1700 and 2300 < high <= 2520
    assert json.loads((trained / "recipe.json").read_text())["input"]["value_range"] == (
        value_range(trained)
    )
    run(folder, tmp_path / "parts", *STEPS, "--steps", "2", "--workers", "1")
    assert f"--input.value-range {value_range(trained)} (" in capsys.readouterr().out
    parts = run(folder, tmp_path / "parts", *STEPS, "--resume")
    assert_same_bits(max((trained / "checkpoints").glob("step-*")), parts)
    other = refused(UsageError, folder, tmp_path / "parts", *STEPS, "--input.value-range", "0,4095")
    assert "holds another run (input.value_range: " in other


def test_a_run_of_before_goes_on_with_the_same_values(folder: Path, tmp_path: Path):
    """Its recipe has no such field; its values were divided by 256."""
    full = run(folder, tmp_path / "full", *STEPS, "--input.value-range", "full")
    before = run(folder, tmp_path / "old", *STEPS, "--steps", "2", "--input.value-range", "full")
    file = before / "state.json"
    state = json.loads(file.read_text())
    assert state["recipe"]["input"].pop("value_range") == "full"
    file.write_text(json.dumps(state))
    manifest = before / "MANIFEST.json"
    entries = json.loads(manifest.read_text())
    entries["state.json"] = checkpoint._fingerprint(file)
    manifest.write_text(json.dumps(entries))
    continued = run(folder, tmp_path / "old", *STEPS, "--resume")
    assert_same_bits(full, continued)
    data_seen = images.decode(
        next(folder.glob("val/*")),
        apply_orientation=True,
        pixel_format=PixelFormat(value_range(continued)),
    )
    assert data_seen.dtype == torch.uint8


def test_evaluation_prediction_page_and_api_read_with_the_same_range(
    folder: Path, trained: Path, tmp_path: Path, monkeypatch
):
    seen: list[tuple[str, str | None]] = []
    decode = images.decode

    def watch(path, *, apply_orientation: bool, pixel_format: PixelFormat):
        seen.append((Path(path).name, pixel_format.value_range))
        return decode(path, apply_orientation=apply_orientation, pixel_format=pixel_format)

    monkeypatch.setattr(images, "decode", watch)
    image = sorted(folder.glob("val/*.png"))[0]
    here = ("--checkpoint", trained, "--device", "cpu", "--workers", "0")
    evaluate.main([*map(str, (*here, "--draw", "2"))])
    report.main([str(trained)])
    predict.main([*map(str, (*here, image, "--output-dir", tmp_path / "predictions"))])
    fasterrcnn.load(trained, device="cpu")(image)
    assert {used for _, used in seen if used} == {value_range(trained)}
    assert len(seen) > 8 + 2 + 1 + 1
    drawn = np.asarray(Image.open(tmp_path / "predictions" / f"{image.stem}.jpg").convert("L"))
    assert drawn.min() < 40 < 200 < drawn.max()  # not a black page


def test_eight_bits_are_refused_by_a_run_of_more(
    shapes_folder: Path, trained: Path, tmp_path: Path
):
    here = ("--checkpoint", trained, "--device", "cpu", "--workers", "0")
    message = "8-bit values, but the range of values is "
    with pytest.raises(DataError, match=message) as error:
        evaluate.main([*map(str, (*here, "--data-path", shapes_folder))])
    assert "\n" not in str(error.value)
    image = next(shapes_folder.glob("val/*.png"))
    with pytest.raises(DataError, match=message):
        predict.main([*map(str, (*here, image, "--output-dir", tmp_path / "predictions"))])
    for kind in (image, Image.open(image), np.zeros((40, 50, 3), np.uint8), torch.zeros(3, 40, 50)):
        with pytest.raises(ValueError, match=message):
            fasterrcnn.load(trained, device="cpu")(kind)


def test_bytes_have_no_range_in_their_recipe(shapes_folder: Path, tmp_path: Path):
    run(shapes_folder, tmp_path / "run", "--steps", "1", "--val-split", "none")
    assert value_range(tmp_path / "run") == "dataset"
    message = refused(DataError, shapes_folder, tmp_path / "x", "--input.value-range", "0,4095")
    assert "8-bit values, but the range of values is 0,4095; " in message


def test_check_data_says_the_range(folder: Path, trained: Path, tmp_path: Path, capsys):
    check_data.main([str(folder), "--page", str(tmp_path / "index.html"), "--workers", "0"])
    assert f"--input.value-range {value_range(trained)} (" in capsys.readouterr().out
