"""The checks of a machine with a GPU, on the CPU: each runs, and finds what it is there to find."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from fasterrcnn import recipes
from fasterrcnn.engine import benchmark_data, gpu, gpu_checks, precision, runtime, trials
from fasterrcnn.engine.gpu_checks import Result, Subject

TINY = recipes.change(
    recipes.fasterrcnn_r10_fpn_shapes(),
    amp="off",
    input=dict(min_size=64, max_size=96),
    backbone=dict(fpn_channels=16),
    roi_heads=dict(representation_size=32),
    schedule=dict(images_per_step=1, images_per_gpu=1),
)
CPU = torch.device("cpu")


@pytest.fixture
def subject(monkeypatch) -> Subject:
    monkeypatch.setattr(precision, "_SMALL", dict(min_size=64, max_size=96))
    monkeypatch.setattr(benchmark_data, "DECODED", 4)
    monkeypatch.setattr(trials, "_WARM_UP", 1)
    monkeypatch.setattr(trials, "_STEPS", 1)
    return Subject(TINY, runtime.start("cpu"))


@pytest.mark.parametrize("name", sorted({*gpu_checks.CHECKS} - {"precision", "waiting"}))
def test_a_check_runs_and_says_something(name: str, subject: Subject):
    """The others: below."""
    result = gpu_checks.CHECKS[name](subject)
    assert result.passed == (name != "kernels")  # there are none on a CPU
    assert all(line and "\n" not in line for line in result.lines)
    assert result.lines and result.values


def test_what_a_check_raises_is_its_result(subject: Subject):
    def broken(_: Subject) -> Result:
        raise RuntimeError("CUDA error: no kernel image\nCompile with ...")

    result = gpu_checks.run(broken, subject)
    assert (result.passed, result.lines) == (False, ["RuntimeError: CUDA error: no kernel image"])


def test_losses_and_gradients_that_differ_are_seen(subject: Subject, monkeypatch):
    monkeypatch.setattr(gpu_checks, "_CLOSE", {"off": (1e-3, 1e-3)})
    assert gpu_checks.check_precision(subject).values == {
        "off": {"loss": 0.0, "gradient": 0.0, "passed": True}
    }

    def wrong(self, model):  # as if the device computed the box head's first layer differently
        model.roi_heads.box_head.fc6.weight.data *= 1.01
        return model

    monkeypatch.setattr(runtime.Runtime, "place", wrong)
    result = gpu_checks.check_precision(subject)
    assert not result.passed
    assert "; expected within" in result.lines[0]


def test_waiting_is_seen(subject: Subject, monkeypatch):
    step = gpu_checks.train_step
    monkeypatch.setattr(
        gpu_checks, "train_step", lambda *args, **named: step(*args, **named)[1].item()
    )
    result = gpu_checks.check_waits(subject)
    assert not result.passed and result.values["count"] == 2  # NMS without a kernel waits too


def test_made_up_photos_are_like_photos(tmp_path: Path):
    gpu_checks.write_photos(tmp_path, 2)
    for file in (tmp_path / "train").iterdir():
        assert Image.open(file).size == (640, 480)
        assert 100_000 < file.stat().st_size < 250_000
    assert len(benchmark_data.read(tmp_path, TINY)) == 2


@pytest.mark.slow
def test_training_in_several_processes():
    code, seconds, _ = gpu_checks.train_on_all(2, "cpu")
    assert code == 0 and seconds > 0
    code, _, error = gpu_checks.train_on_all(2, "tpu")
    assert code == 2 and "--device" in error


def test_what_is_not_finite_is_infinitely_far():
    expected = {"loss": 2.0}, {"weight": torch.ones(2)}
    found = {"loss": 2.5}, {"weight": torch.tensor([1.0, math.nan])}
    assert precision._difference(expected, found) == (0.25, math.inf)
    assert precision._difference(expected, ({"loss": 2.5}, {})) == (math.inf, math.inf)
    expected, found = ({"a": 2.0, "b": 1.0}, expected[1]), ({"a": 2.5, "b": math.nan}, expected[1])
    assert precision._difference(expected, found) == (math.inf, 0.0)


def results(decoded: float, rates: list[float], fp16: bool = True) -> dict[str, Result]:
    tried = [dict(images=2**i, images_per_s=r, memory_gb=1.0) for i, r in enumerate(rates)]
    close = {"fp16": {"passed": fp16}, "bf16": {"passed": True}}
    return {
        "kernels": Result(False, ["NMS (no Triton)"]),
        "precision": Result(fp16, [], close),
        "training speed": Result(True, [], {"trials": tried}),
        "decoding": Result(True, [], {"images_per_s": decoded}),
    }


@pytest.mark.parametrize(
    ("found", "gpus", "limit", "flags"),
    [
        (results(500, [50, 100, 200, 300, 400]), 1, "micro-batches", "fp16 --images-per-gpu 16"),
        (results(399, [50, 100, 200, 300, 400]), 1, "CPU", "fp16 --images-per-gpu 16"),
        (results(500, [50, 100, 105]), 1, "GPU", "fp16 --images-per-gpu 4"),
        (results(900, [50, 100, 200, 300, 400]), 4, "micro-batches", "fp16 --images-per-gpu 4"),
        (results(500, [50, 100, 102], False), 1, "GPU", "bf16 --images-per-gpu 2"),
        (results(500, []), 1, None, "fp16"),
    ],
)
def test_the_verdict(found: dict[str, Result], gpus: int, limit: str | None, flags: str):
    recipe = recipes.fasterrcnn_r50_fpn_1x()  # 16 images a step, 2 a micro-batch
    lines, used = gpu_checks.verdict(found, recipe, gpus)
    assert used == ["--amp", *flags.split()]
    assert lines[0].startswith("works: ") and "kernels" in lines[1]
    assert lines[-1] == f"flags for training: --amp {flags}"
    limits = [line for line in lines if "limits the speed" in line]
    assert len(limits) == (limit is not None)
    assert all(f"the {limit} limit" in line or f"size of {limit}" in line for line in limits)


def test_why_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without GPUs" in (gpu.why_none() or "")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "nvidia-smi" in (gpu.why_none() or "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert gpu.why_none() is None
