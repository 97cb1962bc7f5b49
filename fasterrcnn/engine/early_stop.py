"""Early stopping: a run ends after `--patience` evaluations without a better metric.

Nothing is counted along the way. The lines of evaluations.jsonl up to a step say how many there
were (`results`), so that a run that is killed and continued stops at the step at which an
undisturbed one does. Only evaluations that were due count, not those of ``fasterrcnn evaluate``.
"""

from __future__ import annotations

from pathlib import Path

from fasterrcnn import schedule
from fasterrcnn.engine import checkpoint, results
from fasterrcnn.engine.checkpoint import State


def reason(run: Path, state: State, every: int, patience: int) -> str | None:
    """Why the run ends at ``state.step``, before its last step; None if it goes on.

    `every`: steps between evaluations. `patience`: 0 for a run that never ends early.
    """
    if patience == 0 or state.step >= state.last_step:
        return None
    rows = [
        row
        for row in results.own(run, state.data["val_digest"])
        if row["step"] <= state.step and schedule.due(row["step"], every, state.last_step)
    ]
    if not rows:
        return None
    best = max(rows, key=checkpoint.score)  # the first of equals
    waited = len(rows) - 1 - rows.index(best)
    if waited < patience:
        return None
    return (
        f"no better {checkpoint.deciding_metric(best)} in {waited} "
        f"evaluation{'s' if waited > 1 else ''} since step {best['step']} "
        f"({100 * checkpoint.score(best):.1f})"
    )
