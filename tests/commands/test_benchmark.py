"""The benchmark measures what it says, and nothing when the losses mean nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.commands import benchmark
from fasterrcnn.engine import benchmark_sides, runtime
from fasterrcnn.errors import Diverged

SMALL = (
    "--quick", "--device", "cpu", "--amp", "off",
    "--input.min-size", "64", "--input.max-size", "96", "--inference", "1,2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _fewer_images(monkeypatch):
    monkeypatch.setattr(benchmark, "_VAL2017", 100)
    monkeypatch.setattr(benchmark, "_DECODED", 10)


def test_both_sides_are_measured(tmp_path: Path, capsys):
    benchmark.main([*SMALL, "--json", str(tmp_path / "speed.json")])
    results = json.loads((tmp_path / "speed.json").read_text())
    for measured in (results["train"], *results["inference"]["by_batch_size"].values()):
        assert measured["ratio"] == pytest.approx(
            measured["images_per_s"] / measured["torchvision_images_per_s"]
        )
        assert len(measured["seconds"]["ours"]) == len(measured["seconds"]["torchvision"]) == 2
    assert results["inference"]["ratio"] == results["inference"]["by_batch_size"]["2"]["ratio"]
    waits = results["host_syncs_per_step"]
    assert waits["ours"] == 1  # the NMS operator, as long as no GPU kernel stands behind it
    assert waits["torchvision"] > 40
    assert sum(results["seconds_by_part"].values()) > 0
    assert min(results["seconds_by_part"].values()) > 0
    assert results["tflops"] > 0
    assert results["coco_evaluation_s"] > 0
    assert results["decoding"]["images_per_s_per_core"] > 10
    assert results["decoding"]["images_per_s"] > 10
    assert results["decoding"]["workers"] >= 1
    out = capsys.readouterr().out
    assert f"{results['train']['ratio']:.2f} x" in out


def test_the_sides_start_equal():
    """The same losses on one batch but for the sampling, which differs by its random numbers."""
    recipe = recipes.change(
        recipes.fasterrcnn_r50_fpn_1x(), amp="off", input=dict(min_size=64, max_size=96)
    )
    ours, theirs = dict(
        benchmark_sides.make_sides(recipe, runtime.start("cpu"), compiled=False)
    ).values()
    mine, yours = ours.model.state_dict(), theirs.model.state_dict()
    assert all(mine[name].equal(value) for name, value in yours.items())
    frozen = [[p.requires_grad for p in side.model.parameters()] for side in (ours, theirs)]
    assert frozen[0] == frozen[1]
    kinds = [
        {type(m).__name__ for m in side.model.backbone.body.modules()} for side in (ours, theirs)
    ]
    assert "FrozenBatchNorm2d" in kinds[0] & kinds[1]
    with benchmark.data_folder(None) as folder:
        (batch,) = benchmark.batches(benchmark.read(folder, recipe)[0], recipe, 2, 1, pinned=False)
    first = [float(side.step(batch)) for side in (ours, theirs)]
    assert first[0] == pytest.approx(first[1], rel=0.05)


def test_in_half_precision_torchvisions_float32_is_measured_too():
    recipe = recipes.change(recipes.fasterrcnn_r50_fpn_1x(), amp="bf16")
    sides = dict(benchmark_sides.make_sides(recipe, runtime.start("cpu"), compiled=False))
    assert [*sides] == ["ours", "torchvision", "torchvision in fp32"]
    first, *others = (side.model.state_dict() for side in sides.values())
    assert all(first[name].equal(other[name]) for other in others for name in first)
    seconds = {"ours": [1.0], "torchvision": [2.0], "torchvision in fp32": [4.0]}
    measured = benchmark.speed(seconds, 8)
    assert (measured["images_per_s"], measured["ratio"]) == (8.0, 2.0)
    assert measured["torchvision_images_per_s"] == 4.0
    assert measured["torchvision_in_fp32_images_per_s"] == 2.0


@pytest.mark.parametrize("losses", [[1.0, math.nan], [1.0, math.inf], [2.0, 3.0, 2.0], [1.0]])
def test_losses_that_mean_nothing_are_refused(losses: list[float]):
    side = benchmark_sides.Side(torch.nn.Identity(), None, None, losses)
    with pytest.raises(Diverged):
        benchmark.check_losses({"ours": side})


def test_a_step_that_trains_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(benchmark_sides, "_LR", 0.0)
    with pytest.raises(Diverged, match="ours"):
        benchmark.main([*SMALL, "--recipe", "fasterrcnn_r10_fpn_shapes"])


@pytest.mark.parametrize("name", ["fasterrcnn_r10_fpn_shapes", "rpn_r10_fpn_shapes"])
def test_what_torchvision_does_not_have_is_measured_alone(name: str, tmp_path: Path, capsys):
    flags = ["--recipe", name, "--onnx", "--json", str(tmp_path / "speed.json")]
    benchmark.main([*SMALL, *flags])
    results = json.loads((tmp_path / "speed.json").read_text())
    assert "ratio" not in results["train"]
    assert results["recipe"] == name
    assert results["train"]["images_per_s"] > 0
    assert results["peak_memory_gb"] > 0
    out = capsys.readouterr().out
    assert "torchvision has no such network" in out
    assert f", ONNX {results['inference']['ONNX_images_per_s']:.2f} (" in out


def test_only_networks_of_torchvision_are_compared():
    stock = recipes.fasterrcnn_r50_fpn_1x()
    small = recipes.change(stock, input=dict(min_size=64, max_size=96))
    assert benchmark_sides.in_torchvision(small)
    assert benchmark_sides.in_torchvision(recipes.get("fasterrcnn_r50_fpn_torchvision"))
    assert not benchmark_sides.in_torchvision(recipes.get("fasterrcnn_r50_fpn_1x_mmdetection"))
    assert not benchmark_sides.in_torchvision(recipes.get("rpn_r50_fpn_1x_mmdetection"))
