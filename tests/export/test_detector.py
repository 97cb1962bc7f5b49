"""An exported run: parity, damage that parity finds, evaluation, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.export import ExportedProgram

from fasterrcnn import load, recipes
from fasterrcnn.commands import evaluate, export, predict, propose
from fasterrcnn.engine import checkpoint
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.export import parity, program_file
from fasterrcnn.export import program as programs
from fasterrcnn.models import build
from fasterrcnn.safe_load import reading
from tests.commands import runs
from tests.commands.test_train_tiles import of_16_bits

SUFFIXES = ("onnx", "pt2")
SMALL = ("--input.min-size", 96, "--input.max-size", 160)


@pytest.fixture(scope="module")
def run(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps, then detections of low scores."""
    out = tmp_path_factory.mktemp("runs") / "run"
    runs.run(shapes_folder, out, "--steps", 8, *SMALL, "--roi-heads.score-thresh", 0.02)
    return out


@pytest.fixture(scope="module")
def files(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By suffix, written by the command when first asked for: 8 images at three sizes."""

    class Files(dict[str, Path]):
        def __missing__(self, suffix: str) -> Path:
            file = self[suffix] = tmp_path_factory.mktemp("files") / f"model.{suffix}"
            export.main(["--checkpoint", str(run), "--format", suffix, "-o", str(file)])
            return file

    return Files()


def metrics(of: Path, tmp_path: Path, *flags: object) -> dict:
    file = tmp_path / "metrics.json"
    command = ["--checkpoint", of, "--device", "cpu", "--workers", 0, "--json", file, *flags]
    evaluate.main([str(word) for word in command])
    return json.loads(file.read_text())


@pytest.mark.parametrize("suffix", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_file_detects_and_measures_as_the_run(files, run, tmp_path, suffix):
    """Without any other file of the run; batches of 1 and 3 in landscape and portrait."""
    model, state, _ = checkpoint.load_detector(run)
    other, written, path = checkpoint.load_detector(files[suffix])
    assert (written.classes, path) == (state.classes, files[suffix])
    for agreement in parity.compare(model, other, export.some_images(state).images):
        assert agreement.holds and agreement.counts[0] > 50, str(agreement)
    ours, theirs = metrics(run, tmp_path), metrics(files[suffix], tmp_path)
    assert theirs["AP"] == pytest.approx(ours["AP"], abs=1e-4)
    assert "validation_loss" in ours and "validation_loss" not in theirs
    assert [p.name for p in files[suffix].parent.iterdir()] == [f"model.{suffix}"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cascade_is_exported(shapes_folder: Path, tmp_path: Path, suffix: str):
    """Three steps; `export` itself compares what the file detects with the run."""
    run = tmp_path / "run"
    thresholds = ("--roi-heads.score-thresh", 0.02, "--roi-heads.stages", 3)
    runs.run(shapes_folder, run, "--steps", 3, *SMALL, *thresholds)
    file = tmp_path / f"model.{suffix}"
    export.main(["--checkpoint", str(run), "--format", suffix, "-o", str(file)])
    model, _, _ = checkpoint.load_detector(run)
    assert model.roi_heads.config.stages == 3
    assert metrics(file, tmp_path)["AP"] == pytest.approx(metrics(run, tmp_path)["AP"], abs=1e-4)


def damage_weight(model, state):
    with torch.no_grad():
        model.roi_heads.box_head.fc6.weight.mul_(1.01)
    return state


def damage_order(model, state):
    with torch.no_grad():
        for tensor in model.roi_heads.box_predictor.cls_score.parameters():
            tensor[[1, 2]] = tensor[[2, 1]]
    return state


def damage_mean(model, state):
    config = replace(state.recipe.input, image_mean=(0.4, 0.456, 0.406))
    return replace(state, recipe=replace(state.recipe, input=config))


def damage_names(model, state):
    names = state.classes.names
    return replace(state, classes=replace(state.classes, names=(names[1], names[0], *names[2:])))


@pytest.fixture(scope="module")
def network(run: Path) -> ExportedProgram:
    """The run's, as it is."""
    return programs.export(checkpoint.load_detector(run)[0])


@pytest.mark.parametrize("damage", [damage_weight, damage_order, damage_mean, damage_names])
def test_damage_is_found(run: Path, network, tmp_path: Path, damage, monkeypatch):
    """What is written is damaged on the way; no file is left, and an older one is kept."""
    model, state, _ = checkpoint.load_detector(run)
    output = tmp_path / "model.pt2"
    output.write_text("older")
    damaged, _, _ = checkpoint.load_detector(run)
    wrong = damage(damaged, state)
    changed = damage in (damage_weight, damage_order)
    exported = programs.export(damaged) if changed else network
    real = program_file.write
    monkeypatch.setattr(programs, "export", lambda *_, **__: exported)
    monkeypatch.setattr(
        program_file, "write", lambda p, file, _: real(p, file, checkpoint.to_json(wrong))
    )
    with pytest.raises(CheckpointError, match="was removed"):
        export.write_program(model, state, output, export.some_images(state).images[:3])
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]
    assert output.read_text() == "older"


