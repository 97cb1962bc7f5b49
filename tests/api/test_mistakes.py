"""Which failures are the caller's mistakes."""

from __future__ import annotations

import pytest

from fasterrcnn.api.mistakes import value_errors
from fasterrcnn.errors import CheckpointError, DataError, StorageError, UsageError


@pytest.mark.parametrize("kind", [UsageError, DataError, CheckpointError])
def test_flags_become_parameters(kind: type[Exception]):
    line = "--min-size: 9: larger than --input.max-size 3; see a--bc, -- and /x/--yz (--lr)"
    with pytest.raises(
        ValueError,
        match=r"^min_size: 9: larger than input\.max_size 3; see a--bc, -- and /x/--yz \(lr\)$",
    ):
        with value_errors():
            raise kind(line)


def test_other_failures_stay_what_they_are():
    with pytest.raises(StorageError):
        with value_errors():
            raise StorageError("--output: full")
    with pytest.raises(ZeroDivisionError):
        with value_errors():
            _ = 1 / 0
