"""Checkpoints: no pickle, atomic, verified.

    <run>/checkpoints/step-00001234/
        model.safetensors  optimizer.safetensors  [ema.safetensors]  state.json
        MANIFEST.json      size and SHA-256 of each of them, written last
        results.json       metrics, if it was evaluated; not needed to resume

A folder of that name is complete or damaged, never half written: files are written under a
temporary name and synced, then the folder is renamed, its parent synced, everything read back, and
only then are older ones deleted. A run resumes from the tensors and `state.json`, which lists the
images that are left out or replaced too; the order of the data and all random numbers are functions
of the step (`data.sampler`, `seeds`), and how long no evaluation has been better one of
evaluations.jsonl (`early_stop`). Saving a state twice writes the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fasterrcnn import recipes
from fasterrcnn.data.annotations import Classes
from fasterrcnn.errors import CheckpointError, StorageError, UsageError
from fasterrcnn.export import detector as exported
from fasterrcnn.models.build import Detector, build

FORMAT = 1
_MANIFEST = "MANIFEST.json"
_SHOWN = 1000  # characters of what does not fit


@dataclass
class State:
    """The small part of a checkpoint, kept as json."""

    step: int
    last_step: int  # number of steps of the whole run; finished when `step` reaches it
    recipe: recipes.Recipe
    classes: Classes
    scaler: dict[str, Any]  # GradScaler.state_dict()
    data: dict[str, Any]  # digest of the training images and boxes, paths, bad images
    environment: dict[str, Any]  # versions, device, threads, ranks
    history: list[dict[str, Any]] = field(default_factory=list)  # changes (`engine.history`)


# Saving.


def save(folder: Path, tensors: dict[str, dict[str, Tensor]], state: State, keep: int) -> Path:
    """Write ``folder/step-<state.step>``, then delete all but the last `keep` (at least 2) and the
    one with the best AP. `tensors` maps "model", "optimizer", "ema" to tensors by name.

    Raises StorageError if the disk is full or not writable; older checkpoints stay.
    """
    final = path_of(folder, state.step)
    temporary = folder / f".tmp-step-{state.step:08d}-{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        for name, group in tensors.items():
            contiguous = {key: value.detach().cpu().contiguous() for key, value in group.items()}
            save_file(contiguous, temporary / f"{name}.safetensors")
        (temporary / "state.json").write_text(to_json(state))
        files = {p.name: _fingerprint(p) for p in sorted(temporary.iterdir())}
        (temporary / _MANIFEST).write_text(json.dumps(files, indent=1))
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        if final.exists():  # damaged, or the run was resumed from an older one
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(folder)
        if damage := verify(final):
            raise StorageError(f"{final}: read back differently: {damage}; check the disk")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _storage_error(folder, error) from None
    _delete_old(folder, keep)
    return final


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is saved in the folder of checkpoints."""
    return folder / f"step-{step:08d}"


