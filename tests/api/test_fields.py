"""Keyword arguments as flags."""

from __future__ import annotations

from dataclasses import dataclass

from fasterrcnn.api.fields import as_flags


@dataclass
class Options:
    resume: bool = False
    track: tuple[str, ...] = ()


def test_every_kind_of_value():
    given = {
        "resume": True, "lr": 0.1, "steps": None, "track": ("a", "b"), "input.min_size": 3,
        "data.keep_empty": False, "rpn.round_anchors": True, "seed": -1, "classes": [],
    }  # fmt: skip
    assert as_flags(given, Options) == [
        "--resume", "--lr=0.1", "--track=a,b", "--input.min-size=3", "--no-data.keep-empty",
        "--rpn.round-anchors", "--seed=-1", "--classes=",
    ]  # fmt: skip
    assert as_flags({"resume": False}, Options) == []
