"""DICOM files, by pydicom, which is an extra: one image of gray values or colors.

Only the elements that say what pixels are get read (`_ELEMENTS`): nothing about a patient enters
this process, and messages have no text of a file or of pydicom in them. Source: DICOM PS3.3,
C.7.6.3 (pixels), C.11.1 (rescale) and C.11.2 (window); PS3.10, 7.1 (the magic).
"""

from __future__ import annotations

import io
import logging
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, Any

import numpy as np

from fasterrcnn import value_range
from fasterrcnn.data.bands import Layout, MissingExtra, Stored, Unsettled, check_bytes

MAGIC_END = 132
_MAGIC = b"DICM"
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # a transfer syntax
_HEAD, _PART = 1 << 12, 1 << 20  # bytes
_ELEMENTS = [
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "EncryptedAttributesSequence",
]  # fmt: skip
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

warnings.filterwarnings("ignore", module=r"pydicom\.")  # they do not say of which file


def is_dicom(start: bytes) -> bool:
    """Whether a file with these first `MAGIC_END` bytes is a DICOM file, and no TIFF file too."""
    return start[128:] == _MAGIC and start[:2] not in (b"II", b"MM")


class _Refused(ValueError):
    """What is not read, in a phrase of this module."""


@contextmanager
def _without_quotes() -> Iterator[None]:
    """Errors inside become a ValueError that quotes nothing, and pydicom logs nothing."""
    try:
        import pydicom
    except ModuleNotFoundError:
        raise MissingExtra(
            "a DICOM file: needs pydicom; pip install pydicom (the extra dicom of this package)"
        ) from None
    logging.getLogger(pydicom.__name__).setLevel(logging.CRITICAL)
    try:
        yield
    except (_Refused, Unsettled):
        raise
    except Exception as error:  # of many kinds
        raise ValueError(f"a damaged DICOM file: {type(error).__name__}") from None


def open_dicom(file: IO[bytes]) -> Stored:
    """The image in a file, whose header is read. Raises ValueError with a phrase."""
    with _without_quotes():
        import pydicom

        _check_deflated(file)
        return _stored(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*_ELEMENTS]))


def _check_deflated(file: IO[bytes]) -> None:
    """Raise Unsettled if the whole file is deflated, as PS3.5, A.5 allows, and too large: pydicom
    inflates it at once."""
    head = file.read(_HEAD)
    meta = 12 + int.from_bytes(head[MAGIC_END + 8 : MAGIC_END + 12], "little")  # PS3.10, 7.1
    if _DEFLATED in head:
        file.seek(MAGIC_END + meta)
        packed, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while part := packed.unconsumed_tail or file.read(_HEAD):
            count += len(packed.decompress(part, _PART))
            check_bytes(count)
    file.seek(0)


def _stored(found: Any) -> Stored:
    if "Rows" not in found or "Columns" not in found:
        why = " (its attributes are encrypted)" if "EncryptedAttributesSequence" in found else ""
        raise _Refused(f"a DICOM file without an image{why}")
    if (frames := int(found.get("NumberOfFrames") or 1)) > 1:
        raise _Refused(
            f"a DICOM file of {frames} frames; write each to a file of its own "
            "(datasets/README.md, DICOM)"
        )
    _check_kind(found)
    _check_codec(found)
    is_gray = found.PhotometricInterpretation in _GRAY
    low, high = _ends(found)
    kind = "u1" if found.BitsAllocated == 8 and (not is_gray or (low, high) == (0, 255)) else "i2"
    return Stored(
        int(found.Rows),
        int(found.Columns),
        1 if is_gray else 3,
        Layout.PLAIN,
        np.dtype(kind),
        partial(_pixels, np.dtype(kind)),
        window=_window(found) if is_gray else "",
    )