@pytest.mark.slow
def test_a_damaged_onnx_file_is_found(files, run: Path, tmp_path: Path, capsys):
    """Edited as another program would: one weight times 1.01, and another mean."""
    onnx = pytest.importorskip("onnx")
    model, state, _ = checkpoint.load_detector(run)
    export.check(model, state, files["onnx"], export.some_images(state).images)
    content = onnx.load(files["onnx"])
    shape = [*model.roi_heads.box_head.fc6.weight.shape]
    (weight,) = [w for w in content.graph.initializer if sorted(w.dims) == sorted(shape)]
    damaged = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(onnx.numpy_helper.from_array(damaged, weight.name))
    onnx.save(content, tmp_path / "weight.onnx")
    content = onnx.load(files["onnx"])
    text = next(entry for entry in content.metadata_props if entry.key == "fasterrcnn")
    changed = json.loads(text.value)
    changed["recipe"]["input"]["image_mean"][0] = 0.4
    text.value = json.dumps(changed)
    onnx.save(content, tmp_path / "mean.onnx")
    for name in ("weight", "mean"):
        with pytest.raises(CheckpointError, match="detects something else"):
            export.check(model, state, tmp_path / f"{name}.onnx", export.some_images(state).images)


@pytest.mark.slow
def test_a_file_in_half_precision(files, shapes_folder: Path, tmp_path: Path):
    """Half the size; `export` itself compares what it detects with the run, which has learned
    something: scores of a fresh network lie too close together."""
    run, half = tmp_path / "run", tmp_path / "half.onnx"
    runs.run(shapes_folder, run, "--steps", 300, *SMALL)
    export.main(["--checkpoint", str(run), "--format", "onnx", "--half", "-o", str(half)])
    assert half.stat().st_size < 0.6 * files["onnx"].stat().st_size
    ours = metrics(run, tmp_path)["AP"]
    assert ours > 0
    assert metrics(half, tmp_path)["AP"] == pytest.approx(ours, rel=0.1)


def test_proposals_of_low_score_are_in_the_file(run: Path, tmp_path: Path):
    """Those of a trained network have scores far below the threshold of a box head."""
    _, state, _ = checkpoint.load_detector(run)
    recipe = replace(state.recipe, detector="rpn")
    model = build.build(recipe, state.classes.num_classes).eval()
    torch.nn.init.constant_(model.rpn.head.cls_logits.bias, -6.0)
    file, pictures = tmp_path / "rpn.pt2", export.some_images(state).images[:2]
    export.write_program(model, replace(state, recipe=recipe), file, pictures)
    (found,) = checkpoint.load_detector(file)[0](pictures[:1])
    assert len(found["scores"]) and found["scores"].max() < recipe.roi_heads.score_thresh


def test_flags_of_what_is_inside_are_refused(files, tmp_path: Path):
    inside = (("--nms-threshold", 0.3), ("--detections-per-image", 5), ("--amp", "bf16"))
    for flag, value in inside:
        with pytest.raises(UsageError, match=f"{flag}: is fixed inside"):
            metrics(files["pt2"], tmp_path, flag, value)
    with pytest.raises(UsageError, match=r"--score-threshold: 0\.01: the file leaves out"):
        metrics(files["pt2"], tmp_path, "--score-threshold", 0.01)


