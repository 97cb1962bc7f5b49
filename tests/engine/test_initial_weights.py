"""First weights: what each source gives, which head rows are kept, what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load_file
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from fasterrcnn import recipes
from fasterrcnn.commands import train
from fasterrcnn.data import formats
from fasterrcnn.data.annotations import Classes
from fasterrcnn.data.problems import Problems
from fasterrcnn.engine import checkpoint, download, evaluation, runtime
from fasterrcnn.engine.initial_weights import initialize
from fasterrcnn.errors import CheckpointError, DownloadError, UsageError
from fasterrcnn.models.build import build
from tests.conftest import TINY

SMALL = recipes.change(recipes.fasterrcnn_r10_fpn_shapes(), backbone=dict(fpn_channels=8))
R50 = recipes.fasterrcnn_r50_fpn_1x()
PREDICTOR = "roi_heads.box_predictor"
ANIMALS = Classes(("cat", "dog", "fox"), (1, 2, 3))


def detector(classes: Classes, seed: int, recipe: recipes.Recipe = SMALL):
    torch.manual_seed(seed)
    model = build(recipe, classes.num_classes)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.bias)
    return model


def init(model, weights: object, classes: Classes | None = None, recipe: recipes.Recipe = SMALL):
    return initialize(model, recipes.change(recipe, weights=str(weights)), classes or ANIMALS)


def saved(tmp_path: Path, classes: Classes) -> Path:
    """A checkpoint of this project."""
    from fasterrcnn.engine import checkpoint

    state = checkpoint.State(1, 1, SMALL, classes, {}, {"digest": ""}, {})
    tensors = {"model": detector(classes, 5).state_dict()}
    return checkpoint.save(tmp_path / "run" / "checkpoints", tensors, state, keep=2)


@pytest.mark.parametrize("by", ["run", "checkpoint", "file"])
def test_rows_of_classes_with_the_same_name_are_kept(tmp_path: Path, by: str):
    path = saved(tmp_path, ANIMALS)
    source = detector(ANIMALS, 5).state_dict()
    target = detector(Classes(("fox", "owl", "cat"), (1, 2, 3)), 6)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    given = {"run": tmp_path / "run", "checkpoint": path, "file": path / "model.safetensors"}[by]
    log = init(target, given, Classes(("fox", "owl", "cat"), (1, 2, 3)))
    after = target.state_dict()
    for key, value in after.items():
        if not key.startswith(PREDICTOR):
            assert value.equal(source[key]), key
    for kind in ("weight", "bias"):
        scores = f"{PREDICTOR}.cls_score.{kind}"
        for mine, theirs in ((0, 0), (1, 3), (3, 1)):  # background, fox, cat
            assert after[scores][mine].equal(source[scores][theirs])
        assert after[scores][2].equal(before[scores][2])  # owl is fresh
        boxes = f"{PREDICTOR}.bbox_pred.{kind}"
        assert after[boxes][4:8].equal(source[boxes][12:16])
        assert after[boxes][8:12].equal(before[boxes][8:12])
    assert "box head: rows kept for fox, cat" in log
    assert "box head: fresh rows for owl" in log


def test_another_normalization_than_in_training_is_noted(tmp_path: Path):
    saved(tmp_path, ANIMALS)
    other = recipes.change(SMALL, input=dict(image_mean=(0.5, 0.5, 0.5)), seed=3)
    log = init(detector(ANIMALS, 6), tmp_path / "run", recipe=other)
    notes = [line for line in log if line.startswith("note")]
    assert len(notes) == 1
    assert "input.image_mean" in notes[0]


def notes(log: list[str]) -> list[str]:
    start = "note: differs from the training of these weights: "
    return [line.removeprefix(start) for line in log if line.startswith(start)]


def test_every_difference_in_the_use_of_weights_is_noted(tmp_path: Path):
    saved(tmp_path, ANIMALS)
    other = recipes.change(
        SMALL,
        input=dict(min_size=96, channel_order="bgr", flip=0.0),
        backbone=dict(norm="frozen"),
        rpn=dict(anchor_sizes=(8, 16, 32, 64, 128), round_anchors=False, beta=0.0),
        roi_heads=dict(aligned=True, bbox_reg_weights=(1.0, 1.0, 1.0, 1.0), score_thresh=0.5),
        schedule=dict(lr=1.0),
    )
    log = init(detector(ANIMALS, 6, other), tmp_path / "run", recipe=other)
    assert [line.partition(":")[0] for line in notes(log)] == [
        "input.min_size", "input.channel_order", "backbone.norm", "rpn.anchor_sizes",
        "rpn.round_anchors", "roi_heads.aligned", "roi_heads.bbox_reg_weights",
    ]  # fmt: skip


def test_pixel_values_in_another_unit_are_no_difference(tmp_path: Path):
    saved(tmp_path, ANIMALS)
    unit = dict(
        pixel_scale=1.0,
        image_mean=tuple(255 * v for v in SMALL.input.image_mean),
        image_std=tuple(255 * v for v in SMALL.input.image_std),
    )
    log = init(detector(ANIMALS, 6), tmp_path / "run", recipe=recipes.change(SMALL, input=unit))
    assert not notes(log)


def test_a_predictor_of_another_number_of_anchors_is_fresh(tmp_path: Path):
    saved(tmp_path, ANIMALS)
    two = recipes.change(SMALL, rpn=dict(aspect_ratios=(0.5, 2.0)))
    target = detector(ANIMALS, 6, two)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    log = init(target, tmp_path / "run", recipe=two)
    line = "region proposal network: 3 anchors per cell in the file, 2 here: fresh predictor"
    assert line in log
    source = detector(ANIMALS, 5).state_dict()
    for key, value in target.state_dict().items():
        fresh = key.startswith(("rpn.head.cls_logits", "rpn.head.bbox_pred"))
        assert value.equal((before if fresh else source)[key]), key
    assert line not in init(detector(ANIMALS, 6), tmp_path / "run")


def test_of_several_state_dicts_the_log_says_which(tmp_path: Path):
    tensors = detector(ANIMALS, 5).state_dict()
    average = {"n_averaged": torch.tensor(3)} | {f"module.{k}": v + 1 for k, v in tensors.items()}
    torch.save({"model_ema": average, "model": tensors}, tmp_path / "model_25.pth")
    target = detector(ANIMALS, 6)
    log = init(target, tmp_path / "model_25.pth")
    assert all(v.equal(tensors[k]) for k, v in target.state_dict().items())
    assert log[0] == f"weights: {tmp_path / 'model_25.pth'}, model (not model_ema)"
    assert any("does not say what pixels" in line for line in log)


def test_a_state_dict_without_names(tmp_path: Path):
    path = tmp_path / "model.pth"
    source = detector(ANIMALS, 5)
    torch.save({"model": {f"module.{k}": v for k, v in source.state_dict().items()}}, path)
    target = detector(ANIMALS, 6)
    log = init(target, path)
    assert all(v.equal(source.state_dict()[k]) for k, v in target.state_dict().items())
    assert any("no class names; assumed to be these classes" in line for line in log)
    two = Classes(("cat", "dog"), (1, 2))
    other = detector(two, 7)
    before = other.state_dict()[f"{PREDICTOR}.cls_score.weight"].clone()
    log = init(other, path, two)
    assert other.state_dict()[f"{PREDICTOR}.cls_score.weight"].equal(before)
    assert "box head: fresh rows for cat, dog" in log


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def _publish(monkeypatch: pytest.MonkeyPatch, cache: Path, entry, tensors: dict) -> None:
    """Put `tensors` into the cache as what torchvision publishes as `entry`."""
    path = cache / "new.pth"
    torch.save(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    name = entry.url.rsplit("/", 1)[1].rsplit("-", 1)[0]
    shutil.move(path, cache / f"{name}-{digest}.pth")
    cached = download.cached
    monkeypatch.setattr(
        download, "cached", lambda url: cached(f"https://example.invalid/{name}-{digest}.pth")
    )


def test_imagenet_body(cache: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(1)
    source = resnet50()
    _publish(monkeypatch, cache, ResNet50_Weights.IMAGENET1K_V1, source.state_dict())
    target = detector(ANIMALS, 2, R50)
    init(target, "imagenet", recipe=R50)
    for key, value in target.backbone.body.state_dict().items():
        assert value.equal(source.state_dict()[key]), key


def detectron2s(name: str) -> str:
    """As Detectron2 renames torchvision's bodies (its tools/convert-torchvision-to-d2.py)."""
    name = name if "layer" in name else f"stem.{name}"
    for i in range(1, 5):
        name = name.replace(f"layer{i}", f"res{i + 1}").replace(f"bn{i}", f"conv{i}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def detectrons(name: str, leaves: dict[str, str]) -> str:
    """As Detectron names blobs; `leaves` are its words for a norm's four tensors."""
    if name.startswith("fc."):
        return f"fc1000_{name[3]}"
    parts = name.split(".")
    leaf = leaves[parts[-1]] if "bn" in name or "downsample.1" in name else "w"
    if len(parts) == 2:
        return "conv1_w" if leaf == "w" else f"res_conv1_bn_{leaf}"
    branch = "1" if parts[2] == "downsample" else f"2{'abc'[int(parts[2][-1]) - 1]}"
    norm = "" if leaf == "w" else "bn_"
    return f"res{int(parts[0][5]) + 1}_{parts[1]}_branch{branch}_{norm}{leaf}"


FOLDED = {"weight": "s", "bias": "b"}
WHOLE = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean",
         "running_var": "running_var"}  # fmt: skip