def add_results(path: Path, results: dict[str, Any]) -> None:
    """Write the metrics of checkpoint `path` into it."""
    (path / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def best(folder: Path) -> Path | None:
    """The checkpoint with the highest AP (of an RPN: AR_1000), the newest of equals, among those
    that were evaluated on the same images and boxes as the latest one."""
    scores = []
    for path in sorted(folder.glob("step-*/results.json")):
        try:
            results = json.loads(path.read_text())
            scores.append((float(score(results)), path.parent, results.get("digest")))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # a process was killed while writing it; the checkpoint is intact
    return max(s for s in scores if s[2] == scores[-1][2])[1] if scores else None


def score(results: dict[str, Any]) -> float:
    """The `deciding_metric` of an evaluation, 0 where it is undefined."""
    return results[deciding_metric(results)] or 0.0


def deciding_metric(results: dict[str, Any]) -> str:
    """The metric that says which of two evaluations is better: AP, of an RPN AR_1000."""
    return "AP" if "AP" in results else "AR_1000"


def check_space(folder: Path, tensors: dict[str, dict[str, Tensor]]) -> None:
    """Raise StorageError if there is no space for two checkpoints of `tensors`, as for `save`."""
    size = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise StorageError(
            f"{folder}: {free / 2**30:.1f} GiB free, two checkpoints need "
            f"{2 * size / 2**30:.1f} GiB; "
            "free some space or choose another --output-dir"
        )


def remove_unfinished(folder: Path) -> list[str]:
    """Delete what killed processes left unfinished; returns the names."""
    leftovers = sorted(folder.glob(".tmp-*"))
    for path in leftovers:
        shutil.rmtree(path)
    return [path.name for path in leftovers]


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that the optimizer keeps of every trained parameter: SGD's momentum under the name of the
    parameter, AdamW's states under ``<name>/exp_avg`` and the like."""
    return {
        name if kind == "momentum_buffer" else f"{name}/{kind}": tensor
        for name, parameter in model.named_parameters()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
    }


# Loading.


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of `folder` that verifies, and why newer ones were skipped."""
    skipped: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        damage = verify(path)
        if damage is None:
            return path, skipped
        skipped.append(f"{path}: {damage}")
    return None, skipped


def verify(path: Path) -> str | None:
    """What is wrong with the files of checkpoint `path`, or None."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        for name, expected in manifest.items():
            if "/" in name:
                return f"{_MANIFEST} names {name!a}, a file that is not in it"
            if not (path / name).is_file():
                return f"{name} is missing"
            if _fingerprint(path / name) != expected:
                return f"{name} is damaged (size or SHA-256 differs from {_MANIFEST})"
    except FileNotFoundError:
        return f"{_MANIFEST} is missing"
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return f"{_MANIFEST} cannot be read ({error})"
    return None


def find(path: Path) -> Path:
    """The checkpoint at `path`, or the newest usable one of the run at `path`, verified; RUN/best
    is the best one of a run.

    Raises CheckpointError.
    """
    if path.name == "best" and not path.exists() and path.parent.is_dir():
        found = best(path.parent / "checkpoints")
        if found is None:
            raise CheckpointError(
                f"{path}: none of this run's checkpoints was evaluated; give "
                f"{path.parent} for the newest one"
            )
        path = found
    if (path / _MANIFEST).is_file():
        if damage := verify(path):
            raise CheckpointError(f"{path}: {damage}; use another checkpoint of the run")
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found, skipped = newest(folder)
    if found is None:
        detail = "; ".join(skipped) or "give a run folder or one of its checkpoints/step-*"
        if not path.exists():
            is_file = path.suffix in exported.FILES
            detail = f"there is no such {'file' if is_file else 'folder'}"
        elif path.is_file():
            detail = "a file is imported first: fasterrcnn import"
            if path.suffix in exported.FILES:
                detail = (
                    "an exported file is for evaluate and predict; evaluate --detections FILE.json "
                    "writes what compare takes"
                )
        raise CheckpointError(f"{path}: no usable checkpoint; {detail}")
    return found


def digest(path: Path) -> str:
    """SHA-256 of `weights_file`, from the manifest of checkpoint `path`."""
    return json.loads((path / _MANIFEST).read_text())[weights_file(path).name]["sha256"]


def run_of(path: Path) -> Path:
    """The run folder of checkpoint `path`; the checkpoint itself if it was moved out of its run; of
    an exported file, a folder beside it."""
    if path.suffix in exported.FILES:
        return path.with_suffix("")
    return path.parent.parent if path.parent.name == "checkpoints" else path


def weights_file(path: Path) -> Path:
    """The weights of checkpoint `path` to use: the EMA if the run kept one, else those trained."""
    ema = path / "ema.safetensors"
    return ema if ema.is_file() else path / "model.safetensors"


def load_state(path: Path) -> State:
    """`state.json` of checkpoint `path`. Raises CheckpointError."""
    try:
        return from_json((path / "state.json").read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / 'state.json'}: {error}; use another checkpoint") from None


def from_json(text: str) -> State:
    """The inverse of `to_json`. Raises ValueError, KeyError or TypeError."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ValueError(f"written in another format than {FORMAT}")
    classes = Classes(*(tuple(content["classes"][k]) for k in ("names", "category_ids")))
    recipe = recipes.from_dict(content["recipe"])
    state = State(**{**content, "classes": classes, "recipe": recipe})
    _check_types(state)
    try:
        recipes.check(recipe)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return state


def _check_types(state: State) -> None:
    """Raise ValueError for values that only an edited file can have."""
    for name, kind in (("step", int), ("last_step", int), ("scaler", dict), ("data", dict),
                       ("environment", dict), ("history", list)):  # fmt: skip
        if type(getattr(state, name)) is not kind:
            raise ValueError(f"{name}: not of the type {kind.__name__}")
    for name in ("digest", "path", "dataset", "val_split"):
        if not isinstance(state.data.get(name, ""), str):
            raise ValueError(f"data.{name}: not a text")
    names, ids = state.classes.names, state.classes.category_ids
    if len(names) != len(ids) or {*map(type, names)} - {str} or {*map(type, ids)} - {int}:
        raise ValueError("classes: not as many names as ids, or not texts and numbers")


def build_for(recipe: recipes.Recipe, classes: Classes, weights: Path) -> Detector:
    """The detector whose weights are in a file. Raises CheckpointError, before any memory is
    taken, for a recipe that describes a larger one than the file holds."""
    try:
        with torch.device("meta"):
            parts = build(recipe, classes.num_classes).parameters()
            numbers = sum(part.numel() for part in parts)
    except (RuntimeError, OverflowError) as error:  # sizes whose products overflow
        first = str(error).splitlines()[0][:_SHOWN]
        raise CheckpointError(f"{weights}: no network of its recipe can be made: {first}") from None
    if weights.is_file() and numbers > weights.stat().st_size:
        raise CheckpointError(
            f"{weights}: holds fewer numbers than the {numbers} of its recipe; use another "
            "checkpoint"
        )
    return build(recipe, classes.num_classes)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """A .safetensors file as CPU tensors. Raises CheckpointError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None


def load_into(module: nn.Module, path: Path) -> None:
    """Copy a .safetensors file into `module`, in place; all names must match.

    Raises CheckpointError.
    """
    try:
        module.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        shown = reason if len(reason) <= _SHOWN else f"{reason[:_SHOWN]}..."
        raise CheckpointError(f"{path}: {shown}") from None


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Copy saved states into the optimizer's, in place, keeping their memory format.

    Raises CheckpointError.
    """
    saved = load_tensors(path)
    for name, buffer in optimizer_tensors(model, optimizer).items():
        if name not in saved or saved[name].shape != buffer.shape:
            raise CheckpointError(f"{path}: {name}: missing or of another shape")
        buffer.copy_(saved[name])


def load_detector(path: Path) -> tuple[Detector, State, Path]:
    """The detector of a run or checkpoint, with the weights of `weights_file`, or of an exported
    file, on the CPU and in evaluation mode; its state; and the path of the checkpoint or file.

    Raises CheckpointError, or UsageError if ONNX Runtime is not installed."""
    if path.suffix in exported.FILES and path.is_file():
        return _load_exported(path)
    path = find(path)
    state = load_state(path)
    model = build_for(state.recipe, state.classes, weights_file(path))
    load_into(model, weights_file(path))
    return model.eval(), state, path


def _load_exported(path: Path) -> tuple[Detector, State, Path]:
    file = exported.read(path)
    try:
        state = from_json(file.metadata)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: metadata: {error}; export it again") from None
    return exported.ExportedDetector(file, state.recipe), state, path


def to_json(state: State) -> str:
    """The text of state.json."""
    return json.dumps({"format": FORMAT, **asdict(state)}, indent=1, sort_keys=True) + "\n"


def _fingerprint(path: Path) -> dict[str, Any]:
    """A manifest entry: size in bytes and SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


def _sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(folder: Path, error: Exception) -> StorageError:
    """`error` as one line with the free space and what to do."""
    free = shutil.disk_usage(folder).free / 2**30 if folder.exists() else 0.0
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(
        error
    )
    advice = "free some space" if full else "check the disk and its permissions"
    return StorageError(
        f"{folder}: checkpoint not written: {error} ({free:.2f} GiB free); {advice}; earlier "
        "checkpoints are kept and the same command continues from them"
    )


def _delete_old(folder: Path, keep: int) -> None:
    """Delete all checkpoints but the last `keep` (at least 2) and the best."""
    paths = sorted(folder.glob("step-*"))
    kept = {*paths[-max(2, keep) :], best(folder)}
    for path in paths:
        if path not in kept:
            shutil.rmtree(path)
