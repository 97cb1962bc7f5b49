"""A bar on a terminal, lines elsewhere."""

from __future__ import annotations

import pytest

from fasterrcnn import progress


@pytest.mark.parametrize("total, of", [(3, " of 3"), (None, "")])
def test_lines_where_the_output_is_a_file(monkeypatch, capsys, total: int | None, of: str):
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown = progress.Progress(total, "images")
    for _ in range(3):
        shown.step()
    shown.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert len(lines) < 3, "not after every image"
    assert all(f"{of} images, 0.0 images/s" in line for line in lines)
    assert str(shown).startswith(f"3{of} images, ")


def test_a_bar_and_no_lines_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_EVERY", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    shown = progress.Progress(2, "images")
    shown.step()
    shown.close()
    assert capsys.readouterr().out == ""
