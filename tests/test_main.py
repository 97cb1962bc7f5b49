"""What is done before any command."""

from __future__ import annotations

import gc
import os
from types import SimpleNamespace

import pytest

from fasterrcnn import __main__
from fasterrcnn.errors import UsageError


def test_threads_that_wait_leave_their_core_to_other_processes(monkeypatch):
    """The variable is there before the command, and with it torch, is imported."""
    seen = []

    def imported(_: str):
        seen.append(os.environ.get("OMP_WAIT_POLICY"))
        return SimpleNamespace(main=list)

    monkeypatch.setattr(__main__, "import_module", imported)
    monkeypatch.setenv("OMP_WAIT_POLICY", "x")  # so that it is restored
    monkeypatch.delenv("OMP_WAIT_POLICY")
    __main__.run_command("evaluate")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    __main__.run_command("evaluate")
    assert seen == ["passive", "active"]


def test_no_garbage_is_collected_while_a_command_is_imported_and_what_came_is_never_visited(
    monkeypatch,
):
    seen = []

    def imported(_: str):
        seen.append(gc.isenabled())
        if len(seen) == 2:
            raise ModuleNotFoundError(name="torch.nn")
        kept.extend([i] for i in range(1000))
        return SimpleNamespace(main=lambda _: seen.append(gc.isenabled()))

    kept: list = []
    frozen = gc.get_freeze_count()
    monkeypatch.setattr(__main__, "import_module", imported)
    __main__.run_command("evaluate")
    assert seen == [False, True]
    assert gc.get_freeze_count() >= frozen + 1000
    seen[1:] = []
    with pytest.raises(UsageError, match="has no torch;"):
        __main__.run_command("evaluate")
    assert gc.isenabled()
