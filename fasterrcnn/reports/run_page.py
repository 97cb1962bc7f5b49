"""The page of a run: how it was trained, what its detector does well and badly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from fasterrcnn.data.annotations import Annotations
from fasterrcnn.metrics import diagnosis, proposals
from fasterrcnn.metrics.diagnosis import Diagnosis
from fasterrcnn.reports import charts, pages, training_curves
from fasterrcnn.reports.charts import Chart
from fasterrcnn.reports.run_pictures import Pictures

_CONFUSIONS = 15
_COUNTS = (1, 3, 10, 30, 100, 300, 1000)  # of proposals
_NOT_METRICS = ("step", "images")
_KINDS = {  # of the AR of proposals
    "proposal_fast": "as in MMDetection's tables of RPNs",
    "proposal": "as in COCO's evaluation, without classes",
    "box_proposals": "as in Detectron2",
}


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of the run, and what it was made of."""

    row: dict[str, Any]  # of `engine.results`
    data: Annotations
    detections: np.ndarray
    diagnosis: Diagnosis | None  # None: proposals, or a federated data set
    pictures: Pictures


@dataclass(frozen=True)
class RunReport:
    """What the page shows."""

    name: str
    path: str
    facts: list[tuple[str, str]]  # what was run
    recipe: str  # in full
    command: str  # that repeats it; "": it was imported
    environment: dict[str, Any]
    warmup_steps: int
    steps: list[dict[str, Any]]  # lines of metrics.jsonl
    evaluations: list[dict[str, Any]]  # on the run's own validation split
    best: int | None  # step of the best checkpoint
    anchor_recall: dict[float, float | None] = field(default_factory=dict)  # by IoU
    evaluated: Evaluated | None = None
    elsewhere: Sequence[str] = ()  # splits that it was evaluated on, if not `evaluated`


def render(report: RunReport) -> str:
    """The page as HTML."""
    number = count()

    def drawn(some: Iterable[Chart]) -> list[tuple[str, Markup]]:
        return [(chart.title, Markup(chart.svg(f"c{next(number)}"))) for chart in some]

    done = report.evaluated
    found = done.diagnosis if done else None
    return pages.render(
        "run.html",
        report=report,
        done=done,
        found=found,
        metrics=_metrics(done.row) if done else {},
        metric_kinds=_KINDS,
        training=drawn(
            training_curves.charts(report.steps, report.evaluations, report.warmup_steps)
        ),
        speed=drawn(training_curves.speed(report.steps)),
        sampling=drawn(training_curves.sampling(report.steps)),
        curves=drawn(_curves(done)),
        confusion=drawn([_confusion(done)] if found else []),
        confused=diagnosis.confusions(found.confusion, _CONFUSIONS) if found else [],
        errors=drawn([_errors(found)] if found else []),
        kinds=diagnosis.ERRORS,
        calibration=drawn([charts.calibration(found.calibration["bins"])] if found else []),
        recall=drawn([_recall(done)] if done and not found else []),
        rpn=_rpn(report.anchor_recall, done) if done else {},
    )


def write_files(report: RunReport, folder: Path) -> list[Path]:
    """The files beside the page that other tools and people look for by name."""
    files = [folder / "results.csv"]
    files[0].write_text(training_curves.table(report.steps, report.evaluations))
    if report.evaluated and report.evaluated.diagnosis:
        precision, f1 = _curves(report.evaluated)
        for name, chart in (
            ("BoxPR_curve.png", precision),
            ("BoxF1_curve.png", f1),
            ("confusion_matrix_normalized.png", _confusion(report.evaluated)),
        ):
            chart.save_png(folder / name)
            files.append(folder / name)
    return files


def _metrics(row: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """The numbers of an evaluation by kind: all of a detector, each AR of proposals."""
    if "per_class" not in row:
        return {name: values for name, values in row.items() if isinstance(values, dict)}
    numbers = {
        name: value
        for name, value in row.items()
        if (value is None or isinstance(value, (int, float)))
        and name not in _NOT_METRICS
        and "loss" not in name
    }
    return {"": numbers}


def _rpn(anchors: dict[float, float | None], done: Evaluated) -> dict[str, list[float | None]]:
    """Recall of the anchors and of the best proposals of each image: at IoU 0.5, at 0.7, AR."""
    table = {}
    if anchors:
        table["all anchors"] = [*(anchors[iou] for iou in (0.5, 0.7)), None]
    found = done.row.get("proposals", {})  # not of Fast R-CNN, nor in older evaluations
    if "per_class" not in done.row:
        values = proposals.recall(done.data, done.detections, proposals.COUNTS)
        found = proposals.by_name(values, proposals.COUNTS)
    for most in (name.removeprefix("AR_") for name in found if name.startswith("AR_")):
        table[f"{most} proposals"] = [found[f"{kind}_{most}"] for kind in ("AR50", "AR70", "AR")]
    return table


def _curves(done: Evaluated | None) -> list[Chart]:
    if done is None or done.diagnosis is None:
        return []
    curves, names = done.diagnosis.curves, done.data.classes.names
    return [
        charts.per_class(
            "Precision and recall", "recall", "precision", curves.recall, curves.precision, names
        ),
        charts.per_class("F1 by score", "score", "F1", curves.scores, curves.f1, names),
    ]


def _confusion(done: Evaluated | None) -> Chart:
    assert done is not None and done.diagnosis is not None
    return charts.confusion(done.diagnosis.confusion, done.data.classes.names)


def _errors(found: Diagnosis) -> Chart:
    gains = [100 * found.errors[name][1] for name in diagnosis.ERRORS]
    names = [*diagnosis.ERRORS.values()]
    return charts.bars("What errors cost", "AP50 gained if there were none (points)", names, gains)


def _recall(done: Evaluated) -> Chart:
    """Recall by the number of proposals or detections of each image."""
    values = proposals.recall(done.data, done.detections, _COUNTS)
    series: Sequence[tuple[str, np.ndarray]] = (
        ("IoU 0.5", values[:, 0]),
        ("IoU 0.75", values[:, 5]),
        ("mean of 0.5 to 0.95", values.mean(axis=1)),
    )
    drawn = [charts.Line(name, _COUNTS, y, dots=True) for name, y in series]
    return charts.lines(
        "Recall", "best boxes of each image", "recall", drawn, limits=(0, 1), log_x=True
    )
