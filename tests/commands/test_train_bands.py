"""Images of four bands, through training, resume, evaluation, prediction, Python and export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fasterrcnn
from fasterrcnn.commands import check_data, evaluate, export, predict, report
from fasterrcnn.engine import checkpoint
from fasterrcnn.errors import DataError, UsageError
from fasterrcnn.recipes import Input
from fasterrcnn.reports import drawing
from tests.commands.runs import assert_same_bits, refused, run
from tests.data.test_tiff_files import write

STEPS = ("--steps", "2", "--val-split", "val", "--eval-every", "0", "--input.channels", "4",
         "--roi-heads.score-thresh", "0")  # fmt: skip
_IMAGES = 12  # of each split


def four_bands(root: Path, shapes: Path, suffix: str) -> Path:
    """The synthetic images with a fourth band, as TIFF or arrays."""
    for name in ("train", "val"):
        (root / name).mkdir(parents=True)
    (root / "annotations").mkdir()
    for file in sorted(shapes.glob("annotations/*.json")):
        content = json.loads(file.read_text().replace(".png", suffix))
        content["images"] = content["images"][:_IMAGES]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        (root / "annotations" / file.name).write_text(json.dumps(content))
    for file in sorted(shapes.glob("*/*.png")):
        rgb = np.asarray(Image.open(file).convert("RGB"))
        pixels = np.dstack([rgb, 255 - rgb[:, :, :1]])
        path = root / file.parent.name / f"{file.stem}{suffix}"
        if suffix == ".npy":
            np.save(path, pixels)
        else:
            write(path, [pixels], planar=True, predictor=2, tile=64)
    return root


@pytest.fixture(scope="module")
def folder(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return four_bands(tmp_path_factory.mktemp("bands") / "data", shapes_folder, ".tif")


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    run(folder, out, *STEPS)
    return out


def config(out: Path) -> Input:
    return checkpoint.load_state(checkpoint.find(out)).recipe.input


@pytest.mark.slow
def test_a_stopped_run_continues_with_the_same_bits(folder: Path, trained: Path, tmp_path: Path):
    found = config(trained)
    assert found.channels == 4 and len({*found.image_mean}) == len(found.image_std) == 4
    out = tmp_path / "run"
    run(folder, out, *STEPS[2:], "--steps", "1")
    run(folder, out, *STEPS, "--resume")
    assert config(out) == found
    assert_same_bits(max((out / "checkpoints").glob("step-*")), checkpoint.find(trained))


@pytest.mark.slow
def test_arrays_and_planar_tiff_are_the_same_run(
    folder: Path, shapes_folder: Path, trained: Path, tmp_path: Path
):
    arrays = four_bands(tmp_path / "data", shapes_folder, ".npy")
    assert_same_bits(run(arrays, tmp_path / "run", *STEPS), checkpoint.find(trained))


def test_what_a_run_on_four_bands_detects_in(folder: Path, trained: Path, tmp_path: Path):
    here = ("--checkpoint", str(trained), "--device", "cpu", "--workers", "0")
    image = sorted(folder.glob("val/*.tif"))[0]
    out = tmp_path / "predictions"
    predict.main([*here, str(image), "--output-dir", str(out)])
    assert Image.open(out / f"{image.stem}.jpg").mode == "RGB"
    detector = fasterrcnn.load(trained, device="cpu")
    pixels = _bands(image)
    of_file = detector(image)
    for same in (pixels.transpose(1, 2, 0), torch.from_numpy(pixels)):
        assert torch.equal(detector(same).boxes, of_file.boxes) and len(of_file.boxes)
    Image.new("RGB", (60, 40)).save(tmp_path / "rgb.png")
    message = "3 bands, where 4 are expected"
    for other in (tmp_path / "rgb.png", Image.new("RGB", (60, 40)), np.zeros((9, 9, 3), np.uint8),
                  torch.zeros(3, 9, 9)):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            detector(other)
    with pytest.raises(DataError, match=rf"rgb\.png: {message}"):
        predict.main([*here, str(tmp_path / "rgb.png"), "--output-dir", str(out)])
    with pytest.raises(UsageError, match="the input has 4 channels, there 3"):
        export.main(["--checkpoint", str(trained), "--format", "torchvision", "-o",
                     str(tmp_path / "x.pth")])  # fmt: skip


def _bands(image: Path) -> np.ndarray:
    from fasterrcnn.data import images
    from fasterrcnn.pixel_format import AS_STORED

    return images.decode(image, apply_orientation=False, pixel_format=AS_STORED).numpy()


def test_three_of_four_bands_are_used_and_a_line_says_so(folder: Path, tmp_path: Path, capsys):
    one = ("--steps", "1", "--val-split", "none")
    run(folder, tmp_path / "run", *one)
    assert "the files have 4 bands, of which 1, 2 and 3 are used" in capsys.readouterr().out
    assert config(tmp_path / "run") == Input(min_size=64, max_size=96)
    run(folder, tmp_path / "bands", *one, "--input.bands", "4,2", "--augment.zoom-out",
        "--augment.jitter", "--augment.jitter-size", "64")  # fmt: skip
    assert len(config(tmp_path / "bands").image_mean) == 2
    assert "where 5 are expected" in refused(DataError, folder, tmp_path / "x", "--input.channels",
                                             "5")  # fmt: skip


def test_pictures_show_other_bands(folder: Path, trained: Path, tmp_path: Path, monkeypatch):
    flags = ("--checkpoint", str(trained), "--device", "cpu", "--workers", "0")
    image = sorted(folder.glob("val/*.tif"))[0]
    seen = []
    blank = Image.new("L", (9, 9))
    monkeypatch.setattr(drawing, "draw", lambda image, **_: seen.append(image) or blank)
    predict.main([*flags, str(image), "--output-dir", str(tmp_path), "--display-bands", "4,1,2"])
    assert np.array_equal(seen[0].numpy(), _bands(image)[[3, 0, 1]])
    for bands, error in (
        ("4,1", "4,1: must be three bands, or one"),
        ("0", "0: must be 1 or more"),
    ):
        with pytest.raises(UsageError, match=f"^--display-bands: {error}"):
            predict.main([*flags, str(image), "--display-bands", bands])
    with pytest.raises(UsageError, match=r"^--display-bands: 9: .*tif has 4$"):
        evaluate.main([*flags, "--draw", "1", "--display-bands", "9"])
    with pytest.raises(UsageError, match="--display-bands: is for pictures"):
        evaluate.main([*flags, "--display-bands", "1"])


@pytest.mark.slow
def test_evaluation_and_pages(folder: Path, trained: Path, tmp_path: Path, capsys):
    evaluate.main(
        ["--checkpoint", str(trained), "--device", "cpu", "--workers", "0", "--draw", "2"]
    )
    bands = ("--display-bands", "4,1,2")
    report.main([str(trained), *bands])
    check_data.main([str(folder), "--page", str(tmp_path / "index.html"), "--workers", "0", *bands])
    assert "the files have 4 bands, of which 1, 2 and 3 are used" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_exported_files_take_the_bands(folder: Path, trained: Path, tmp_path: Path, form: str):
    file = tmp_path / f"x.{form}"
    export.main(["--checkpoint", str(trained), "--format", form, "-o", str(file)])
    image = sorted(folder.glob("val/*.tif"))[0]
    found = fasterrcnn.load(file, device="cpu", min_size=96)(image)
    wanted = fasterrcnn.load(trained, device="cpu", min_size=96)(image)
    assert len(wanted.boxes)
    torch.testing.assert_close(found.boxes, wanted.boxes, atol=0.05, rtol=0)
