"""Training compiled: one graph, whatever the number of boxes, and the same numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.backends.registry import lookup_backend
from torch.nn import functional

from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.models import cpu
from fasterrcnn.models.build import build
from fasterrcnn.models.compiled import compile_training_losses
from fasterrcnn.models.transform import PaddedImages
from tests.commands.runs import assert_same_bits, rows, run
from tests.conftest import TINY
from tests.test_no_synchronization import RECIPES, batch


@pytest.fixture
def graphs(monkeypatch):
    """Graphs that torch.compile made; nothing is made of them, which would take minutes."""
    made = []

    def keep(graph, inputs):
        made.append(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))
    limit = torch._dynamo.config.recompile_limit
    yield made
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "amp"), [*((name, "off") for name in RECIPES), ("frozen norm", "bf16")]
)
def test_one_graph_for_any_number_of_boxes(
    shapes_folder: Path, graphs: list, monkeypatch, name: str, amp: str
):
    monkeypatch.setattr(cpu, "slow_dtypes", lambda: {torch.bfloat16})  # as on an older CPU
    monkeypatch.setattr(cpu, "has_avx2_only", lambda: True)
    torch.manual_seed(0)
    detector = build(RECIPES[name], 7).train()
    torch.manual_seed(1)  # also of the short side
    images = batch(shapes_folder)
    padded = detector.transform(images.images(), images.targets())
    missing = [boxes - padded.gt_labels.shape[1] for boxes in (8, 24)]
    longer = [
        padded._replace(
            gt_boxes=functional.pad(padded.gt_boxes, (0, 0, 0, more)),
            gt_labels=functional.pad(padded.gt_labels, (0, more)),
            gt_valid=functional.pad(padded.gt_valid, (0, more)),
        )
        for more in missing
    ]

    def numbers(compute: Callable, images: PaddedImages) -> list[torch.Tensor]:
        torch.manual_seed(2)
        with Runtime(torch.device("cpu")).precision(amp):
            losses, diagnostics = compute(images)
        detector.zero_grad()
        sum(losses.values()).backward()
        gradients = [p.grad for p in detector.parameters() if p.grad is not None]
        return [*losses.values(), *diagnostics.values(), *gradients]

    expected = [numbers(detector.training_losses, images) for images in longer]
    compiled = compile_training_losses(detector)
    for images, values in zip(longer, expected, strict=True):
        for a, b in zip(
            numbers(compiled, images), values, strict=True
        ):  # but for the order of sums
            assert (a - b).norm() <= (1e-5 if amp == "off" else 0.02) * b.norm()
    assert len(graphs) == 1


@pytest.mark.slow
def test_a_compiled_run_that_is_continued_has_the_same_bits(shapes_folder: Path, tmp_path: Path):
    """By its real compiler, which caches what it made between the runs."""
    flags = ("--compile", "--input.max-size", "64", "--val-split", "none", "--steps", "4")
    straight = run(shapes_folder, tmp_path / "straight", *flags)
    torch._dynamo.reset()
    run(shapes_folder, tmp_path / "parts", *flags, "--steps", "2")
    torch._dynamo.reset()
    parts = run(shapes_folder, tmp_path / "parts", *flags, "--resume")
    assert_same_bits(straight, parts)
    torch._dynamo.reset()
    run(shapes_folder, tmp_path / "plain", *flags[1:])
    first, other = rows(tmp_path / "straight")[0], rows(tmp_path / "plain")[0]
    for name in ("loss_objectness", "loss_classifier"):  # but for the sampling
        assert first[name] == pytest.approx(other[name], rel=0.01)


@pytest.mark.slow
def test_without_a_compiler(shapes_folder: Path, tmp_path: Path, shell):
    flags = ("--data-path", shapes_folder, "--output-dir", tmp_path, "--steps", "1", "--compile")
    done = shell(
        [sys.executable, "-m", "fasterrcnn", "train", *TINY, *map(str, flags)], CXX="/no/compiler"
    )
    assert done.code == 2
    assert "error: --compile: " in done.err
    assert len(done.err.splitlines()) == 1
