"""Files that ask for more than they bring: refused before anything is allocated or run."""

from __future__ import annotations

import codecs
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fasterrcnn.safe_load.reading import read
from tests.faults import hostile_pickles
from tests.faults.places import Place
from tests.safe_load.test_reading import refused

COUNT = b"M\x09\x03"  # 777 in a pickle
BILLION = b"J" + struct.pack("<i", 1 << 30)


def rewritten(path: Path, zipped: bool, change) -> Path:
    """A file of torch with one tensor of 777 numbers, its pickle changed by `change`."""
    torch.save({"a": torch.zeros(777)}, path, _use_new_zipfile_serialization=zipped)
    if not zipped:
        path.write_bytes(change(path.read_bytes()))
        return path
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return path


def replaced(content: bytes, old: bytes, new: bytes, which: int) -> bytes:
    parts = content.split(old)
    return old.join(parts[: which + 1]) + new + old.join(parts[which + 1 :])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("which", "message"), [
    (0, "declares more data than the file holds"),
    (1, r"a tensor (1073741824,) in a storage of 777 numbers"),
], ids=["storage", "tensor"])  # fmt: skip
def test_sizes_beyond_the_file(tmp_path: Path, zipped: bool, which: int, message: str):
    path = rewritten(
        tmp_path / "x.pth", zipped, lambda pickled: replaced(pickled, COUNT, BILLION, which)
    )
    refused(path, message)


def test_a_file_of_two_formats_is_what_torch_takes_it_for(tmp_path: Path):
    """A harmless zip behind the format before 1.6; torch looks at the start alone."""
    path = rewritten(
        tmp_path / "x.pth", False, lambda pickled: replaced(pickled, COUNT, BILLION, 0)
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}))
    assert zipfile.is_zipfile(path)
    refused(path, "declares more data than the file holds")


@pytest.mark.parametrize("zipped", [True, False])
def test_many_storages_that_each_fit(tmp_path: Path, zipped: bool):
    """The file's one tensor of 4 kB under a hundred keys: together more than the file."""
    content = {str(i): torch.zeros(1000) for i in range(100)}
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            entries = {e.filename: archive.read(e) for e in archive.infolist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content[:10] if "/data/" in name else content)
    else:
        path.write_bytes(path.read_bytes()[:-396_000])
    refused(path, "declares more data than the file holds")


def test_a_number_expanded_to_many(tmp_path: Path):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "in a storage of 1 numbers")


class Made:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [bytearray, torch.FloatTensor])
def test_functions_that_make_room(tmp_path: Path, zipped: bool, function):
    """torch's own list of what is safe has both."""
    content = {"a": torch.zeros(3), "b": Made(function, 1 << 40)}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "x.pth", "wants to run", function.__name__)


def test_places_of_the_memo_far_away(tmp_path: Path):
    """Python's unpickler would make room for every place before it."""
    far = b"r" + struct.pack("<I", 1 << 31)
    message = "memo index 2147483648 is out of range"
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}" + far + b".")
    refused(tmp_path / "x.pkl", message)
    for zipped in (True, False):
        path = rewritten(
            tmp_path / "x.pth", zipped, lambda p: replaced(p, b"}q\x00", b"}" + far, 0)
        )
        refused(path, message)


@pytest.mark.parametrize("opcode", [b"\x80\x04\x8e", b"\x80\x05\x96"], ids=["bytes", "bytearray"])
def test_strings_longer_than_the_file(tmp_path: Path, opcode: bytes):
    (tmp_path / "x.pkl").write_bytes(opcode + struct.pack("<Q", 1 << 42) + b"abc.")
    refused(tmp_path / "x.pkl", "expected 4398046511104 bytes")


def test_many_copies_of_the_same_bytes(tmp_path: Path):
    """A hundred arrays of one megabyte, and a hundred encodings of one text."""
    raw = bytes(1 << 20)
    function, arguments, state = np.zeros(3, np.float32).__reduce__()
    state = (*state[:1], (1 << 18,), *state[2:4], raw)
    arrays = [Made(function, *arguments) for _ in range(100)]
    for array in arrays:
        array.call = (function, arguments, state)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": dict(enumerate(arrays))}, 4))
    assert (tmp_path / "x.pkl").stat().st_size < 2 << 20
    refused(tmp_path / "x.pkl", "declares more data than the file holds")

    text = "x" * (1 << 20)
    content = {"a": torch.zeros(3), "b": [Made(codecs.encode, text, "latin1") for _ in range(100)]}
    (tmp_path / "y.pkl").write_bytes(pickle.dumps(content["b"], 2))
    refused(tmp_path / "y.pkl", "declares more data than the file holds")
    for zipped in (True, False):
        torch.save(content, tmp_path / "y.pth", _use_new_zipfile_serialization=zipped)
        refused(tmp_path / "y.pth", "declares more data than the file holds")


def test_the_same_array_under_many_names_is_one(tmp_path: Path):
    array = np.ones(1000, np.float32)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({str(i): array for i in range(100)}))
    tensors = read(tmp_path / "x.pkl").tensors
    assert len(tensors) == 100
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == 1


@pytest.mark.parametrize("file", [
    hostile_pickles.keys_that_hash_forever, hostile_pickles.keys_that_hash_forever_in_zip,
])  # fmt: skip
def test_keys_that_take_forever_to_hash(tmp_path: Path, file):
    """A tuple that holds one twice, which holds one twice ...: 2 ** 60 values in 120 bytes."""
    (tmp_path / "given").mkdir()
    refused(file(Place(tmp_path, tmp_path)), "tuples in tuples without end")


def test_marks_and_memo_are_followed(tmp_path: Path):
    """What is popped with a mark, and tuples that are used often but are short."""
    part = ("a", ("b", 3))
    content = {"model": {"x": np.zeros(3, np.float32)}, "y": [part] * 50_000, "z": {part: {part}}}
    for protocol in (0, 2, 4):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({**content, "z": {part: 1}}, protocol))
        assert {*read(tmp_path / "x.pkl").tensors} == {"x"}


def test_tensors_that_show_the_same_bytes(tmp_path: Path):
    whole = torch.zeros(1000)
    torch.save({f"{i}.weight": whole[i:] for i in range(100)}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "overlap")
