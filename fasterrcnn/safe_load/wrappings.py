"""Finds the state dict in what training scripts save, and takes off what wrappers add to its names.

Known are the entries and prefixes of torch's and torchvision's scripts (``model``, ``model_ema``,
DistributedDataParallel, FSDP, AveragedModel, torch.compile), of MMEngine, Detectron2, Detectron,
and of Lightning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_ENTRIES = ("state_dict", "model", "model_state_dict", "blobs")  # taken before any other
# What torch.compile, FSDP and activation checkpointing put before the names of the module inside.
_INSIDE = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_DETECTOR = re.compile(r"((?:\w+\.)*?)backbone\.")  # what stands before a detector's names
_AVERAGED = re.compile(r"ema|swa|averaged|teacher", re.IGNORECASE)


@dataclass
class StateDict:
    """The weights of one model in a file."""

    tensors: dict[str, Tensor]
    entry: str = ""  # where in the file they are; "" if they are all of it
    others: tuple[str, ...] = ()  # entries that hold weights too and were not taken
    left_out: tuple[str, ...] = ()  # tensors beside the model, such as AveragedModel's counter


def unwrap(content: dict[str, Any], entry: str | None) -> StateDict:
    """The state dict in `content`: that of `entry` if given, else the one that was trained, rather
    than an average of it. Raises ValueError if there is no such entry."""
    found: dict[str, StateDict] = {}
    for outer in [name for name, value in content.items() if isinstance(value, dict)]:
        inner = {f"{outer}.{name}": value for name, value in content[outer].items()}
        content = content | {k: v for k, v in inner.items() if isinstance(v, dict)}
    entries = sorted(filter(lambda n: _is_state_dict(n, content[n]), content), key=_rank)
    for name in entries or [""]:
        for part in _models(_tensors(content[name] if name else content)):
            found[part.entry or name] = part
    if not found:
        return StateDict({})
    names = sorted(found, key=_rank)
    taken = names[0] if entry is None else entry
    if taken not in found:
        raise ValueError(f"--entry: {entry}: not in the file; it has {', '.join(names)}")
    others = tuple(name for name in names if name != taken)
    return StateDict(found[taken].tensors, taken, others, found[taken].left_out)


def _rank(name: str) -> tuple[bool, int]:
    """Sort key of entries: averages last, the known ones first."""
    known = _ENTRIES.index(name) if name in _ENTRIES else len(_ENTRIES)
    return bool(_AVERAGED.search(name)), known


def _is_state_dict(name: Any, value: Any) -> bool:
    """Whether an entry of a file is one: another name than the known ones needs weights."""
    if not isinstance(name, str) or not isinstance(value, dict):
        return False
    return name in _ENTRIES or any(str(key).endswith(".weight") for key in _tensors(value))


def _tensors(values: dict[Any, Any]) -> dict[str, Tensor]:
    """The tensors in `values`, of which some are arrays of `reading`, by name."""
    plain = {str(name): getattr(value, "tensor", value) for name, value in values.items()}
    return {name: value for name, value in plain.items() if isinstance(value, Tensor)}


def _models(tensors: dict[str, Tensor]) -> list[StateDict]:
    """The models whose names stand in one dict behind different prefixes, without those; the entry
    is the prefix if there are several."""
    named = {_INSIDE.sub("", name): value for name, value in tensors.items()}
    prefixes = {match[1]: None for name in named if (match := _DETECTOR.match(name))}
    if "" in prefixes or not prefixes:
        return [StateDict(_without_common_prefix(named))] if named else []
    models = []
    for prefix in prefixes:
        own = {name.removeprefix(prefix): v for name, v in named.items() if name.startswith(prefix)}
        left_out = tuple(name for name in named if not name.startswith(tuple(prefixes)))
        models.append(StateDict(own, prefix[:-1] if len(prefixes) > 1 else "", (), left_out))
    return models


def _without_common_prefix(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of a body without those of its wrappers."""
    named = {name.removeprefix("module."): value for name, value in named.items()}
    if all(name.startswith("model.") for name in named):
        named = {name.removeprefix("model."): value for name, value in named.items()}
    return named
