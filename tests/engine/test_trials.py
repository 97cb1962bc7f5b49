"""Which number of images `--images-per-gpu auto` stands for, and how it is found."""

from __future__ import annotations

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.engine import gpu, runtime, trials
from fasterrcnn.errors import ProcessDied, UsageError

STOCK = recipes.fasterrcnn_r50_fpn_1x()  # 16 images a step, 2 a micro-batch
AUTO = recipes.change(STOCK, schedule=dict(images_per_gpu=recipes.AUTO))
TINY = recipes.change(
    recipes.fasterrcnn_r10_fpn_shapes(), amp="off", input=dict(min_size=64, max_size=96)
)
GPU = torch.device("meta")  # any device that is not the CPU


def rates(monkeypatch, images_per_s: dict[int, float]) -> list[int]:
    """Trials find these speeds; no other sizes fit. What is tried."""
    tried: list[int] = []

    def trial(images: int) -> trials.Trial | None:
        tried.append(images)
        rate = images_per_s.get(images)
        return None if rate is None else trials.Trial(images, rate, 1.0)

    monkeypatch.setattr(trials, "_trial", lambda *_: trial)
    return tried


def test_the_fastest_that_fits_is_taken(monkeypatch):
    tried = rates(monkeypatch, {1: 10.0, 2: 20.0, 4: 40.0})
    number, line = trials.choose(AUTO, 7, None, runtime.Runtime(GPU))
    assert (number, tried) == (4, [1, 2, 4, 8])
    assert line == (
        "--images-per-gpu auto: 4 (images/s on one GPU by size: 1: 10, 2: 20, 4: 40); recorded, so "
        "that this run continues with it, on 1 to 4 processes"
    )


def test_every_process_gets_a_micro_batch(monkeypatch):
    tried = rates(monkeypatch, dict.fromkeys(range(1, 17), 1.0) | {16: 9.0})
    assert trials.choose(AUTO, 7, None, runtime.Runtime(GPU, ranks=1))[0] == 16
    assert tried == [1, 2, 4, 8, 16]
    tried.clear()
    assert trials.choose(AUTO, 7, None, runtime.Runtime(GPU, ranks=3))[0] == 1
    assert tried == [1, 2, 4]
    with pytest.raises(UsageError, match="NGPU=1 to 16"):
        trials.choose(AUTO, 7, None, runtime.Runtime(GPU, ranks=17))


def test_a_larger_one_must_be_faster_by_more_than_3_percent(monkeypatch):
    rates(monkeypatch, {1: 10.0, 2: 20.0, 4: 20.5, 8: 20.3, 16: 20.4})
    assert trials.choose(AUTO, 7, None, runtime.Runtime(GPU))[0] == 2


def test_a_run_that_is_continued_keeps_its_number(monkeypatch):
    tried = rates(monkeypatch, {1: 10.0, 2: 20.0, 4: 40.0})
    saved = recipes.change(STOCK, schedule=dict(images_per_gpu=8))
    number, line = trials.choose(AUTO, 7, saved, runtime.Runtime(GPU))
    assert (number, tried) == (8, [])
    assert line == "--images-per-gpu auto: 8, as when this run began"


def test_on_a_cpu_it_is_the_recipes_own():
    cpu = runtime.Runtime(torch.device("cpu"))
    assert trials.choose(AUTO, 7, None, cpu)[0] == 2
    odd = recipes.change(AUTO, schedule=dict(images_per_step=3))
    assert trials.choose(odd, 7, None, cpu)[0] == 1  # 2 do not divide 3


def test_what_cannot_be_tried_out(monkeypatch):
    rates(monkeypatch, {})
    with pytest.raises(ProcessDied, match="one image does not fit"):
        trials.choose(AUTO, 7, None, runtime.Runtime(GPU))
    fast = recipes.change(AUTO, detector="fast_rcnn")
    with pytest.raises(UsageError, match="--images-per-gpu: auto"):
        trials.choose(fast, 7, None, runtime.Runtime(GPU))


def test_trials_compute_activations_again_if_the_run_does(monkeypatch):
    """That takes less memory, so that more images fit."""
    cpu, kept = runtime.Runtime(torch.device("cpu")), []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[-1] += tensor.numel()
        return tensor

    def try_out(training, recipe, rt, images):
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            training.detector.backbone(torch.zeros(1, 3, 64, 96))
        return trials.Trial(images, 1.0, 1.0)

    monkeypatch.setattr(trials, "try_out", try_out)
    monkeypatch.setattr(trials, "Runtime", lambda device: cpu)
    backbone = dict(norm="affine", trainable_layers=5)
    recipe = recipes.change(TINY, backbone=backbone, schedule=dict(images_per_step=1))
    for checkpointed in (False, True):
        trials.choose(recipe, 7, None, runtime.Runtime(GPU), checkpointed=checkpointed)
    plain, again = kept
    assert again < 0.8 * plain


def test_memory_that_does_not_suffice(monkeypatch):
    rt = runtime.Runtime(torch.device("cpu"))
    training = trials.make(TINY, 7, rt)
    monkeypatch.setattr(gpu, "memory_gb", lambda device: 1e-3)
    assert trials.try_out(training, TINY, rt, 1) is None

    class OutOfMemoryError(RuntimeError):
        pass

    def step(*args, **named):
        raise OutOfMemoryError

    monkeypatch.setattr(trials, "train_step", step)
    assert trials.try_out(training, TINY, rt, 1) is None
