"""Metrics as text for the terminal, in percent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fasterrcnn.metrics import coco, lvis, voc

_KINDS = ("AP", "AR", "mAP")  # a line each
_MAX_CLASSES = 100  # more would scroll the lines above them away


def metrics(results: dict[str, Any]) -> str:
    """What `engine.evaluation.evaluate` returns, in a few lines.

    Of a detector with the recall of its proposals, and the AP of each class that has ground truth
    unless these are more than a hundred; of an RPN its kinds of AR.
    """
    losses = (results[name] for name in ("validation_loss",) if name in results)
    loss = [f"validation loss {value:.4f}" for value in losses]
    if "per_class" not in results:
        kinds = {name: v for name, v in results.items() if isinstance(v, dict)}
        return "\n".join([*_aligned((name, _numbers(v)) for name, v in kinds.items()), *loss])
    names = (*(lvis.NAMES if "AP_rare" in results else coco.NAMES), *voc.NAMES)
    groups = ([n for n in names if n.startswith(kind) and n in results] for kind in _KINDS)
    lines = [_numbers({name: results[name] for name in group}) for group in groups if group]
    if "proposals" in results:
        lines.append(f"proposals: {_numbers(results['proposals'])}")
    known = {name: v for name, v in results["per_class"].items() if v["AP"] is not None}
    lines += loss
    if len(known) <= _MAX_CLASSES:
        lines += [f"  {line}" for line in _aligned(_classes(known))]
    else:
        lines.append(f"  (AP of {len(known)} classes: in results.json)")
    if left_out := len(results["per_class"]) - len(known):
        lines.append(f"  (classes without a box in this split: {left_out})")
    return "\n".join(lines)


def _classes(known: dict[str, dict[str, float | None]]) -> Iterable[tuple[str, str]]:
    """The name and the numbers of each class."""
    for name, values in known.items():
        yield name, "  ".join(f"{metric} {_percent(v):>5}" for metric, v in values.items())


def _aligned(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Two columns."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:{width}}  {text}" for name, text in rows]


def _numbers(values: dict[str, float | None]) -> str:
    return "  ".join(f"{name} {_percent(value)}" for name, value in values.items())


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