R50_BODIES = {  # how the file is called, what it holds, what is said not to be used
    "open-mmlab": ("r50.pth", lambda t: {"state_dict": t}, "fc.bias, fc.weight"),
    "detectron2 from torchvision": (
        "r50.pkl",
        lambda t: {"model": {detectron2s(k): v.numpy() for k, v in t.items()},
                   "__author__": "torchvision", "matching_heuristics": True},
        "stem.fc.bias, stem.fc.weight"),
    "detectron2's MSRA": (
        "R-50.pkl", lambda t: {detectrons(k, WHOLE): v.numpy() for k, v in t.items()},
        "fc1000_b, fc1000_w"),
    "detectron": (
        "R-50.pkl",
        lambda t: {"blobs": {detectrons(k, FOLDED): v.numpy() for k, v in t.items()
                             if "running" not in k}},
        "fc1000_b, fc1000_w"),
}  # fmt: skip


@pytest.fixture(scope="module")
def imagenet_r50() -> dict[str, torch.Tensor]:
    """A torchvision ResNet-50 whose norms are no identities."""
    torch.manual_seed(3)
    tensors = {k: v for k, v in resnet50().state_dict().items() if "num_batches" not in k}
    return {k: v + 0.1 * torch.rand_like(v) if v.dim() == 1 else v for k, v in tensors.items()}