def _check_kind(found: Any) -> None:
    """Raise _Refused for pixels that are no image of numbers."""
    kind, bits = found.get("PhotometricInterpretation"), found.get("BitsAllocated")
    if kind not in (*_GRAY, *_COLOR) or bits not in (8, 16, 32):
        colors = kind if kind in (*_GRAY, *_COLOR, "PALETTE COLOR") else "other colors"
        raise _Refused(
            f"a DICOM file of {colors}, {bits} bits; read are gray, RGB and YBR of 8, 16 and 32"
        )
    if "ModalityLUTSequence" in found:
        raise _Refused("a DICOM file whose values are in a table (Modality LUT); convert it")


def _check_codec(found: Any) -> None:
    """Raise MissingExtra if the pixels cannot be decompressed here, _Refused if nowhere."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import AllTransferSyntaxes

    syntax = found.file_meta.get("TransferSyntaxUID")
    try:
        decoder = get_decoder(syntax)
    except (NotImplementedError, TypeError, ValueError):
        name = syntax.name if syntax in AllTransferSyntaxes else "an unknown compression"
        raise _Refused(f"a DICOM file of {name}, which is not read; decompress it") from None
    if not decoder.is_available:
        raise MissingExtra(
            f"a DICOM file of {syntax.name}: needs a codec; pip install {_lacking(decoder)}"
        )


def _lacking(decoder: Any) -> str:
    """The packages, if they are not installed, that decode most."""
    needed = next((d for d in decoder.missing_dependencies if "pylibjpeg-" in d), "")
    return " ".join(dict.fromkeys(re.findall(r"([\w-]+)>=", needed)))


def _scale(found: Any) -> tuple[float, float]:
    """Slope and intercept."""
    return float(found.get("RescaleSlope") or 1), float(found.get("RescaleIntercept") or 0)


def _ends(found: Any) -> tuple[float, float]:
    """The least and the greatest value that gray pixels can have, once rescaled."""
    bits, signed = int(found.get("BitsStored") or found.BitsAllocated), found.PixelRepresentation
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = _scale(found)
    return least * slope + intercept, most * slope + intercept


def _window(found: Any) -> str:
    """The values that the file's first window makes black and white, as a value range; empty if it
    states none."""
    first = []
    for name in ("WindowCenter", "WindowWidth"):
        value = found.get(name)
        try:
            first.append(float(value[0] if isinstance(value, Sequence) else value))
        except (TypeError, ValueError, IndexError):
            return ""
    center, width = first
    if found.get("VOILUTFunction", "LINEAR") == "LINEAR":  # PS3.3, C.11.2.1.2.1
        center, width = center - 0.5, width - 1
    if not width > 0:
        return ""
    low, high = center - width / 2, center + width / 2
    if found.PhotometricInterpretation == "MONOCHROME1":
        both = sum(_ends(found))
        low, high = both - high, both - low
    return value_range.as_text(low, high)


def _pixels(dtype: np.dtype, data: bytes) -> np.ndarray:
    """The values of a file's content ``(H, W, N)``, rescaled; greater is brighter."""
    with _without_quotes():
        import pydicom
        from pydicom.pixels.decoders.base import get_decoder

        tags = [*_ELEMENTS, "PixelData"]
        found = pydicom.dcmread(io.BytesIO(data), specific_tags=tags)
        if not found.get("PixelData"):
            raise _Refused("a DICOM file without pixels")
        decoder = get_decoder(found.file_meta.TransferSyntaxUID)
        try:
            values, _ = decoder.as_array(found, index=0)
        except RuntimeError:  # of the codecs that are installed
            if not (packages := _lacking(decoder)):
                raise
            raise MissingExtra(
                f"a DICOM file of {decoder.UID.name} is damaged, or needs another codec; pip "
                f"install {packages}"
            ) from None
        return _rescaled(values, found, dtype)


def _rescaled(values: np.ndarray, found: Any, dtype: np.dtype) -> np.ndarray:
    if found.PhotometricInterpretation not in _GRAY:
        return values
    slope, intercept = _scale(found)
    if (slope, intercept) != (1, 0):
        values = values * slope + intercept
    if found.PhotometricInterpretation == "MONOCHROME1":
        values = sum(_ends(found)) - values.astype(np.float64)
    return values.astype(np.uint8 if dtype == np.uint8 else np.float32)[:, :, None]
