"""A detector as a folder for the Hugging Face Hub.

README.md                 a model card (`reports.model_card`)
config.json               recipe, classes, step; marks the folder as ours
model.safetensors         the weights
preprocessor_config.json  resizing and normalization, for other programs; not read here
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch

from fasterrcnn import recipes
from fasterrcnn.data.annotations import Classes
from fasterrcnn.engine import checkpoint
from fasterrcnn.engine.run_folder import read_json
from fasterrcnn.errors import CheckpointError, DownloadError, StorageError, UsageError
from fasterrcnn.models.build import Detector, FasterRCNN
from fasterrcnn.recipes import Recipe
from fasterrcnn.reports import model_card

_PREFIX = "hf:"
_LIBRARY = "fasterrcnn"
_UNFINISHED = ".tmp-"
_CARD, _CONFIG, _WEIGHTS, _PREPROCESSOR = (
    "README.md", "config.json", "model.safetensors", "preprocessor_config.json"
)  # fmt: skip


def write(
    folder: Path, model: Detector, state: checkpoint.State, path: Path, said: Mapping[str, Any]
) -> None:
    """Write the detector of checkpoint `path` to `folder`, new, empty or written by this before.

    said: of the card's front matter what only the user knows. No path of this machine is written.
    Raises UsageError or StorageError.
    """
    if not isinstance(model, FasterRCNN):
        raise UsageError(
            f"--format: hub: is for whole detectors; {path} is {state.recipe.detector}"
        )
    _check_folder(folder)
    recipe = recipes.change(state.recipe, weights=Path(state.recipe.weights).name)
    names = state.classes.names
    results = read_json(path / "results.json") or None
    run = checkpoint.run_of(path.absolute()).name
    card = model_card.render(run, recipe, names, state.step, results, said)
    config = {
        "library_name": _LIBRARY,
        "model_type": recipe.detector,
        "id2label": dict(enumerate(names, start=1)),
        "label2id": {name: label for label, name in enumerate(names, start=1)},
        "category_ids": state.classes.category_ids,
        "step": state.step,
        "recipe": asdict(recipe),
        "card_sha256": _sha256(card),
    }
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    files = {  # config.json last: it makes the folder ours
        _WEIGHTS: safetensors.torch.save(tensors, {"format": "pt"}),
        _PREPROCESSOR: (json.dumps(_preprocessor(recipe), indent=1) + "\n").encode(),
        _CARD: card.encode(),
        _CONFIG: (json.dumps(config, indent=1) + "\n").encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=folder) as unfinished:
            for name, content in files.items():
                (Path(unfinished) / name).write_bytes(content)
            for name in files:
                (Path(unfinished) / name).replace(folder / name)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}; give another --output") from None


def is_ours(folder: Path) -> bool:
    """Whether `folder` was written by `write`."""
    return read_json(folder / _CONFIG).get("library_name") == _LIBRARY


def load(folder: Path) -> tuple[Detector, checkpoint.State]:
    """The detector in `folder`, on the CPU and in evaluation mode, and what is known of its run.

    Raises CheckpointError.
    """
    config = read_json(folder / _CONFIG)
    try:
        recipe = recipes.from_dict(config["recipe"])
        classes = classes_of(config)
        step = int(config["step"])
        recipes.check(recipe)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
        why = error if isinstance(error, UsageError) else repr(error)
        raise CheckpointError(f"{folder / _CONFIG}: {why}; export it again") from None
    model = checkpoint.build_for(recipe, classes, folder / _WEIGHTS)
    checkpoint.load_into(model, folder / _WEIGHTS)
    data = {"digest": "", "path": "", "dataset": "auto", "val_split": "val"}
    state = checkpoint.State(step, step, recipe, classes, scaler={}, data=data, environment={})
    return model.eval(), state


def classes_of(config: dict[str, Any]) -> Classes:
    """The classes in config.json, in whatever order another program has written them.

    Raises ValueError, or what a damaged file leads to."""
    names = {int(label): name for label, name in config["id2label"].items()}
    ids = tuple(map(int, config["category_ids"]))
    if len(ids) != len(names):
        raise ValueError(f"{len(ids)} category_ids for {len(names)} names in id2label")
    return Classes(tuple(names[label] for label in sorted(names)), ids)


def is_name(source: str) -> bool:
    """Whether `source` names a repository of the Hub: ``hf:ORG/NAME``."""
    return source.startswith(_PREFIX)


def download(source: str) -> Path:
    """The folder of repository ``hf:ORG/NAME`` in the cache of huggingface_hub. Raises Failure."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UsageError(
            f"{source}: needs huggingface_hub; pip install huggingface_hub (the extra hub of this "
            "package)"
        ) from None
    try:
        files = [_CARD, _CONFIG, _WEIGHTS, _PREPROCESSOR]
        folder = Path(snapshot_download(source.removeprefix(_PREFIX), allow_patterns=files))
    except Exception as error:  # of many kinds: names, the network, permissions, the disk
        raise DownloadError(f"{source}: {' '.join(str(error).split())}") from None
    if not is_ours(folder):
        raise CheckpointError(f"{source}: not a detector of fasterrcnn: its {_CONFIG} says so")
    return folder


def _check_folder(folder: Path) -> None:
    """Raise UsageError where writing would overwrite what this has not written."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output: {folder}: is a file; give a folder")
    # What a write that was killed has left does not count.
    if not folder.exists() or all(path.name.startswith(_UNFINISHED) for path in folder.iterdir()):
        return
    config = read_json(folder / _CONFIG)
    if config.get("library_name") != _LIBRARY:
        raise UsageError(f"--output: {folder}: holds other files; give an empty or new folder")
    card = folder / _CARD
    if card.is_file() and _sha256(card.read_text(encoding="utf-8")) != config.get("card_sha256"):
        raise UsageError(
            f"--output: {folder}: its {_CARD} was edited; move it away, or give another folder"
        )


def _preprocessor(recipe: Recipe) -> dict[str, Any]:
    """How images are resized and normalized, in the words of transformers' image processors."""
    config = recipe.input
    return {
        "do_resize": True,
        "size": {"shortest_edge": config.min_size, "longest_edge": config.max_size},
        "do_rescale": True,
        "rescale_factor": 1 / config.pixel_scale,
        "do_normalize": True,
        "image_mean": config.image_mean,
        "image_std": config.image_std,
        "do_pad": True,
        "size_divisor": config.size_divisible,
        "channel_order": config.channel_order,
        "resize": config.resize,
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
