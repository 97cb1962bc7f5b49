"""Checks what a pickle declares against the size of its file, before anything is allocated.

A few bytes can request gigabytes: a storage or tensor of any size, a memo entry with a huge index,
a string longer than the file. Unpicklers trust them. So an untrusted file is first unpickled here
with stubs instead of the objects that it names: nothing is imported, run or allocated.
"""

from __future__ import annotations

import math
import mmap
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import torch
from torch.serialization import StorageType

from fasterrcnn.errors import CheckpointError

# What training scripts save beside tensors: their configs, arguments, counters and paths. Objects
# of these packages, and of these classes, become stubs.
_PACKAGES = (
    "mmengine.", "mmcv.", "mmdet.", "numpy.", "detectron2.", "fvcore.", "yacs.", "addict.",
    "easydict.", "omegaconf.", "lightning.", "lightning_fabric.", "pytorch_lightning.", "pathlib.",
    "datetime.", "torch.optim.lr_scheduler.",
)  # fmt: skip
_CLASSES = {
    "argparse.Namespace", "types.SimpleNamespace", "collections.Counter", "collections.defaultdict",
    "torch.torch_version.TorchVersion", "typing.Any",
    *(f"builtins.{kind}" for kind in ("bool", "dict", "float", "int", "list", "str", "tuple")),
}  # fmt: skip
_DICTIONARIES = ("Counter", "CfgNode", "Dict", "DictConfig", "defaultdict")  # ends of their names
_MAX_LENGTH = 100_000  # values of a tuple
_CONTAINERS = (  # opcodes whose values are not hashed
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "BUILD",
    "EMPTY_SET", "ADDITEMS",
)  # fmt: skip
_MAGIC = 0x1950A86A20F9469CFC6C  # first number of torch's format before 1.6


class Stub(dict):
    """An object that accepts any arguments and state and ignores them."""

    def __new__(cls, *_: Any, **__: Any) -> Stub:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        pass


class DictionaryStub:
    """As `Stub`, for classes of dictionaries: torch's unpickler sets items of plain ones only."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict:  # type: ignore[misc] # of no such class
        return OrderedDict()


ZIP = b"PK\x03\x04"  # first bytes of a zip, by which torch too distinguishes its formats


def bounded(path: Path) -> mmap.mmap:
    """A read-only memory map of a file. Its `read` allocates no more than the file holds; that of a
    file object allocates whatever size it is asked for."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def check_opcodes(pickled: IO[bytes] | mmap.mmap) -> None:
    """Raise ValueError if an opcode of the next pickle needs more memory or time than the file
    justifies.

    Strings must lie inside the file, memo indices must not exceed the number of opcodes, and tuples
    must be short when written out. The position in the file is restored.
    """
    start = pickled.tell()
    opcodes = pickletools.genops(pickled)  # type: ignore[arg-type] # an mmap reads like a file
    lengths = _Lengths()
    for count, (opcode, argument, _) in enumerate(opcodes):
        if "PUT" in opcode.name and argument is not None and argument > count:
            raise ValueError(f"memo index {argument} is out of range")
        lengths.follow(opcode, argument)
    pickled.seek(start)


