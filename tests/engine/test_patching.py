"""Methods are exchanged, and are the classes' own afterwards."""

from __future__ import annotations

from torch import nn

from fasterrcnn.engine.patching import methods_changed


def test_methods_are_changed_for_a_while_and_missing_ones_left_out():
    model = nn.Sequential(nn.ReLU())
    paths = ("0.forward", "0.nope", "9.forward")
    with methods_changed(model, dict.fromkeys(paths, lambda method: lambda *args: 7)):
        assert model(None) == 7
    assert "forward" not in vars(model[0])
    assert not hasattr(model[0], "nope")
