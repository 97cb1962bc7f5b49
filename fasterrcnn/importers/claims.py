"""What a pickle says it holds, added up before anybody allocates it.

A few bytes can ask for gigabytes: a storage or tensor of any size, a slot of the memo far away, a
string longer than the file. Unpicklers believe them. So a file of a stranger is first walked here,
with stand-ins for the names in it: nothing is imported, run or allocated.
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

from torch.serialization import StorageType

from fasterrcnn.errors import CheckpointError

_HARMLESS = ("mmengine.", "mmcv.", "mmdet.", "numpy.")  # whose objects are replaced by stubs
_MAGIC = 0x1950A86A20F9469CFC6C  # first number of torch's format before 1.6


class Stub(dict):
    """Takes whatever an object is made from and does nothing with it."""

    def __new__(cls, *_: Any, **__: Any) -> Stub:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        pass


ZIP = b"PK\x03\x04"  # by which torch, too, tells its formats apart


def bounded(path: Path) -> mmap.mmap:
    """The bytes of a file. Reading more of them than there are gives fewer; a file object would
    first make room for them all."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def check_opcodes(pickled: IO[bytes] | mmap.mmap) -> None:
    """Raise ValueError for an instruction of the next pickle that needs more than the file brings.

    Its strings must be there, and its memo must be filled in order. The position is kept.
    """
    start = pickled.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if "PUT" in opcode.name and argument > count:
            raise ValueError(f"its memo has no place {argument}")
    pickled.seek(start)


def harmless_names(path: Path) -> list[str]:
    """Names in a file of torch that get a `Stub`; those of tensors are not among them.

    Raises CheckpointError for any other name, ValueError for tensors that the file cannot hold.
    """
    size = path.stat().st_size
    with bounded(path) as content:
        if content[:4] != ZIP:
            if _walk(path, content, size)[0] != _MAGIC:
                raise ValueError("not a file of torch")
            for _ in ("version of the format", "about the machine"):
                _walk(path, content, size)
            return _walk(path, content, size)[1]
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        with archive.open(name) as content:
            return _walk(path, content, size)[1]


def _walk(path: Path, pickled: Any, size: int) -> tuple[Any, list[str]]:
    check_opcodes(pickled)
    walker = _Walker(path, pickled, size)
    return walker.load(), walker.names


class _Walker(pickle.Unpickler):
    """Makes stubs instead of objects and counts the bytes of storages, of at most `size`."""

    def __init__(self, path: Path, pickled: Any, size: int) -> None:
        super().__init__(pickled, encoding="latin1")
        self.path = path
        self.left = size
        self.names: list[str] = []
        self.storages: dict[str, int] = {}  # numbers in each

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for everything that state dicts and their plain values are pickled with."""
        whole = f"{module.replace('__builtin__', 'builtins')}.{name}"  # as Python 2 called it
        if whole.startswith(_HARMLESS):
            self.names.append(whole)
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
        """A storage of `count` numbers: (kind, bytes of each, key, device, count[, view])."""
        kind, itemsize, key, _, count, *view = saved
        if kind != "storage" or any(view):
            raise ValueError(f"holds a {kind} in parts; save a plain state dict")
        if key not in self.storages:
            self._take(count * itemsize)
            self.storages[key] = count
        return self.storages[key]

    def _tensor(self, numbers: int, offset: int, size: Any, stride: Any, *_: Any) -> Stub:
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) > numbers or (math.prod(size) and last >= numbers):
            raise ValueError(f"a tensor {tuple(size)} in a storage of {numbers} numbers")
        return Stub()

    def _encode(self, text: str, encoding: str) -> bytes:
        self._take(len(text))
        return text.encode(encoding)

    def _take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError("says it holds more than it does")
