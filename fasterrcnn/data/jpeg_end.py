"""JPEG files that end too early: whether pixels are missing, or nothing but the end marker.

A decoder refuses both, because it needs the marker to know that the coded data are complete. So
such a file is ended in several ways, with coded data that mean different things. Where pixels are
missing they are made of these, and the images differ; where none is, all of it is ignored.
"""

from __future__ import annotations

import re

import numpy as np

MARKER = b"\xff\xd9"
_CONTINUED = (b"\xff\x00" * 64, b"\x55" * 64, b"\xaa" * 64)  # bits 111111, 010101, 101010
_FILLED = 64  # bytes 0 in a row that an encoder does not write, but an interrupted download does
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_SEGMENT = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])(..)?", re.DOTALL)  # in coded data, FF 00 is FF
_MARK, _PROGRESSIVE, _END, _SCAN = 0xFF, 0xC2, 0xD9, 0xDA
_MAX_SCANS = 200  # encoders write ten; each costs a pass over the image, even if it is empty


def check_scans(data: bytes) -> None:
    """Raise ValueError with a phrase for a JPEG file that is made to take long."""
    values = np.frombuffer(data, np.uint8)  # bytes.count takes three times as long
    scans = np.count_nonzero(values[1:][values[:-1] == _MARK] == _SCAN)
    if scans > _MAX_SCANS:
        raise ValueError(f"{scans} scans; save it again with an image editor")


def endings(data: bytes) -> list[bytes]:
    """The JPEG file `data`, ended after each of several continuations of its coded data.

    Raises ValueError with a phrase if a progressive file lacks whole scans, which they would not
    show.
    """
    unfilled = data.rstrip(b"\0")
    if len(data) - len(unfilled) >= _FILLED:
        data = unfilled
    data = data.removesuffix(b"\xff")  # half of the marker
    if _lacks_scans(data):
        raise ValueError("cannot be decoded (the file is truncated)")
    restarts = _RESTART.findall(data) or [b"\xd7"]
    restart = bytes([0xFF, 0xD0 + (restarts[-1][0] + 1) % 8])  # a decoder may wait for the next one
    return [data + more + restart + more + MARKER for more in _CONTINUED]


def _lacks_scans(data: bytes) -> bool:
    """Whether a progressive file has no scan with the last bit of some coefficient.

    ITU-T T.81: B.2.2 (frame header), B.2.3 (scan header), G.1.1 (what the scans of a progressive
    file must be).
    """
    missing: set[tuple[int, int]] = set()  # component, coefficient
    at = 2
    while segment := _SEGMENT.search(data, at):
        marker, length = segment[1][0], int.from_bytes(segment[2] or b"", "big")
        body = data[segment.start() + 4 : segment.start() + 2 + length]
        if marker == _END:
            break
        if marker == _PROGRESSIVE:
            missing = {(id, k) for id in body[6::3] for k in range(64)}
        if marker == _SCAN and len(body) > 3:
            first, last, bits = body[-3:]
            if bits & 0x0F == 0:
                missing -= {(id, k) for id in body[1:-3:2] for k in range(first, last + 1)}
        at = segment.start() + 2 + length
    return bool(missing)
