"""The log: what a flush computes, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fasterrcnn.engine.metric_log import MetricLog, Step
from fasterrcnn.engine.run_folder import RunFolder
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.engine.tracking import Trackers
from fasterrcnn.errors import Diverged

FINE = {"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(3.0), "accuracy": torch.tensor(0.5)}


def log(
    path: Path, *, first: int = 0, fp16: bool = False, ranks: int = 1, micro_batches: int = 2
) -> MetricLog:
    return MetricLog(
        Runtime(torch.device("cpu"), ranks=ranks),
        path,
        first_step=first,
        last_step=100,
        epoch_at=lambda step: step / 10,
        images_per_step=4,
        micro_batches_per_step=micro_batches,
        may_overflow=fp16,
        trackers=Trackers((), RunFolder(path.parent), 0, {}),
    )


def step(number: int, *, norm: float = 2.0, **scalars: float) -> Step:
    changed = {k: torch.tensor(v) for k, v in scalars.items()}
    return Step(number, 0.1, [f"{number}.jpg"], [FINE, {**FINE, **changed}], torch.tensor(norm))


def test_means_over_micro_batches_one_line_per_step(tmp_path: Path, capsys):
    made = log(tmp_path / "m.jsonl")
    made.add(step(0))
    made.add(step(1, loss_a=2.0))
    made.flush()
    made.flush()  # nothing new
    first, second = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    assert first == {
        "step": 1, "lr": 0.1, "loss_a": 1.0, "loss_b": 3.0, "accuracy": 0.5, "grad_norm": 2.0,
    }  # fmt: skip
    assert second["loss_a"] == 1.5
    assert second["images_per_s"] > 0
    text = capsys.readouterr().out
    assert "step 2/100  epoch 0.20  loss 4.5000 (a 1.5000  b 3.0000)  lr 0.1" in text


def test_the_mean_over_ranks_is_the_mean_over_all_micro_batches(tmp_path: Path, monkeypatch):
    """3 micro-batches on 2 ranks: this one has the losses 1 and 2, the other, played here, 6."""

    def mean(runtime: Runtime, values: torch.Tensor) -> torch.Tensor:
        other = torch.tensor([[6.0, 3.0, 0.5]], dtype=torch.double) / 1.5
        return (values + torch.cat([other, values[:, 3:]], dim=1)) / 2

    monkeypatch.setattr(Runtime, "mean", mean)
    made = log(tmp_path / "m.jsonl", ranks=2, micro_batches=3)
    made.add(step(0, loss_a=2.0))
    made.flush()
    row = json.loads((tmp_path / "m.jsonl").read_text())
    assert row["loss_a"] == pytest.approx(3.0)
    assert row["loss_b"] == pytest.approx(3.0)
    assert row["accuracy"] == pytest.approx(0.5)
    assert row["grad_norm"] == 2.0


def test_a_resumed_log_has_every_step_once(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    rows = [json.dumps({"step": n}) for n in range(1, 6)]
    path.write_text("\n".join(rows) + '\n{"step": 6, "lo')
    made = log(path, first=3)
    made.add(step(3))
    made.flush()
    assert [json.loads(r)["step"] for r in path.read_text().splitlines()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ({"loss_b": float("nan")}, "loss_b"),
        ({"loss_a": float("inf")}, "loss_a"),
        ({"norm": float("inf")}, "grad_norm"),
    ],
)
def test_divergence_names_step_value_and_images(tmp_path: Path, bad: dict, what: str):
    made = log(tmp_path / "m.jsonl")
    made.add(step(0))
    made.add(step(1, **bad))
    with pytest.raises(Diverged, match=f"step 2: {what} not finite .*images 1.jpg"):
        made.flush()


def test_overflow_in_fp16_is_a_skipped_step_until_it_never_ends(tmp_path: Path):
    made = log(tmp_path / "m.jsonl", fp16=True)
    made.add(step(0, norm=float("nan")))
    made.add(step(1))
    made.flush()
    first, second = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    assert (first["grad_norm"], first["skipped"]) == (None, True)
    assert "skipped" not in second
    with pytest.raises(Diverged, match="loss_a"):
        made.add(step(2, loss_a=float("nan"), norm=float("nan")))
        made.flush()
    again = log(tmp_path / "n.jsonl", fp16=True)
    for number in range(50):
        again.add(step(number, norm=float("inf")))
    with pytest.raises(Diverged, match="50 steps in a row overflowed"):
        again.flush()
