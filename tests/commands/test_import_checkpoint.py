"""The walk of a user: import, evaluate, predict, fine-tune, export."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from fasterrcnn import recipes
from fasterrcnn.cli import exit_codes
from fasterrcnn.commands import evaluate, export, import_checkpoint, predict, propose, train
from fasterrcnn.engine import checkpoint
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.importers.published import URLS
from fasterrcnn.safe_load.reading import read
from tests.importers import synthetic
from tests.importers.test_torchvision_script import picture, run_of
from tests.safe_load.test_reading import Canary
from tests.server import Server

SMALL = ("--device", "cpu", "--amp", "off")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as Detectron2's zoo has them, of random weights and 80 classes."""
    path = tmp_path_factory.mktemp("published") / "model_final.pth"
    tensors = synthetic.filled(synthetic.detectron2(detector="faster_rcnn"))
    tensors["backbone.bottom_up.stem.conv1.weight"] /= 57  # of pixels that are not normalized
    torch.save({"model": tensors, "__author__": "Detectron2 Model Zoo"}, path)
    return path


@pytest.fixture(scope="module")
def run(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "imported"
    import_checkpoint.main([str(published), "-o", str(folder)])
    return folder


def test_the_run_and_its_report(run: Path, published: Path):
    model, state, _ = checkpoint.load_detector(run)
    assert state.recipe.name == "fasterrcnn_r50_fpn_1x_detectron2"
    assert len(state.classes.names) == 80
    assert (state.classes.names[0], state.classes.category_ids[79]) == ("person", 90)
    report = json.loads((run / "import.json").read_text())
    assert report["framework"] == "detectron2"
    assert report["sha256"] == read(published).sha256
    assert report["not_used"] == []
    assert set(report["tensors"]) == set(model.state_dict())
    entry = report["tensors"]["backbone.fpn.inner_blocks.0.0.weight"]
    assert entry == {"from": "backbone.fpn_lateral2.weight", "shape": [256, 256, 1, 1]}


@pytest.mark.slow
def test_evaluate_predict_propose(run: Path, coco_tiny: Path, tmp_path: Path, capsys):
    images = sorted((coco_tiny / "val2017").iterdir())[:2]
    for command, flags in (
        (predict, ("--score-threshold", "0.01", "--output-dir", str(tmp_path / "a"))),
        (propose, ("--output-dir", str(tmp_path / "b"))),
    ):
        file = tmp_path / f"{command.__name__}.json"
        command.main(["--checkpoint", str(run), *SMALL, "--json", str(file), *flags,
                      *map(str, images)])  # fmt: skip
        assert len(json.loads(file.read_text())) > 100
    with pytest.raises(UsageError, match="--data-path"):
        evaluate.main(["--checkpoint", str(run), *SMALL])
    evaluate.main(["--checkpoint", str(run), *SMALL, "--data-path", str(coco_tiny),
                   "--bad-data", "skip"])  # fmt: skip
    assert "AP 0." in capsys.readouterr().out


def test_evaluation_needs_data(run: Path):
    with pytest.raises(UsageError, match="--data-path: this run was imported"):
        evaluate.main(["--checkpoint", str(run), *SMALL])


def test_export_gives_the_file_back(run: Path, published: Path, tmp_path: Path):
    for suffix in (".pth", ".pkl"):
        file = tmp_path / f"x{suffix}"
        export.main(["--checkpoint", str(run), "--format", "detectron2", "-o", str(file)])
        again, before = read(file).tensors, read(published).tensors
        assert set(again) == set(before)
        assert all(again[name].equal(value) for name, value in before.items())
    with pytest.raises(UsageError, match="would not compute the same"):
        export.main(["--checkpoint", str(run), "--format", "mmdet", "-o", str(tmp_path / "y.pth")])
    with pytest.raises(UsageError, match=r"must end in \.pth"):
        export.main(["--checkpoint", str(run), "--format", "torchvision", "-o", "y.pkl"])


def test_torchvision_loads_what_is_exported(shapes_folder: Path, tmp_path: Path):
    """A detector of ours, into torchvision's own builder, strictly."""
    flags = (
        "--steps", "1", "--val-split", "none", "--weights", "none", "--images-per-step", "1",
        "--images-per-gpu", "1", "--input.min-size", "64", "--input.max-size", "96",
    )  # fmt: skip
    train.main([*SMALL, *flags, "--data-path", str(shapes_folder), "--workers", "0",
                "--output-dir", str(tmp_path / "run")])  # fmt: skip
    file = tmp_path / "x.pth"
    export.main(["--checkpoint", str(tmp_path / "run"), "--format", "torchvision", "-o", str(file)])
    stock = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=7)
    tensors = torch.load(file, weights_only=True)
    counters = {k: v for k, v in stock.state_dict().items() if k.endswith("num_batches_tracked")}
    stock.load_state_dict({**tensors, **counters}, strict=True)
    import_checkpoint.main(
        [str(file), "-o", str(tmp_path / "again"), "--class-names", "a,b,c,d,e,f"]
    )
    first, second = (checkpoint.load_detector(tmp_path / name)[0] for name in ("run", "again"))
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(a.equal(b) for a, b in pairs)