@pytest.mark.parametrize("kind", R50_BODIES)
@pytest.mark.parametrize(
    "recipe", ["fasterrcnn_r50_caffe_fpn_1x_mmdetection", "fasterrcnn_r50_c4_1x_detectron2"]
)
def test_bodies_of_other_frameworks(tmp_path: Path, imagenet_r50: dict, kind: str, recipe: str):
    """The same tensors, bit by bit, whoever wrote the file; C4's last stage is its box head's."""
    name, content, unused = R50_BODIES[kind]
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(content(imagenet_r50), 2))
    else:
        torch.save(content(imagenet_r50), tmp_path / name)
    recipe = recipes.get(recipe)
    model = detector(ANIMALS, 2, recipe)
    log = init(model, tmp_path / name, recipe=recipe)
    parts = [model.backbone.body] + [model.roi_heads.box_head] * (recipe.backbone.neck == "none")
    loaded = {k: v for part in parts for k, v in part.state_dict().items()}
    assert set(loaded) == {k for k in imagenet_r50 if not k.startswith("fc.")}
    for key, value in loaded.items():
        if kind == "detectron" and "running" in key:  # folded: scale and shift are all there is
            assert not value.any() if "mean" in key else (value + 1e-5 == 1).all(), key
        else:
            assert value.equal(imagenet_r50[key]), key
    assert log[1:] == [f"weights: not used: {unused}"]


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.pop("res3_0_branch1_w"), r"layer2\.0\.downsample\.0\.weight: missing"),
    (lambda t: t.pop("res3_0_branch1_bn_running_var"), r"downsample\.1\.running_var: missing"),
    (lambda t: t.update(conv1_w=t["conv1_w"][:, :1]), r"conv1\.weight: shape \(64, 1, 7, 7\)"),
], ids=["missing", "statistics", "shape"])  # fmt: skip
def test_bodies_that_do_not_fit(tmp_path: Path, imagenet_r50: dict, change, message: str):
    content = {detectrons(k, WHOLE): v.numpy() for k, v in imagenet_r50.items()}
    change(content)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(CheckpointError, match=message):
        init(detector(ANIMALS, 2, R50), tmp_path / "x.pkl", recipe=R50)


