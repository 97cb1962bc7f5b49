"""The course of a training as charts, from the lines of metrics.jsonl and evaluations.jsonl."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fasterrcnn.reports.charts import Chart, Line, lines

Row = dict[str, Any]

_POINTS = 400  # of a line: more cannot be told apart
_DROP = 0.7  # a learning rate below this share of the one before is a drop of the schedule
_METRICS = ("AP", "AP50", "AP75", "mAP_07", "mAP_10", "AR_100", "AR_300", "AR_1000")


def charts(rows: Sequence[Row], evaluations: Sequence[Row], warmup_steps: int) -> list[Chart]:
    """The charts that there are values for.

    `rows`: one per step. `evaluations`: those on the run's own validation split.
    """
    made = []
    if len(rows) > 1:
        marks = schedule_marks(rows, warmup_steps)
        parts = [name for name in rows[0] if name.startswith("loss_")]
        total = _line("training", rows, lambda row: sum(row[name] for name in parts))
        measured = _points("validation", evaluations, "validation_loss")
        losses = [total, measured] if len(measured.x) else [total]
        each = [_line(name.removeprefix("loss_"), rows, name) for name in parts]
        rate = _line("rate", rows, "lr")
        made = [
            lines("Loss", "step", "loss", losses, marks=marks),
            lines("Parts of the loss", "step", "loss", each),
            lines("Learning rate", "step", "learning rate", [rate], marks=marks),
        ]
    metrics = [_points(name, evaluations, name) for name in _METRICS]
    shown = [line for line in metrics if len(line.x)]
    if shown and len(evaluations) > 1:
        made.append(lines("Validation", "step", "0 to 1", shown, limits=(0.0, 1.0)))
    return made


def speed(rows: Sequence[Row]) -> list[Chart]:
    """Images per second, the share of the time that is spent waiting for data, and memory."""
    timed = [row for row in rows if "images_per_s" in row]
    if len(timed) < 2:
        return []
    wait = _line("wait", timed, lambda row: 100 * row["data_s"] / row["step_s"])
    return [
        lines("Speed", "step", "images/s", [_line("speed", timed, "images_per_s")]),
        lines("Waiting for data", "step", "% of a step", [wait]),
        lines("Peak memory", "step", "GiB", [_line("memory", timed, "peak_memory_gb")]),
    ]


def sampling(rows: Sequence[Row]) -> list[Chart]:
    """What RPN and box head learn from: positives per image, and how often the head is right."""
    made = []
    for title, unit, names, limits in (
        ("Positives in training", "per image", ("rpn_positives", "roi_positives"), None),
        ("Box head in training", "share", ("roi_accuracy", "roi_false_negatives"), (0.0, 1.0)),
    ):
        known = [name for name in names if len(rows) > 1 and name in rows[0]]
        if known:
            series = [_line(name.replace("_", " "), rows, name) for name in known]
            made.append(lines(title, "step", unit, series, limits=limits))
    return made


def schedule_marks(rows: Sequence[Row], warmup_steps: int) -> list[tuple[float, str]]:
    """The end of the warm-up and the drops of the learning rate."""
    marks = []
    if 0 < warmup_steps < rows[-1]["step"]:
        marks.append((float(warmup_steps), "end of warm-up"))
    for before, row in pairwise(rows):
        if row["lr"] < _DROP * before["lr"]:
            marks.append((float(row["step"]), f"rate {row['lr']:.2g}"))
    return marks


def table(rows: Sequence[Row], evaluations: Sequence[Row]) -> str:
    """CSV: a line per evaluation, with the means of the training since the one before; of a run
    without evaluations a line for all of it."""
    columns = [name for name in rows[0] if name.startswith(("loss_", "lr"))] if rows else []
    content: list[Row] = []
    start = 0
    for measured in evaluations or [{"step": row["step"]} for row in rows[-1:]]:
        line: Row = {"step": measured["step"]}
        part = [row for row in rows if start < row["step"] <= measured["step"]]
        for name in columns if part else []:
            line[f"train/{name}"] = float(np.mean([row[name] for row in part]))
        line |= {f"val/{name}": v for name, v in measured.items() if isinstance(v, float)}
        content.append(line)
        start = measured["step"]
    names = dict.fromkeys(name for line in content for name in line)
    file = io.StringIO()
    writer = csv.DictWriter(file, [*names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(content)
    return file.getvalue()


def _points(name: str, evaluations: Sequence[Row], key: str) -> Line:
    known = [(row["step"], row[key]) for row in evaluations if row.get(key) is not None]
    return Line(name, [step for step, _ in known], [value for _, value in known], dots=True)


def _line(name: str, rows: Sequence[Row], value: Any) -> Line:
    """Means over equally long parts, so that noise does not hide the course."""
    get = value if callable(value) else lambda row: row[value]
    x = np.array([row["step"] for row in rows], np.float64)
    y = np.array([np.nan if (v := get(row)) is None else v for row in rows], np.float64)
    parts = min(_POINTS, len(rows))
    means = [np.array([np.mean(part) for part in np.array_split(v, parts)]) for v in (x, y)]
    return Line(name, means[0], means[1])
