"""The caller's mistakes as ValueErrors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from fasterrcnn.engine.torch_errors import expected_failures
from fasterrcnn.errors import CheckpointError, DataError, UsageError


@contextmanager
def value_errors() -> Iterator[None]:
    """Inside, a failure of the user's input is raised as a ValueError with the same line, in which
    flags are written as parameters: ``--min-size`` as ``min_size``."""
    try:
        with expected_failures():
            yield
    except (UsageError, DataError, CheckpointError) as failure:
        line = re.sub(r"( \(--help lists them\)|; --help lists the flags)$", "", str(failure))
        flag = r"(?<![\w/.-])--([a-z][a-z_.-]*[a-z])"  # not inside a path
        line = re.sub(flag, lambda found: found[1].replace("-", "_"), line)
        raise ValueError(line) from None
