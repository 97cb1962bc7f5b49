"""What is done before any command."""

from __future__ import annotations

import os
from types import SimpleNamespace

from fasterrcnn import __main__


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