def test_coco_detector(cache: Path, monkeypatch: pytest.MonkeyPatch):
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    coco = Classes(tuple(map(str, range(90))), tuple(range(90)))
    source = detector(coco, 1, R50).state_dict()
    _publish(monkeypatch, cache, FasterRCNN_ResNet50_FPN_Weights.COCO_V1, source)
    two = Classes(("person", "unicorn"), (1, 2))
    target = detector(two, 2, R50)
    log = init(target, "coco", two, recipe=R50)
    row = names.index("person")
    key = f"{PREDICTOR}.cls_score.weight"
    assert target.state_dict()[key][1].equal(source[key][row])
    assert target.state_dict()["rpn.head.cls_logits.bias"].equal(source["rpn.head.cls_logits.bias"])
    assert "box head: rows kept for person" in log


def test_coco_detector_under_the_names_it_is_published_with(cache: Path, monkeypatch):
    """COCO_V1's file is older than the names that torchvision's modules have now."""
    coco = Classes(tuple(map(str, range(90))), tuple(range(90)))
    new = detector(coco, 1, R50).state_dict()
    names = {key: key.replace("rpn.head.conv.0.0.", "rpn.head.conv.") for key in new}
    names = {key: re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name) for key, name in names.items()}
    old = {name: new[key] for key, name in names.items()}
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.weight"} <= set(old)
    _publish(monkeypatch, cache, FasterRCNN_ResNet50_FPN_Weights.COCO_V1, old)
    target = detector(ANIMALS, 2, R50)
    init(target, "coco", recipe=R50)
    for key, value in target.state_dict().items():
        assert PREDICTOR in key or value.equal(new[key]), key


def test_a_damaged_cache_is_named(cache: Path):
    url = ResNet50_Weights.IMAGENET1K_V1.url
    path = cache / url.rsplit("/", 1)[1]
    path.write_bytes(b"half of it")
    with pytest.raises(DownloadError, match="SHA-256"):
        init(detector(ANIMALS, 1), "imagenet", recipe=R50)
    assert path.exists()


class _Evil:
    def __reduce__(self):
        return (open, ("canary", "w"))