@pytest.mark.slow
def test_fine_tuning_starts_lower_than_from_scratch(coco_tiny: Path, tmp_path: Path, capsys):
    """Three classes of an imported detector of 80, on the same real images in the same order. What
    is imported was trained here for a few steps, so that it knows something, and exported."""
    common = (
        *SMALL, "--data-path", str(coco_tiny), "--bad-data", "skip", "--val-split", "none",
        "--input.min-size", "128", "--input.max-size", "128", "--backbone.name", "resnet18",
        "--images-per-step", "4", "--images-per-gpu", "2", "--workers", "0", "--lr", "0.005",
        "--schedule.warmup-steps", "0", "--schedule.clip-grad-norm", "10",
    )  # fmt: skip
    train.main([*common, "--weights", "none", "--steps", "20",
                "--output-dir", str(tmp_path / "trained")])  # fmt: skip
    file, imported = tmp_path / "published.pth", tmp_path / "imported"
    export.main(["--checkpoint", str(tmp_path / "trained"), "--format", "torchvision", "-o",
                 str(file)])  # fmt: skip
    import_checkpoint.main([str(file), "-o", str(imported)])
    losses = []
    for weights in ("none", str(imported)):
        out = tmp_path / f"tuned-{len(losses)}"
        train.main([*common, "--weights", weights, "--classes", "person,car,dog", "--steps", "1",
                    "--output-dir", str(out)])  # fmt: skip
        row = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
        losses.append(sum(v for k, v in row.items() if k.startswith("loss_")))
    assert "box head: rows kept for person, car, dog" in capsys.readouterr().out
    assert losses[1] < 0.8 * losses[0]


def test_an_export_for_mmdetection_brings_its_settings_back(tmp_path: Path):
    """Anchors, sizes and box weights other than the framework's defaults: the same bits."""
    recipe = recipes.change(
        recipes.get("fasterrcnn_r50_fpn_1x_mmdetection"),
        backbone=dict(name="resnet18", fpn_channels=16),
        input=dict(min_size=160, max_size=224),
        rpn=dict(anchor_sizes=(12, 24, 48, 96, 192)),
        roi_heads=dict(bbox_reg_weights=(20.0, 20.0, 10.0, 10.0), representation_size=32),
    )
    model = run_of(tmp_path / "run", recipe, ("cat", "dog"))
    file = tmp_path / "x.pth"
    export.main(["--checkpoint", str(tmp_path / "run"), "--format", "mmdet", "-o", str(file)])
    import_checkpoint.main([str(file), "-o", str(tmp_path / "again")])
    again, state, _ = checkpoint.load_detector(tmp_path / "again")
    assert state.classes.names == ("cat", "dog")
    with torch.no_grad():
        first, second = (detector([picture(120, 170)])[0] for detector in (model, again))
    assert len(first["boxes"]) > 10
    assert all(first[key].equal(second[key]) for key in first)