class _Lengths:
    """How many values the tuples of a pickle hold, those in their tuples too.

    A key of a dictionary is hashed value by value, and tuples that share their parts have 2 ** n
    values in n opcodes.
    """

    def __init__(self) -> None:
        self.stack: list[int] = []  # length of each value
        self.marks: list[int] = []  # where in the stack
        self.memo: dict[int, int] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do to lengths what the opcode does to values. Raises ValueError, IndexError, KeyError."""
        name, stack = opcode.name, self.stack
        if name == "MARK":
            self.marks.append(len(stack))
        elif name == "POP" and self.marks and self.marks[-1] == len(stack):
            self.marks.pop()
        elif name == "DUP":
            stack.append(stack[-1])
        elif "PUT" in name or name == "MEMOIZE":
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif "GET" in name:
            stack.append(self.memo[int(argument)])
        else:
            length = sum(self._taken(opcode)) + 1
            if "TUPLE" in name and length > _MAX_LENGTH:
                raise ValueError("tuples in tuples without end")
            stack.extend([1 if name in _CONTAINERS else length] * len(opcode.stack_after))

    def _taken(self, opcode: pickletools.OpcodeInfo) -> list[int]:
        """The lengths of the values that the opcode takes off the stack."""
        before, start = opcode.stack_before, len(self.stack) - len(opcode.stack_before)
        if pickletools.markobject in before:
            start = self.marks.pop() - before.index(pickletools.markobject)
        if start < 0:
            raise ValueError("an incomplete pickle")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken


def stub(name: str) -> type:
    """What is created in place of the objects of class `name`."""
    return DictionaryStub if name.endswith(_DICTIONARIES) else Stub


def harmless_names(path: Path) -> list[str]:
    """Names in a torch file whose objects may be replaced by a `stub`.

    Names needed for tensors are left out. Raises CheckpointError for any other name, ValueError for
    tensors larger than the file.
    """
    size = path.stat().st_size
    with bounded(path) as content:
        if content[:4] != ZIP:
            if _walk(path, content, size)[0] != _MAGIC:
                raise ValueError("not a torch file")
            for _ in ("protocol version", "system info"):
                _walk(path, content, size)
            return _walk(path, content, size)[1]
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        with archive.open(name) as content:
            return _walk(path, content, size)[1]


def _walk(path: Path, pickled: Any, size: int) -> tuple[Any, list[str]]:
    """The next pickle with stubs for objects, and the names of those. `size`: bytes of the file."""
    check_opcodes(pickled)
    walker = _Walker(path, pickled, size)
    return walker.load(), walker.names


class _Walker(pickle.Unpickler):
    """Creates stubs instead of objects, and counts bytes of storages and strings up to `size`."""

    def __init__(self, path: Path, pickled: Any, size: int) -> None:
        super().__init__(pickled, encoding="latin1")
        self.path = path
        self.left = size
        self.names: list[str] = []
        self.storages: dict[str, int] = {}  # key -> number of elements

    def find_class(self, module: str, name: str) -> Any:
        """A substitute for every name that state dicts and plain values are pickled with."""
        whole = f"{module.replace('__builtin__', 'builtins')}.{name}"  # the name in Python 2
        if whole.startswith(_PACKAGES) or whole in _CLASSES:
            self.names.append(whole)
            return stub(whole)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return Stub
        if module.startswith("torch") and name.endswith("Storage"):
            return 1 if name == "UntypedStorage" else StorageType(name).dtype.itemsize
        known = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor,
            "torch._utils._rebuild_parameter": Stub,
            "torch.Size": Stub,
            "torch.device": Stub,
            "collections.OrderedDict": OrderedDict,
            "builtins.set": set,
            "_codecs.encode": self._encode,
        }
        if whole not in known:
            raise CheckpointError(
                f"{self.path}: wants to run {whole}; only tensors are read; save a plain state dict"
            )
        return known[whole]

    def persistent_load(self, saved: tuple) -> int:
        """Number of elements of a storage: (kind, itemsize, key, device, count[, view])."""
        kind, itemsize, key, _, count, *view = saved
        if kind != "storage" or any(view):
            raise ValueError(f"holds a {kind} that is a view or unknown; save a plain state dict")
        if key not in self.storages:
            self._take(count * itemsize)
            self.storages[key] = count
        return self.storages[key]

    def _tensor(self, numbers: int, offset: int, size: Any, stride: Any, *_: Any) -> Stub:
        """Check that a tensor lies inside its storage of `numbers` elements."""
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) > numbers or (math.prod(size) and last >= numbers):
            raise ValueError(f"a tensor {tuple(size)} in a storage of {numbers} numbers")
        return Stub()

    def _encode(self, text: str, encoding: str) -> bytes:
        """Bytes as pickled before protocol 3."""
        self._take(len(text))
        return text.encode(encoding)

    def _take(self, count: int) -> None:
        """Subtract `count` bytes from those that are left. Raises ValueError."""
        self.left -= count
        if self.left < 0:
            raise ValueError("declares more data than the file holds")