def test_predict_takes_a_file_and_a_higher_threshold(files, shapes_folder: Path, tmp_path: Path):
    image = min(shapes_folder.rglob("*.png"))

    def scores(threshold: float) -> list[float]:
        out = tmp_path / "found.json"
        command = ["--checkpoint", files["pt2"], image, "--no-pictures", "--json", out]
        command += ["--score-threshold", threshold, "--workers", 0, "--device", "cpu"]
        predict.main([str(word) for word in command])
        return [found["score"] for found in json.loads(out.read_text())]

    every = sorted(scores(0.02))
    middle = every[len(every) // 2]
    assert 0 < len(scores(middle)) < len(every)
    assert min(scores(middle)) >= middle


@pytest.mark.slow
def test_a_file_that_prepares_images(run: Path, shapes_folder: Path, tmp_path: Path, capsys):
    """It takes decoded images in any program, and measures as the run."""
    file = tmp_path / "whole.onnx"
    command = ["--checkpoint", run, "--format", "onnx", "--preprocess", "in", "-o", file]
    export.main([str(word) for word in command])
    assert metrics(file, tmp_path)["AP"] == pytest.approx(metrics(run, tmp_path)["AP"], abs=1e-4)
    image = Image.open(min(shapes_folder.rglob("*.png"))).convert("RGB")
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    session = onnxruntime.InferenceSession(file)
    pixels = np.asarray(image).transpose(2, 0, 1)[None]
    boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"image": pixels})
    (ours,) = load(run, device="cpu", amp="off")([image])
    assert (labels[0] > 0).sum() == len(ours) > 0
    np.testing.assert_allclose(boxes[0][: len(ours)], ours.boxes, atol=parity.EXACT.box)
    np.testing.assert_allclose(scores[0][: len(ours)], ours.scores, atol=parity.EXACT.score)
    with pytest.raises(UsageError, match="--min-size: is fixed inside"):
        metrics(file, tmp_path, "--min-size", 100)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_takes_values_of_16_bits_as_stored(shapes_folder, tmp_path: Path, suffix: str):
    """Measured as the run, and called by a program that only reads the image."""
    root, run, file = of_16_bits(tmp_path / "data", shapes_folder), tmp_path / "run", tmp_path / "x"
    file = file.with_suffix(f".{suffix}")
    runs.run(root, run, "--steps", 8, *SMALL, "--roi-heads.score-thresh", 0.02)
    command = ["--checkpoint", run, "--format", suffix, "--preprocess", "in", "-o", file]
    export.main([str(word) for word in command])
    assert metrics(file, tmp_path)["AP"] == pytest.approx(metrics(run, tmp_path)["AP"], abs=1e-4)
    image = min(root.glob("val/*.png"))
    raw = np.asarray(Image.open(image))[None, None].repeat(3, axis=1)
    assert raw.dtype == np.uint16 and raw.max() > 30_000
    if suffix == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
        session = onnxruntime.InferenceSession(file)
        assert session.get_modelmeta().custom_metadata_map["input.type"] == "uint16"
        boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"image": raw})
    else:
        found = torch.export.load(file).module()(torch.from_numpy(raw))
        boxes, scores, labels = (part.detach().numpy() for part in found)
    ours = load(run, device="cpu", amp="off")(image)
    assert (labels[0] > 0).sum() == len(ours) > 0
    np.testing.assert_allclose(boxes[0][: len(ours)], ours.boxes, atol=parity.EXACT.box)
    np.testing.assert_allclose(scores[0][: len(ours)], ours.scores, atol=parity.EXACT.score)


@pytest.mark.parametrize(
    "changed", [dict(nodata="file"), dict(value_range="image"), dict(value_range="window")]
)
def test_a_file_does_not_prepare_what_images_say_of_themselves(run, tmp_path, changed, monkeypatch):
    model, state, path = checkpoint.load_detector(run)
    state = replace(state, recipe=recipes.change(state.recipe, input=changed))
    monkeypatch.setattr(checkpoint, "load_detector", lambda _: (model, state, path))
    ((name, value),) = changed.items()
    command = ["--checkpoint", run, "--format", "onnx", "--preprocess", "in"]
    reason = f"^--preprocess: in: this run has --input.{name.replace('_', '-')} {value}: .*leave it"
    with pytest.raises(UsageError, match=reason):
        export.main([str(word) for word in (*command, "-o", tmp_path / "x.onnx")])
    assert not [*tmp_path.iterdir()]