WRONG = {
    "missing key": (
        lambda d: d.pop("rpn.head.cls_logits.bias"),
        "rpn.head.cls_logits.bias: missing",
    ),
    "wrong shape": (
        lambda d: d.update({"rpn.head.cls_logits.bias": torch.zeros(7)}),
        r"shape \(7,\), this model has \(3,\)",
    ),
    "code": (lambda d: d.update(evil=_Evil()), r"wants to run \w+\.open"),
    "not tensors": (lambda d: (d.clear(), d.update(epoch=3)), "holds no tensors"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_files_that_do_not_fit(tmp_path: Path, monkeypatch, change, message: str):
    monkeypatch.chdir(tmp_path)
    content = dict(detector(ANIMALS, 5).state_dict())
    change(content)
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message) as error:
        init(detector(ANIMALS, 1), "x.pth")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "canary").exists()


def test_unreadable_files(tmp_path: Path):
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(b"\x80\x04nonsense")
        with pytest.raises(CheckpointError):
            init(detector(ANIMALS, 1), tmp_path / name)
    with pytest.raises(UsageError, match="not imagenet, coco, none, a run or a file"):
        init(detector(ANIMALS, 1), "imagnet")
    with pytest.raises(UsageError, match="publishes none for resnet10"):
        init(detector(ANIMALS, 1), "imagenet")


def test_coco_person_from_a_run_with_80_classes(coco_tiny: Path, tmp_path: Path, capsys):
    """Head rows are kept by name; the evaluation is pycocotools' on that class alone."""
    flags = [*TINY, "--data-path", str(coco_tiny), "--bad-data", "skip"]
    train.main(
        [*flags, "--output-dir", str(tmp_path / "all"), "--steps", "2", "--val-split", "none"]
    )
    train.main(
        [*flags, "--output-dir", str(tmp_path / "person"), "--weights", str(tmp_path / "all")]
        + ["--classes", "person", "--steps", "1", "--lr", "0", "--schedule.weight-decay", "0"]
    )
    assert "box head: rows kept for person" in capsys.readouterr().out
    before, after = (
        load_file(tmp_path / f"{run}/checkpoints/step-0000000{step}/model.safetensors")
        for run, step in (("all", 2), ("person", 1))
    )
    for key in ("cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias"):
        rows = [f[f"roi_heads.box_predictor.{key}"] for f in (before, after)]
        per_class = 4 if key.startswith("bbox") else 1
        assert len(rows[0]) == 81 * per_class
        assert rows[1].equal(rows[0][: 2 * per_class])  # background, then person
    assert all(
        value.equal(before[key])
        for key, value in after.items()
        if "box_predictor" not in key and "running" not in key and "num_batches" not in key
    )
    results = json.loads((tmp_path / "person" / "results.json").read_text())
    assert set(results["per_class"]) == {"person"}
    model, state, _ = checkpoint.load_detector(tmp_path / "person")
    data = formats.read(coco_tiny, "val", "auto", state.classes, Problems(skip=True))
    _, found = evaluation.evaluate(
        model, data, state.recipe, runtime.start("cpu"), images_per_gpu=2, workers=0
    )
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(coco_tiny / "annotations/instances_val2017.json"))
        found[:, 0] = [int(data.ids[int(i)]) for i in found[:, 0]]
        evaluator = COCOeval(gt, gt.loadRes(found), "bbox")  # person is category 1
        evaluator.params.catIds = [1]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    assert len(found) > 100
    assert results["AP"] == evaluator.stats[0]
    assert results["AR_100"] == evaluator.stats[8] > 0


def test_fine_tuning_on_a_subset_keeps_rows(shapes_folder: Path, tmp_path: Path, capsys):
    """From a run with six classes to two of them, through the command."""
    flags = [*TINY, "--data-path", str(shapes_folder), "--val-split", "none", "--steps", "1"]
    train.main([*flags, "--output-dir", str(tmp_path / "all")])
    capsys.readouterr()
    train.main(
        [*flags, "--output-dir", str(tmp_path / "two"), "--weights", str(tmp_path / "all")]
        + ["--classes", "ring,square"]
    )
    assert "box head: rows kept for square, ring" in capsys.readouterr().out
