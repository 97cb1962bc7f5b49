"""Training compiled: one graph, whatever the number of boxes, and the same numbers."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.backends.registry import lookup_backend
from torch.nn import functional

from fasterrcnn.models.build import build
from fasterrcnn.models.compiled import compile_learning
from fasterrcnn.models.transform import Padded
from fasterrcnn.runtime import Runtime
from tests.conftest import TINY
from tests.test_no_waiting import RECIPES, batch
from tests.test_train import assert_same_bits, rows, run


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
def test_one_graph_for_any_number_of_boxes(shapes_folder: Path, graphs: list, name: str, amp: str):
    torch.manual_seed(0)
    detector = build(RECIPES[name], 7).train()
    torch.manual_seed(1)  # also of the short side
    images = batch(shapes_folder)
    padded = detector.transform(images.images(), images.targets())
    missing = [boxes - padded.labels.shape[1] for boxes in (8, 24)]
    longer = [
        padded._replace(
            boxes=functional.pad(padded.boxes, (0, 0, 0, more)),
            labels=functional.pad(padded.labels, (0, more)),
        )
        for more in missing
    ]

    def learn(images: Padded) -> list[torch.Tensor]:
        torch.manual_seed(2)
        with Runtime(torch.device("cpu")).autocast(amp):
            losses = detector.learn(images)
        detector.zero_grad()
        sum(losses.values()).backward()
        gradients = [p.grad for p in detector.parameters() if p.grad is not None]
        return [*losses.values(), *detector.diagnostics().values(), *gradients]

    expected = [learn(images) for images in longer]
    compile_learning(detector)
    for images, values in zip(longer, expected, strict=True):
        for a, b in zip(learn(images), values, strict=True):  # but for the order of sums
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
        [sys.executable, "-m", "fasterrcnn.train", *TINY, *map(str, flags)], CXX="/no/compiler"
    )
    assert done.code == 2
    assert "error: --compile: " in done.err
    assert len(done.err.splitlines()) == 1
