"""The check of a machine with a GPU, where there is none, and what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fasterrcnn import recipes
from fasterrcnn.commands import check_gpu
from fasterrcnn.engine import gpu, gpu_checks, runtime
from fasterrcnn.engine.gpu_checks import Result, Subject
from fasterrcnn.errors import UsageError


def test_without_a_gpu_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "why_none", lambda: "see whether nvidia-smi lists one")
    with pytest.raises(UsageError) as error:
        check_gpu.main([])
    assert error.value.code == 2
    assert str(error.value) == "check-gpu: no GPU found: see whether nvidia-smi lists one"
    assert capsys.readouterr().out == ""


def test_what_is_printed_and_written(tmp_path: Path, monkeypatch, capsys):
    def fails(subject: Subject) -> Result:
        raise RuntimeError("no luck")

    found = {name: lambda subject: Result(True, ["a line"]) for name in gpu_checks.CHECKS}
    monkeypatch.setattr(gpu_checks, "CHECKS", {**found, "kernels": fails})
    subject = Subject(recipes.fasterrcnn_r10_fpn_shapes(), runtime.start("cpu"))
    check_gpu.check_all(subject, 1, tmp_path / "gpu.json")
    out = capsys.readouterr().out
    assert "kernels: NOT OK" in out and "RuntimeError: no luck" in out and "precision: ok" in out
    assert "verdict" in out and "does not work as it should: kernels" in out
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["checks"]["kernels"] == {
        "passed": False, "lines": ["RuntimeError: no luck"], "values": {}
    }  # fmt: skip
    assert written["flags"][0] == "--amp" and written["device"] == "cpu"
    assert written["verdict"][-1] in out
