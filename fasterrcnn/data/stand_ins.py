"""Which image takes the place of one whose file went bad during a run: a function of the data.

So the plan of the run stays as it is, and a run that is continued ends with the same bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice

import numpy as np

_TRIED = 100  # if so many in a row cannot be read, it is not their files that are bad


class StandIns:
    """The stand-ins of images, by position.

    `replaced`: images that are not used any more. `skip`: others are replaced too if they cannot be
    decoded.
    """

    def __init__(
        self, bucket: Sequence[int] | np.ndarray, replaced: Collection[int], *, skip: bool
    ) -> None:
        self.bucket = np.asarray(bucket)  # (n,): index of each image's padded shape
        self.replaced = frozenset(replaced)
        self.skip = skip

    def order(self, i: int) -> Iterator[int]:
        """Image i, then the next ones of its padded shape: the first that can be decoded is used
        in the place of image i."""
        return islice((k for k in self._alike(i) if k not in self.replaced), _TRIED)

    def _alike(self, i: int) -> Iterator[int]:
        """Image i and those of its shape. They are searched for only when a second one is asked
        for: few images need a stand-in."""
        yield i
        same = np.flatnonzero(self.bucket == self.bucket[i])
        yield from np.roll(same, -int(np.searchsorted(same, i)))[1:].tolist()
