"""Files of torch.export (.pt2): the program of a detector and its metadata."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.export.program import SMALLEST, File, decoded_of, entries
from fasterrcnn.models import nms  # noqa: F401  # registers the operator that programs call

_FILE = "fasterrcnn.json"  # of the metadata


def write(program: ExportedProgram, path: Path, metadata: str) -> None:
    """Write `program`, the json text `metadata` and its `entries` to `path`. Raises OSError."""
    said = entries(metadata, decoded_of(program))
    torch.export.save(program, path, extra_files={_FILE: metadata, **said})


def read(path: Path) -> File:
    """The file at `path`, which must be trusted: torch unpickles and evaluates what it holds.

    Raises CheckpointError.
    """
    extra = {_FILE: ""}
    try:
        # Of anything else torch logs a traceback; and it warns of its own read-only buffers.
        if not zipfile.is_zipfile(path):
            raise ValueError("it is incomplete, or no .pt2 file")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            program = torch.export.load(path, extra_files=extra)
        decoded, module = decoded_of(program), program.module()
    except Exception as error:  # torch's have no common base but this
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: cannot be read: {reason}; export it again") from None
    if not extra[_FILE]:
        raise CheckpointError(f"{path}: not written by fasterrcnn export; export it again")

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        if decoded is None and min(inputs[0].shape[2:]) <= SMALLEST:
            raise UsageError(
                f"{path}: takes no images whose padded sides are {SMALLEST} px or less; "
                "give a larger --min-size"
            )
        with torch.autocast("cpu", enabled=False):  # as exported, in float32
            return module(*inputs)

    return File(call, extra[_FILE], decoded)
