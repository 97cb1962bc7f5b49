"""The course of a training, from the lines that it wrote."""

from __future__ import annotations

import csv
import io

import pytest

from fasterrcnn.reports import training_curves

ROWS = [
    {
        "step": step,
        "lr": 0.01 * min(step / 10, 1) * (0.1 if step > 60 else 1),
        "loss_a": 2.0 - step / 100,
        "loss_b": 1.0,
        "rpn_positives": 5.0,
        "grad_norm": None if step == 3 else 1.0,
        **({"images_per_s": 8.0, "step_s": 0.5, "data_s": 0.05, "peak_memory_gb": 2.0}
           if step % 10 == 0 else {}),
    }
    for step in range(1, 101)
]  # fmt: skip
EVALUATIONS = [
    {"step": 50, "split": "val", "AP": 0.25, "AP50": 0.5, "AP_large": None, "validation_loss": 2.5},
    {"step": 100, "split": "val", "AP": 0.375, "AP50": 0.625, "validation_loss": 2.0},
]


def test_charts():
    made = {
        chart.title: chart.description for chart in training_curves.charts(ROWS, EVALUATIONS, 10)
    }
    assert [*made] == ["Loss", "Parts of the loss", "Learning rate", "Validation"]
    assert "training from 2.99 to 2" in made["Loss"]
    assert "validation from 2.5 to 2" in made["Loss"]
    assert "a from 1.99 to 1" in made["Parts of the loss"]
    assert "AP from 0.25 to 0.375" in made["Validation"]


def test_marks_of_the_schedule():
    assert training_curves.schedule_marks(ROWS, 10) == [
        (10.0, "end of warm-up"),
        (61.0, "rate 0.001"),
    ]


def test_speed_and_sampling():
    made = {chart.title: chart.description for chart in training_curves.speed(ROWS)}
    assert made["Waiting for data"].startswith("wait from 10 to 10")
    assert made["Speed"].startswith("speed from 8 to 8")
    (positives,) = training_curves.sampling(ROWS)
    assert positives.description.startswith("rpn positives from 5 to 5")


def test_nothing_to_draw():
    assert training_curves.charts([], [], 0) == []
    assert training_curves.charts(ROWS[:1], EVALUATIONS[:1], 0) == []
    assert training_curves.speed(ROWS[:9]) == []
    assert training_curves.sampling([]) == []
    assert training_curves.table([], []) == "\n"


def test_long_runs_are_drawn_with_few_points():
    rows = [{"step": step, "lr": 1.0, "loss_a": float(step)} for step in range(1, 5001)]
    (_, parts, _) = training_curves.charts(rows, [], 0)
    assert len(parts.svg("c")) < 60_000
    assert parts.description == "a from 7 to 4.99e+03, lowest 7, highest 4.99e+03"


def test_table():
    first, second = csv.DictReader(io.StringIO(training_curves.table(ROWS, EVALUATIONS)))
    assert (first["step"], first["val/AP"], first["val/validation_loss"]) == ("50", "0.25", "2.5")
    assert float(first["train/loss_a"]) == pytest.approx(2.0 - 25.5 / 100)
    assert float(second["train/loss_a"]) == pytest.approx(2.0 - 75.5 / 100)
    (only,) = csv.DictReader(io.StringIO(training_curves.table(ROWS, [])))
    assert (only["step"], float(only["train/loss_b"])) == ("100", 1.0)
