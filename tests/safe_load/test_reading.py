"""Files of strangers: tensors come out, nothing runs, whatever is wrong is one line."""

from __future__ import annotations

import copy
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fasterrcnn.errors import CheckpointError
from fasterrcnn.safe_load.reading import read

TENSORS = {"a.weight": torch.randn(3, 2), "a.bias": torch.zeros(3), "n": torch.tensor(4)}


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as error:
        read(path)
    text = str(error.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    for word in words:
        assert word in text


def same(path: Path) -> dict:
    file = read(path)
    assert set(file.tensors) == set(TENSORS)
    assert all(file.tensors[k].equal(v) for k, v in TENSORS.items())
    assert len(file.sha256) == 64
    return file.meta


@pytest.mark.parametrize("content", [
    TENSORS,
    {"state_dict": OrderedDict(TENSORS), "meta": {"seen": {1}}, "optimizer": {"lr": 0.1}},
    {"model": TENSORS, "iteration": 3},
    {"state_dict": {f"module.{k}": v for k, v in TENSORS.items()}},
])  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path: Path, content: dict, zipped: bool):
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    same(tmp_path / "x.pth")


def test_safetensors(tmp_path: Path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    same(tmp_path / "x.safetensors")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickled_arrays(tmp_path: Path, protocol: int):
    arrays = {k: v.numpy() for k, v in TENSORS.items()}
    arrays["a.weight"] = np.asfortranarray(arrays["a.weight"])
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    assert same(tmp_path / "x.pkl")["__author__"] == "Detectron2 Model Zoo"


def test_other_byte_orders_and_scalars(tmp_path: Path):
    content = {"blobs": {"x": np.arange(6, dtype=">f4").reshape(2, 3)}, "y": np.float32(3)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, 2))
    assert read(tmp_path / "x.pkl").tensors["x"].equal(torch.arange(6.0).view(2, 3))


class HistoryBuffer:
    """As MMEngine's, which its runner saves in checkpoints."""

    def __init__(self) -> None:
        self.history = np.ones(3)


HistoryBuffer.__module__ = "mmengine.logging.history_buffer"


@pytest.mark.parametrize("zipped", [True, False])
def test_mmengines_objects_become_stubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
):
    """Only the name travels: the class is not there when the file is read."""
    import sys
    from types import ModuleType

    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[names[-1]].HistoryBuffer = HistoryBuffer
    content = {"state_dict": TENSORS, "message_hub": {"loss": HistoryBuffer()}, "meta": {"seed": 1}}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    assert same(tmp_path / "x.pth")["seed"] == 1
    assert "mmengine" not in sys.modules


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "old", "pkl"])
def test_code_is_not_run(tmp_path: Path, kind: str):
    canary = tmp_path / "canary"
    content = {"state_dict": TENSORS, "meta": Canary(canary)}
    path = tmp_path / ("x.pkl" if kind == "pkl" else "x.pth")
    if kind == "pkl":
        path.write_bytes(pickle.dumps({"model": {}, "x": Canary(canary)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    refused(path, "wants to run", "mkdir")
    assert not canary.exists()


def test_arrays_of_objects_are_refused(tmp_path: Path):
    content = {"model": {"x": np.array([{}], dtype=object)}}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, 2))
    refused(tmp_path / "x.pkl", "not a dtype of weights")


def test_an_array_that_claims_more_than_it_brings(tmp_path: Path):
    content = pickle.dumps({"model": {"x": np.zeros(100, np.float32)}}, 2)
    assert content.count(b"Kd\x85") == 1  # the shape, (100,)
    (tmp_path / "x.pkl").write_bytes(content.replace(b"Kd\x85", b"J\xff\xff\xff\x7f\x85"))
    refused(tmp_path / "x.pkl", "cannot be read")


def test_zip_bombs(tmp_path: Path):
    torch.save(TENSORS, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as good:
        with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
            for entry in good.infolist():
                bomb.writestr(entry.filename, good.read(entry))
            bomb.writestr("archive/data/9", bytes(50_000_000))
    refused(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as small:
        small.writestr("archive/data.pkl", os.urandom(100))  # does not even grow
    refused(tmp_path / "y.pth", "compressed")


def test_entries_that_share_their_bytes(tmp_path: Path):
    """A hundred names for the same megabyte."""
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data/0", bytes(1 << 20))
        (entry,) = archive.infolist()
        for i in range(1, 100):
            other = copy.copy(entry)
            other.filename = f"archive/data/{i}"
            archive.filelist.append(other)
    assert (tmp_path / "x.pth").stat().st_size < 2 << 20
    refused(tmp_path / "x.pth", "declares more data than the file holds")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(tmp_path: Path, value: float):
    bad = torch.zeros(7)
    bad[2] = value
    torch.save({"state_dict": {**TENSORS, "b.weight": bad}}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "b.weight: 1 of 7 numbers are NaN or infinite")


def test_tensors_that_are_no_weights(tmp_path: Path):
    torch.save({"state_dict": {"x": torch.eye(3).to_sparse()}}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth")
    torch.save({"state_dict": {"x": torch.zeros(3, dtype=torch.complex64)}}, tmp_path / "y.pth")
    refused(tmp_path / "y.pth", "x: not a dense tensor")


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_damaged_files(tmp_path: Path, suffix: str):
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save(TENSORS, path)
    elif suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in TENSORS.items()}}))
    else:
        save_file(TENSORS, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path)
    path.write_bytes(b"")
    refused(path)


def test_files_without_tensors(tmp_path: Path):
    torch.save([1, 2], tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "holds no state dict")
    torch.save({"meta": {"a": 1}}, tmp_path / "y.pth")
    refused(tmp_path / "y.pth", "holds no tensors")
    refused(tmp_path / "missing.pth", "No such file")


def test_a_pipe_is_no_file(tmp_path: Path):
    os.mkfifo(tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "not a regular file")


def test_names_of_tensors_stay_in_one_short_line(tmp_path: Path):
    save_file(
        {"a\x1b[31m\n" + "w" * 5000: torch.tensor([float("nan")])}, tmp_path / "x.safetensors"
    )
    refused(tmp_path / "x.safetensors", r"a\x1b[31m\nwww")
