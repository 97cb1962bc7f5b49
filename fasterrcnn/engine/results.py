"""The evaluations of a run, and where their metrics and detections are kept.

    evaluations.jsonl        a line per evaluation: step, split, digest of the split, all metrics
    results.json             the latest one on the run's own validation split; also in its
    detections.npz           checkpoint, where they decide which checkpoint is the best
    results-<split>.json     the latest one on another split, or with changed settings
    detections-<split>.npz

The own validation split is the one that the run was trained with, whatever its path is today.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fasterrcnn.engine import checkpoint
from fasterrcnn.engine.run_folder import RunFolder, read_json, read_rows
from fasterrcnn.errors import CheckpointError

FILE = "evaluations.jsonl"
_COLUMNS = {"image": np.int32, "x1y1x2y2": np.float32, "score": np.float32, "label": np.int32}
_DECIDING = {"step": int, "split": str, "digest": str, "changed": list}
_FIELDS = {**_DECIDING, "images": int, "data_path": str, "dataset": str}


class Evaluation(NamedTuple):
    """What was evaluated, and how."""

    step: int
    split: str
    digest: str  # of the split's images and boxes
    images: int
    data_path: str
    dataset: str  # its format, or "auto"
    changed: tuple[str, ...] = ()  # settings that are not those of the run, as "name: value"

    def is_own(self, state: checkpoint.State) -> bool:
        """Whether this counts for the choice of the best checkpoint of the run.

        Of a run without a validation split, such as an imported one, any split but that of training
        does.
        """
        own = state.data.get("val_digest")
        trained = self.split == state.recipe.data.train_split
        same = not trained if own is None else self.digest == own
        return same and not self.changed


def save(
    evaluation: Evaluation,
    metrics: dict[str, Any],
    detections: np.ndarray,
    path: Path,
    *,
    own: bool,
) -> dict[str, Any]:
    """Keep the results of checkpoint `path`; the line in `FILE`, which is returned, comes last.

    `detections` float64 ``(D, 7)`` as `metrics.coco.evaluate` takes them. Raises OSError.
    """
    row = {**evaluation._asdict(), **metrics}
    run = RunFolder(checkpoint.run_of(path))
    if own:
        _save_detections(path / "detections.npz", detections)
        checkpoint.add_results(path, row)
        run.write_json("results.json", row)
    else:
        suffix = _slug(evaluation.split)
        _save_detections(run.path / f"detections-{suffix}.npz", detections)
        run.write_json(f"results-{suffix}.json", row)
    _append(run.path / FILE, row)
    return row


def read(run: Path) -> list[dict[str, Any]]:
    """The evaluations of a run in the order of their steps, each split and data once per step: as
    it was evaluated last."""
    latest = {}
    for row in filter(_is_evaluation, read_rows(run / FILE)):
        latest[row["step"], row["split"], row["digest"], str(row["changed"])] = row
    return sorted(latest.values(), key=lambda row: row["step"])


def _is_evaluation(row: dict[str, Any], fields: dict[str, type] = _DECIDING) -> bool:
    """Whether `row` has these fields of what `save` keeps, and metrics beside them."""
    fits = all(isinstance(row.get(name), kind) for name, kind in fields.items())
    return fits and all(_is_metric(value) for name, value in row.items() if name not in _FIELDS)


def _is_metric(value: Any, depth: int = 2) -> bool:
    """Whether `value` is a number, undefined, or a table of such, of classes for example."""
    if isinstance(value, dict):
        return depth > 0 and all(_is_metric(item, depth - 1) for item in value.values())
    return value is None or isinstance(value, (int, float))


def own(run: Path, digest: str | None) -> list[dict[str, Any]]:
    """Those of `read` with the run's own settings, on the data with `digest`."""
    return [row for row in read(run) if (row["digest"], row["changed"]) == (digest, [])]


def cut(run: Path, step: int) -> None:
    """Remove the evaluations after `step`, from which the run goes on, and an incomplete line."""
    file = run / FILE
    if file.exists():
        kept = [json.dumps(row) + "\n" for row in read_rows(file) if row["step"] <= step]
        temporary = file.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(file)


