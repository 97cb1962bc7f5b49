"""Reads the frames of videos and cameras, and writes videos, by PyAV: the extra `video`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fasterrcnn.data import images
from fasterrcnn.data.sources import MARK
from fasterrcnn.errors import StorageError, UsageError

_RATE = 25  # frames per second where a camera does not say
_ENCODER = "h264"


def need() -> Any:
    """PyAV. Raises UsageError if it is not installed."""
    try:
        import av
    except ImportError:
        raise UsageError(
            "videos and cameras need PyAV; pip install av (the extra video of this package)"
        ) from None
    return av


def rate(path: str) -> Fraction:
    """Frames per second of a video, as far as it says."""
    try:
        with need().open(path) as container:
            return container.streams.video[0].average_rate or Fraction(_RATE)
    except need().FFmpegError:
        return Fraction(_RATE)


class Reader:
    """The frames of a video file, a camera (``/dev/video0``) or a URL, as displayed.

    Raises ValueError with a phrase if it cannot be opened; a frame that cannot be decoded raises it
    while iterating.
    """

    def __init__(self, path: str) -> None:
        self._av = need()
        try:
            format = "v4l2" if path.startswith("/dev/") else None
            self._container = self._av.open(path, format=format)
            self._stream = self._container.streams.video[0]
        except self._av.FFmpegError as error:
            raise ValueError(f"cannot be opened as a video ({error.strerror})") from None
        except IndexError:
            raise ValueError("holds no video") from None
        self._stream.thread_type = "AUTO"

    def __iter__(self) -> Iterator[Tensor]:
        """Each frame, uint8 RGB ``(3, H, W)``."""
        try:
            for frame in self._container.decode(self._stream):
                header = images.within_limit(images.Header(frame.height, frame.width, 1))
                if isinstance(header, str):
                    raise ValueError(header)
                pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
                quarters = round(frame.rotation / 90) % 4  # counterclockwise
                yield torch.rot90(pixels, quarters, (1, 2)) if quarters else pixels
        except self._av.FFmpegError as error:
            raise ValueError(f"cannot be decoded to its end ({error.strerror})") from None
        finally:
            self._container.close()


class Writer:
    """A video of pictures, as large as the first of them; `file` ends in .mp4. Every method raises
    StorageError if it cannot be written."""

    def __init__(self, file: Path, rate: Fraction) -> None:
        self._file, self._rate = file, rate
        self._stream: Any = None
        with self._storage_errors():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._container = need().open(str(file), "w")
            self._container.metadata["comment"] = MARK.decode()

    def add(self, picture: Image.Image) -> None:
        """Append a picture."""
        if self._stream is None:
            self._stream = self._container.add_stream(_ENCODER, rate=self._rate)
            # H.264 halves the resolution of colors, so sides are even
            self._stream.width, self._stream.height = (s + s % 2 for s in picture.size)
            self._stream.pix_fmt = "yuv420p"
        size = self._stream.width, self._stream.height
        if picture.size != size:
            picture = picture.crop((0, 0, *size))
        frame = need().VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
        with self._storage_errors():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file."""
        with self._storage_errors():
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))  # what is left in the encoder
            self._container.close()

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, need().FFmpegError) as error:
            raise StorageError(
                f"{self._file}: {error.strerror}; free some space, or choose another --output-dir"
            ) from None
