"""State dicts wherever training scripts put them, under the names the model gave."""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import sys
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.safe_load.reading import read


class Detector(nn.Module):
    """Names as of a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.rpn = nn.Linear(4, 2)


TENSORS = Detector().state_dict()
OTHERS = {name: value + 1 for name, value in TENSORS.items()}


def prefixed(prefix: str, tensors: dict = TENSORS) -> dict:
    return {prefix + name: value for name, value in tensors.items()}


def averaged() -> dict:
    model = Detector()
    model.load_state_dict(OTHERS)
    return AveragedModel(model).state_dict()


def compiled() -> dict:
    model = Detector()
    model.load_state_dict(TENSORS)
    model.backbone = torch.compile(model.backbone)
    return torch.compile(model).state_dict()


CONTENTS = {  # what is saved, the entry that is taken, those that are not
    "plain": (TENSORS, "", ()),
    "DDP": (prefixed("module."), "", ()),
    "compiled, a part again": (compiled(), "", ()),
    "DDP of a compiled one": ({"model": prefixed("module._orig_mod.")}, "model", ()),
    "compiled DDP": ({"model_state_dict": prefixed("_orig_mod.module.")}, "model_state_dict", ()),
    "FSDP": ({"net": prefixed("_fsdp_wrapped_module.")}, "net", ()),
    "Lightning": (
        {"state_dict": prefixed("model._orig_mod."), "hyper_parameters": {"lr": 1}, "loops": {}},
        "state_dict", ()),
    "Lightning with an average": (
        {"state_dict": prefixed("ema_model.module.", OTHERS) | prefixed("model.")},
        "model", ("ema_model.module",)),
    "torchvision's script": (
        {"model_ema": averaged(), "model": TENSORS, "epoch": 3}, "model", ("model_ema",)),
    "other names": ({"net_ema": OTHERS, "net": TENSORS}, "net", ("net_ema",)),
    "an entry of an entry": (
        {"ema": {"module": OTHERS, "updates": 3}, "model": TENSORS}, "model", ("ema.module",)),
    "an average alone, in an entry": ({"ema": {"module": TENSORS}}, "ema.module", ()),
    "MMEngine's average": (
        {"ema_state_dict": prefixed("module.", OTHERS), "state_dict": TENSORS},
        "state_dict", ("ema_state_dict",)),
}  # fmt: skip


@pytest.mark.parametrize(("content", "entry", "others"), CONTENTS.values(), ids=CONTENTS)
def test_wrappings(tmp_path: Path, content: dict, entry: str, others: tuple[str, ...]):
    torch.save(content, tmp_path / "x.pth")
    file = read(tmp_path / "x.pth")
    assert {*file.tensors} == {*TENSORS}
    assert all(file.tensors[name].equal(value) for name, value in TENSORS.items())
    assert (file.entry, file.others, file.left_out) == (entry, others, ())


def test_the_average_if_it_is_asked_for(tmp_path: Path):
    torch.save({"model": TENSORS, "model_ema": averaged()}, tmp_path / "x.pth")
    file = read(tmp_path / "x.pth", "model_ema")
    assert all(file.tensors[name].equal(value) for name, value in OTHERS.items())
    assert (file.others, file.left_out) == (("model",), ("n_averaged",))
    with pytest.raises(UsageError, match="--entry: ema: not in the file; it has model, model_ema"):
        read(tmp_path / "x.pth", "ema")


def test_an_average_alone(tmp_path: Path):
    torch.save(averaged(), tmp_path / "x.pth")
    file = read(tmp_path / "x.pth")
    assert {*file.tensors} == {*TENSORS}
    assert file.left_out == ("n_averaged",)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_scripts_save_beside_the_weights(tmp_path: Path, zipped: bool):
    """As torchvision's references/detection/train.py does, and others."""
    model = Detector()
    model.load_state_dict(TENSORS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.rpn(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [16, 22])
    assert isinstance(steps.state_dict()["milestones"], Counter)
    lists = defaultdict(list)
    lists["AP"].append(0.3)
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": steps.state_dict(),
        "args": argparse.Namespace(lr=0.02, output_dir=pathlib.Path("runs"), dtype=torch.float16),
        "epoch": 25,
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "history": lists,
        "config": SimpleNamespace(name="x"),
        "saved": datetime.datetime(2025, 1, 1),
        "order": OrderedDict(a=1),
    }
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    file = read(tmp_path / "x.pth")
    assert {*file.tensors} == {*TENSORS}
    assert file.entry == "model"


class CfgNode(dict):
    """As yacs's: a dictionary with attributes."""


CfgNode.__module__ = "yacs.config"


@pytest.mark.parametrize("zipped", [True, False])
def test_configs_that_are_dictionaries(tmp_path: Path, monkeypatch, zipped: bool):
    """Only the name travels: the class is not there when the file is read."""
    for name in ("yacs", "yacs.config"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["yacs.config"].CfgNode = CfgNode
    config = CfgNode(lr=0.1, anchors=CfgNode(sizes=[32]))
    config.frozen = True
    content = {"model": TENSORS, "cfg": config}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "yacs.config")
    assert {*read(tmp_path / "x.pth").tensors} == {*TENSORS}
    assert "yacs.config" not in sys.modules


class Evil:
    def __reduce__(self):
        return os.mkdir, ("canary",)


@pytest.mark.parametrize("inside", [
    lambda evil: argparse.Namespace(x=evil), lambda evil: Counter({"x": evil}),
    lambda evil: defaultdict(list, x=evil),
], ids=["Namespace", "Counter", "defaultdict"])  # fmt: skip
def test_nothing_inside_a_stub_runs(tmp_path: Path, monkeypatch, inside):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": TENSORS, "args": inside(Evil())}, "x.pth")
    with pytest.raises(CheckpointError, match=r"wants to run posix\.mkdir"):
        read(Path("x.pth"))
    assert not Path("canary").exists()