def test_the_checkpoint_of_torchvisions_script(tmp_path: Path, capsys):
    """As references/detection/train.py saves it, with an average beside the weights."""
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    tensors = model.state_dict()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02)
    content = {
        "model": tensors,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [16, 22]).state_dict(),
        "args": argparse.Namespace(model="fasterrcnn_resnet50_fpn", lr=0.02),
        "epoch": 25,
        "model_ema": {f"module.{name}": value + 1 for name, value in tensors.items()},
    }
    torch.save(content, tmp_path / "model_25.pth")
    flags = [str(tmp_path / "model_25.pth"), "--class-names", "cat,dog"]
    import_checkpoint.main(
        [*flags, "-o", str(tmp_path / "a"), "--rpn.anchor-sizes", "16,32,64,128,256"]
    )
    out = capsys.readouterr().out
    assert "took model; not taken: model_ema (--entry NAME takes another)" in out
    assert "given --rpn.anchor-sizes; image sizes, pixel values, box weights" in out
    import_checkpoint.main([*flags, "-o", str(tmp_path / "b"), "--entry", "model_ema"])
    for run, more in (("a", 0), ("b", 1)):
        found, state, _ = checkpoint.load_detector(tmp_path / run)
        key = "rpn.head.cls_logits.weight"
        assert found.state_dict()[key].equal(tensors[key] + more)
        assert state.recipe.rpn.anchor_sizes[0] == (16 if run == "a" else 32)
    assert json.loads((tmp_path / "b" / "import.json").read_text())["entry"] == "model_ema"


def test_flags_do_not_change_what_is_published(tmp_path: Path):
    with pytest.raises(UsageError, match=r"--input.min-size: mmdet:\w+: is published with its own"):
        import_checkpoint.main(
            ["mmdet:rpn_r50_fpn_1x", "-o", str(tmp_path / "x"), "--input.min-size", "400"]
        )


def test_folders_and_files_that_are_wrong(run: Path, published: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="holds a run already"):
        import_checkpoint.main([str(published), "-o", str(run)])
    with pytest.raises(UsageError, match="one file at a time"):
        import_checkpoint.main([str(published), str(published), "-o", str(tmp_path / "x")])
    with pytest.raises(CheckpointError, match="No such file"):
        import_checkpoint.main([str(tmp_path / "none.pth"), "-o", str(tmp_path / "x")])
    with pytest.raises(UsageError, match=r"the file is detectron2's"):
        import_checkpoint.main(
            [str(published), "-o", str(tmp_path / "x"), "--source", "mmdet:rpn_r50_fpn_1x"]
        )
    assert not (tmp_path / "x").exists()


def ended(arguments: list[str], capsys) -> tuple[int, list[str]]:
    """The command's exit code and its error lines."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        exit_codes.run(lambda: import_checkpoint.main(arguments))
    errors = capsys.readouterr().err.splitlines()
    return end.value.code, [line for line in errors if not line.endswith("; trying again")]


@pytest.fixture(scope="module")
def rpn() -> dict[str, torch.Tensor]:
    """Tensors of MMDetection's RPN, caffe style or pytorch style."""
    return synthetic.filled(synthetic.mmdetection(detector="rpn"))


@pytest.fixture
def zoo(server: Server, rpn: dict, tmp_path: Path, monkeypatch) -> Server:
    """A server of the RPN as what MMDetection publishes in caffe style; an empty cache."""
    torch.save({"state_dict": rpn}, tmp_path / "x.pth")
    server.body = (tmp_path / "x.pth").read_bytes()
    digits = hashlib.sha256(server.body).hexdigest()[:8]
    url = f"http://127.0.0.1:{server.server_port}/rpn-{digits}.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setitem(URLS["mmdet"], "rpn_r50_caffe_fpn_1x_mmdetection", url)
    return server