def test_only_programs_prepare_images_and_only_onnx_files_are_halved(run: Path, tmp_path: Path):
    command = ["--checkpoint", str(run), "-o"]
    into = [*command, str(tmp_path / "x.pth"), "--format", "mmdet", "--preprocess", "in"]
    with pytest.raises(UsageError, match="--preprocess: in: is for --format onnx and pt2"):
        export.main(into)
    with pytest.raises(UsageError, match="--half: is for --format onnx"):
        export.main([*command, str(tmp_path / "x.pt2"), "--format", "pt2", "--half"])


def test_what_takes_no_exported_file_says_what_does(files, tmp_path: Path):
    with pytest.raises(CheckpointError, match="writes what compare takes"):
        checkpoint.find(files["pt2"])
    with pytest.raises(UsageError, match="is an exported file; give the run it is of"):
        propose.main(["--checkpoint", str(files["pt2"]), "--proposals", str(tmp_path / "x.npz")])
    with pytest.raises(UsageError, match="is exported; give the run it is of"):
        export.main(
            ["--checkpoint", str(files["pt2"]), "--format", "hub", "-o", str(tmp_path / "hub")]
        )
    with pytest.raises(CheckpointError, match="holds no state dict; give its run"):
        reading.read(files["pt2"])


def test_python_takes_a_file(files, run: Path, shapes_folder: Path):
    images = [str(image) for image in sorted(shapes_folder.rglob("*.png"))[:3]]
    ours = load(run, device="cpu", amp="off")(images)
    theirs = load(files["pt2"], device="cpu")(images)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) and one.names == other.names
        torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=parity.EXACT.box)
    detector = load(files["pt2"], device="cpu")
    every = detector(images[0])
    assert len(detector(images[0], float(every.scores.median()))) < len(every)
    assert len(detector(images[0])) == len(every), "a threshold is that of one call"
    with pytest.raises(ValueError, match="slice: is for the whole detector of a run; an exported"):
        load(files["pt2"], device="cpu", slice=64)


def test_validation_data_that_has_changed_is_replaced_by_shapes(run, tmp_path: Path, capsys):
    _, state, _ = checkpoint.load_detector(run)
    moved = replace(state, data={**state.data, "path": str(tmp_path)})  # no split is in it
    drawn = export.some_images(moved).images
    out = capsys.readouterr().out
    assert f"note: {tmp_path}: the run's validation data cannot be read" in out
    nowhere = replace(state, data={**state.data, "path": ""})
    assert all(a.equal(b) for a, b in zip(drawn, export.some_images(nowhere).images, strict=True))


@pytest.mark.slow
def test_a_comparison_of_nothing_says_so(files, run: Path, tmp_path: Path, capsys):
    model, state, _ = checkpoint.load_detector(run)
    pictures = export.some_images(state).images[:1]
    export.check(model, state, files["pt2"], pictures)
    assert "nothing is detected" not in capsys.readouterr().out
    strict = recipes.change(state.recipe, roi_heads=dict(score_thresh=0.999))
    model = build.build(strict, state.classes.num_classes).eval()
    export.write_program(model, replace(state, recipe=strict), tmp_path / "model.pt2", pictures)
    assert "note: nothing is detected in these images" in capsys.readouterr().out


def test_other_files_are_named(tmp_path: Path):
    for suffix in SUFFIXES:
        file = tmp_path / f"model.{suffix}"
        file.write_bytes(b"not a model")
        with pytest.raises(CheckpointError, match=f"model.{suffix}: cannot be read"):
            checkpoint.load_detector(file)
    # Said before torch sees the file, which would log a traceback.
    with pytest.raises(CheckpointError, match=r"incomplete, or no \.pt2 file; export it again"):
        program_file.read(tmp_path / "model.pt2")
