"""Reads tensors from untrusted files without running anything in them.

torch files are checked by `pickle_limits`, then read by torch's weights-only unpickler, with inert
stubs for the configs, arguments and schedules that training scripts save. Pickles of Detectron2 and
Detectron are read by an unpickler that rebuilds numpy arrays and rejects every other name. Nothing
named in a file is imported, no more is allocated than the file holds, and there is no fallback.
"""

from __future__ import annotations

import hashlib
import mmap
import pickle
import stat
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.safe_load import pickle_limits, wrappings

_MAX_BYTES = 8 << 30  # size of a file
_MAX_VIEWS = 16  # bytes that tensors may show for each byte of the file
_KINDS = "fiub"  # numpy's kinds of dtypes that weights may have


@dataclass
class File:
    """The content of a file."""

    path: Path
    tensors: dict[str, Tensor]
    sha256: str
    meta: dict[str, Any] = field(default_factory=dict)  # plain values beside the tensors
    entry: str = ""  # where in the file the tensors were
    others: tuple[str, ...] = ()  # entries of other weights, which were not taken
    left_out: tuple[str, ...] = ()  # tensors beside the model


def read(path: Path, entry: str | None = None) -> File:
    """The state dict of a .pth, .pt, .pkl or .safetensors file; `entry` says which, if it holds
    several. Raises CheckpointError, and UsageError if there is no such entry."""
    try:
        about = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; give a checkpoint file") from None
    if not stat.S_ISREG(about.st_mode):  # reading a pipe would wait forever
        raise CheckpointError(f"{path}: not a regular file; give a checkpoint file")
    if path.suffix in (".onnx", ".pt2"):
        raise CheckpointError(f"{path}: an exported program holds no state dict; give its run")
    if about.st_size > _MAX_BYTES:
        raise CheckpointError(
            f"{path}: {about.st_size / 2**30:.1f} GiB: larger than any such checkpoint"
        )
    try:
        content = _content(path)
    except CheckpointError:
        raise
    except Exception as error:  # damaged and malicious files raise errors of any kind
        raise CheckpointError(f"{path}: {_reason(error)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no state dict; give a checkpoint file")
    try:
        found = wrappings.unwrap(content, entry)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    if not found.tensors:
        raise CheckpointError(f"{path}: holds no tensors; give a checkpoint file")
    _check_views(path, found.tensors)
    for name, tensor in found.tensors.items():
        _check(path, name, tensor)
    meta = content.get("meta")
    return File(
        path,
        found.tensors,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        {**(meta if isinstance(meta, dict) else {}), "__author__": content.get("__author__")},
        found.entry,
        found.others,
        found.left_out,
    )


def arrays(path: Path) -> dict[str, Any]:
    """A pickled dict of lists, plain values and arrays. Raises CheckpointError, OSError."""
    try:
        with pickle_limits.bounded(path) as content:
            pickle_limits.check_opcodes(content)
            found = _ArraysOnly(path, content).load()
        if not isinstance(found, dict):
            raise CheckpointError(f"{path}: holds no dictionary of arrays")
        return {name: _as_numpy(value) for name, value in found.items()}
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # damaged and malicious files raise errors of any kind
        raise CheckpointError(f"{path}: {_reason(error)}") from None


def _as_numpy(value: Any) -> Any:
    """`value` with its arrays, perhaps in a list, as numpy arrays."""
    if isinstance(value, list):
        return [item.tensor.numpy() if isinstance(item, _Array) else item for item in value]
    return value.tensor.numpy() if isinstance(value, _Array) else value


def _reason(error: Exception) -> str:
    """The message in one line, without torch's advice to load the file unsafely."""
    text = str(error).strip()
    if "weights_only" in text:
        return "cannot be read: holds no tensors; give a checkpoint file"
    first = (text.splitlines() or [type(error).__name__])[0]
    return f"cannot be read: {first}; is it complete?"


def _content(path: Path) -> Any:
    """What is in the file; its first bytes and suffix decide how it is read."""
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise CheckpointError(f"{path}: cannot be read: {error}; is it complete?") from None
    with path.open("rb") as file:
        start = file.read(4)
    if start == pickle_limits.ZIP:
        _check_zip(path)
        return _read_torch(path)
    if path.suffix == ".pkl":
        with pickle_limits.bounded(path) as content:
            pickle_limits.check_opcodes(content)
            return _ArraysOnly(path, content).load()
    return _read_torch(path)  # torch's format before 1.6