def test_by_name(zoo: Server, tmp_path: Path, capsys):
    """The name also says what the tensors cannot: the style."""
    zoo.cut = [1 << 20]
    name = "mmdet:rpn_r50-caffe_fpn_1x_coco"
    for run in ("a", "b"):
        import_checkpoint.main([name, "-o", str(tmp_path / run)])
        assert f"conventions by the name {name}" in capsys.readouterr().out
        _, state, _ = checkpoint.load_detector(tmp_path / run)
        assert state.recipe.name == "rpn_r50_caffe_fpn_1x_mmdetection"
        assert state.recipe.backbone.stride_in_1x1
    assert [wanted for _, wanted in zoo.requests] == [None, f"bytes={1 << 20}-"]


@pytest.mark.parametrize(("setting", "code", "message"), [
    (dict(status=[404]), 9, "Not Found"),
    (dict(cut=[1000] * 5), 9, "the connection ended after 5000 of"),
    (dict(body=b"a page of a hotel"), 9, "SHA-256 is"),
    (dict(status=[500] * 5), 9, "Internal Server Error"),
    (dict(), 2, "did you mean mmdet:rpn_r50_fpn_2x"),
], ids=["missing", "cut", "another file", "broken", "unknown"])  # fmt: skip
def test_names_that_lead_nowhere(zoo: Server, tmp_path: Path, capsys, setting, code, message):
    vars(zoo).update(setting)
    name = "mmdet:rpn_r50_fpn_9x" if code == 2 else "mmdet:rpn_r50_caffe_fpn_1x"
    found, lines = ended([name, "-o", str(tmp_path / "run")], capsys)
    assert (found, len(lines)) == (code, 1)
    assert message in lines[0]
    assert not [p for p in (tmp_path / "torch").rglob("*.*") if p.suffix != ".part"]
    assert not (tmp_path / "run").exists()


def bombed(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/999", bytes(100 << 20))


NAN = torch.full((256,), float("nan"))
CONV = "rpn_head.rpn_conv.bias"
WRONG = {  # what is changed in the tensors, then in the file; what the one line says
    "missing": (lambda t: t.pop(CONV), None, f"{CONV}: missing"),
    "extra": (lambda t: t.update(extra=NAN[:0]), None, "extra: unknown"),
    "shape": (lambda t: t.update({CONV: torch.zeros(5)}), None, "shape (5,)"),
    "dtype": (lambda t: t.update({CONV: torch.zeros(256).bool()}), None, "torch.bool: is no"),
    "nan": (lambda t: t.update({CONV: NAN}), None, f"{CONV}: 256 of 256 numbers are NaN"),
    "truncated": (None, lambda p: os.truncate(p, p.stat().st_size // 2), "is it complete?"),
    "code": (lambda t: t.update(x=Canary(Path("canary"))), None, "wants to run posix.mkdir"),
    "bomb": (None, bombed, "declares more data than the file holds"),
    "classifier": (lambda t: (t.clear(), t.update({"fc.weight": NAN[:0]})), None, "a classifier"),
    "retinanet": (
        lambda t: [t.update({k.replace("rpn_head.rpn", "bbox_head.retina"): t.pop(k)})
                   for k in [*t] if "rpn_head" in k],
        None, "no Faster R-CNN or RPN"),
    "other": (lambda t: t.update({"roi_head.semantic_head.x": NAN[:0]}), None, "not supported"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "file", "message"), WRONG.values(), ids=WRONG)
def test_wrong_files_are_one_line(
    rpn: dict, tmp_path: Path, monkeypatch, capsys, tensors, file, message
):
    monkeypatch.chdir(tmp_path)
    content = {k.replace("bbox_head", "rpn_head"): v for k, v in rpn.items()}
    if tensors:
        tensors(content)
    torch.save({"state_dict": content}, "x.pth")
    if file:
        file(tmp_path / "x.pth")
    arguments = ["x.pth", "-o", "run", "--source", "mmdet:rpn_r50_fpn_1x"]
    code, lines = ended(arguments, capsys)
    assert (code, len(lines)) == (4, 1)
    assert lines[0].startswith("error: x.pth: ")
    assert message in lines[0]
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]
