"""Random numbers as pure functions of (seed, purpose, position): there is no state to save.

SHA-256 instead of a generator, so that neither a library version nor the number of workers or ranks
can change a value.
"""

import hashlib


def key(seed: int, purpose: str, *where: int | str) -> int:
    """63-bit seed for `purpose` at `where`, e.g. ``key(0, "step", 12, 3)``.

    Only the last part of `where` may contain a slash (an image id can be a path).
    """
    text = "/".join(map(str, (seed, purpose, *where)))
    return (
        int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        >> 1
    )


def for_copy(purpose: str, copy: int) -> str:
    """The purpose of a number for copy `copy` of an image in an epoch, so that copies differ; the
    first copy, 0, has the `purpose` itself."""
    return purpose if copy == 0 else f"{purpose} of copy {copy}"


def fraction(seed: int, purpose: str, *where: int | str) -> float:
    """Uniform number in [0, 1) for `purpose` at `where`."""
    return key(seed, purpose, *where) / 2**63