def evaluated(path: Path) -> Path:
    """The checkpoint at `path`; of a run, the newest one whose results are kept, or else the
    newest. Raises CheckpointError."""
    kept = sorted(path.glob("checkpoints/step-*/detections.npz"))
    return checkpoint.find(kept[-1].parent if kept else path)


def find(path: Path, step: int, split: str | None) -> tuple[dict[str, Any], np.ndarray] | None:
    """The metrics and detections that are kept of checkpoint `path`, of `step`: on the run's own
    validation split, or the latest on `split`, of which those on other data or with changed
    settings come before the run's own. None if there are none. Raises CheckpointError."""
    places = [(path, "")]
    if split is not None:
        places.insert(0, (checkpoint.run_of(path), f"-{_slug(split)}"))
    for folder, name in places:
        row, detections = (
            read_json(folder / f"results{name}.json"),
            folder / f"detections{name}.npz",
        )
        if row.get("step") != step or not _is_evaluation(row, _FIELDS):
            continue
        if split in (None, row["split"]) and detections.is_file():
            try:
                return row, load_detections(detections)
            except (OSError, ValueError) as error:
                what = f"{detections}: {error}; evaluate the checkpoint again"
                raise CheckpointError(what) from None
    return None


def load_detections(file: Path) -> np.ndarray:
    """What `save` was given. Raises OSError or ValueError."""
    try:
        _check_zip(file)
        with np.load(file, allow_pickle=False) as content:
            columns = [content[name] for name in _COLUMNS]
        image, boxes, score, label = (
            column.astype(np.float64).reshape(len(columns[0]), *((4,) if k == 1 else ()))
            for k, column in enumerate(columns)
        )
    except (ValueError, EOFError, KeyError, TypeError, MemoryError, zipfile.BadZipFile) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"not a file of detections ({first[:200]})") from None
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.column_stack([image, boxes[:, :2], sides, score, label])


def _check_zip(file: Path) -> None:
    """Raise ValueError for entries that are compressed, as none of `save` is, and could expand
    without bound."""
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed")


def detections_on(path: Path, step: int, digest: str) -> Path | None:
    """The file of what checkpoint `path`, of `step`, detected in the data with `digest` with the
    settings of its run; None if it is not kept."""
    run = checkpoint.run_of(path)
    for file in (path / "results.json", *sorted(run.glob("results-*.json"))):
        detections = file.with_name(file.name.replace("results", "detections", 1))
        detections = detections.with_suffix(".npz")
        done = read_json(file)
        found = (done.get("step"), done.get("digest"), done.get("changed"))
        if found == (step, digest, []) and detections.is_file():
            return detections
    return None


def _save_detections(file: Path, detections: np.ndarray) -> None:
    """Boxes are kept as the detector gave them: corners in single precision."""
    x1y1 = detections[:, 1:3]
    boxes = np.concatenate([x1y1, x1y1 + detections[:, 3:5]], axis=1)
    columns = (detections[:, 0], boxes, detections[:, 5], detections[:, 6])
    arrays = {
        name: column.astype(kind)
        for (name, kind), column in zip(_COLUMNS.items(), columns, strict=True)
    }
    temporary = file.with_name(f".{file.name}")
    with temporary.open("wb") as target:
        np.savez(target, **arrays)  # type: ignore[arg-type] # none is called allow_pickle
    temporary.replace(file)


def _slug(split: str) -> str:
    """The split in the name of a file."""
    return re.sub(r"[^\w.-]+", "_", split)


def _append(file: Path, row: dict[str, Any]) -> None:
    """Add a line, after a line of its own that a killed process left incomplete; it is on the disk
    then, because the end of a run can depend on it."""
    with file.open("ab+") as target:
        if target.tell():
            target.seek(-1, os.SEEK_END)
            if target.read() != b"\n":
                target.write(b"\n")
        target.write((json.dumps(row) + "\n").encode())
        target.flush()
        os.fsync(target.fileno())