def _read_torch(path: Path) -> Any:
    """A file of torch.save, with stubs for harmless objects."""
    allowed: list[Callable | tuple[Callable, str]] = [
        (pickle_limits.stub(name), name) for name in pickle_limits.harmless_names(path)
    ]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_zip(path: Path) -> None:
    """Reject compressed entries, which torch does not write and which may expand without bound."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise CheckpointError(
                f"{path}: declares more data than the file holds; give a file written by torch"
            )
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > entry.compress_size:
                raise CheckpointError(
                    f"{path}: {entry.filename}: compressed; give a file written by torch"
                )


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dicts, lists, numbers, strings and arrays of no more bytes than the file holds."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        super().__init__(content, encoding="latin1")
        self.path = path
        self.left = 2 * len(content)  # twice: before protocol 3, bytes are first text, then encoded

    def find_class(self, module: str, name: str) -> Any:
        """A substitute for each name that numpy arrays are pickled with; no other is allowed."""
        module = module.replace("numpy._core", "numpy.core")
        known: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(self._bytes),
            ("numpy.core.multiarray", "scalar"): self._scalar,
            ("numpy.core.numeric", "_frombuffer"): self._from_buffer,
            ("numpy", "ndarray"): None,
            ("numpy", "dtype"): _DType,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): self._encode,
        }
        if (module, name) not in known:
            raise CheckpointError(
                f"{self.path}: wants to run {module}.{name}; only arrays are read; give another "
                "file"
            )
        return known[module, name]

    def _bytes(self, raw: Any) -> bytes:
        """`raw` as bytes, counted. Raises ValueError if the file is too small for their sum."""
        self.left -= len(raw)
        if self.left < 0:
            raise ValueError("declares more data than the file holds")
        return raw.encode("latin1") if isinstance(raw, str) else bytes(raw)

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError(f"{encoding}: not the encoding of pickled bytes")
        return self._bytes(text)

    def _scalar(self, kind: _DType, raw: Any) -> Any:
        return np.frombuffer(self._bytes(raw), kind.dtype, count=1)[0].item()

    def _from_buffer(self, raw: Any, kind: _DType, shape: tuple, order: str) -> _Array:
        """An array pickled with protocol 5."""
        array = _Array(self._bytes)
        array.__setstate__((1, shape, kind, order == "F", raw))
        return array


class _DType:
    """A numpy dtype, if weights may have it."""

    def __init__(self, name: str, *_: Any) -> None:
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in _KINDS:
            raise ValueError(f"{name}: not a dtype of weights")

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """What numpy's `_reconstruct` returns; the data in its state bounds its size."""

    tensor: Tensor

    def __init__(self, bytes_of: Callable[[Any], bytes]) -> None:
        self.bytes_of = bytes_of

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, raw = state
        array = np.frombuffer(self.bytes_of(raw), kind.dtype)
        array = np.array(array.reshape(shape, order="F" if fortran else "C"))  # a writable copy
        self.tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _check_views(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError for tensors that show the same bytes again and again, and would take
    their time each. One under several names counts once."""
    views = {
        (t.data_ptr(), t.shape, t.stride()): t.nbytes
        for t in tensors.values()
        if t.layout == torch.strided
    }
    if sum(views.values()) > _MAX_VIEWS * path.stat().st_size:
        raise CheckpointError(f"{path}: its tensors overlap; save a plain state dict")


def _check(path: Path, name: str, tensor: Tensor) -> None:
    """Raise CheckpointError unless `tensor` is dense, real and finite."""
    name = ascii(name)[1:-1][:200]  # as it can stand in one line
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise CheckpointError(f"{path}: {name}: not a dense tensor of real numbers; save it as one")
    if tensor.is_floating_point():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise CheckpointError(
                f"{path}: {name}: {bad} of {tensor.numel()} numbers are NaN or infinite; "
                "the training diverged, give an earlier checkpoint"
            )
