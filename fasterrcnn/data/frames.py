"""Images and the frames of videos, in their order, decoded ahead of time by other processes."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from fasterrcnn.data import images, windows
from fasterrcnn.data.pixel_values import BYTE
from fasterrcnn.data.sources import Source
from fasterrcnn.data.video import Reader
from fasterrcnn.data.windows import InFile
from fasterrcnn.pixel_format import PixelFormat
from fasterrcnn.processes import die_with_parent

Size = tuple[int, int]  # height, width (px)


@dataclass(frozen=True)
class Frame:
    """An image, or one of a video."""

    source: Source
    name: str  # the source's; of a video's frame as if it were a file in a folder of that name
    image: Tensor | InFile | str  # (C, H, W) as displayed; or a phrase: why there is none
    picture: Tensor | InFile | None = None  # what is drawn in its place


class Here(Executor):
    """Runs what it is given at once, in this process."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """As of any Executor."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # raised where the result is asked for, as by a process
            future.set_exception(error)
        return future


def workers(count: int) -> Executor:
    """`count` processes to decode and draw in; 0: this one.

    They leave signals to this process and end with it; tensors come and go in shared memory.
    """
    return ProcessPoolExecutor(count, get_context("fork"), _start_worker) if count else Here()


def read(
    sources: Iterable[Source],
    pool: Executor,
    ahead: int,
    annotated: Callable[[str], Size | None],
    pixel_format: PixelFormat,
    drawn: PixelFormat | None = None,
    side: int = 0,
) -> Iterator[Frame]:
    """The frames of all sources, of which up to `ahead` images are decoded before they are needed.

    `annotated`: the size that boxes of the image of this name refer to, if that is known. Where
    only its stored size fits, its EXIF orientation is not applied. `pixel_format`: a recipe's.
    `drawn`: how pictures are read, if otherwise.
    `side`: of the tiles (px) that are all that is wanted of images, if above 0; larger images stay
    in their files where these can be read in windows.
    """
    waiting: deque[tuple[Source, Future]] = deque()

    def arrived(most: int) -> Iterator[Frame]:
        while len(waiting) > most:
            source, future = waiting.popleft()
            yield Frame(source, source.name, *future.result())

    for source in sources:
        if source.is_video:
            yield from arrived(0)
            yield from _frames(source, pixel_format, drawn)
        else:
            known = annotated(source.name)
            job = pool.submit(_decode, source.path, known, pixel_format, drawn, side)
            waiting.append((source, job))
            yield from arrived(ahead)
    yield from arrived(0)


def _frames(
    source: Source, pixel_format: PixelFormat, drawn: PixelFormat | None
) -> Iterator[Frame]:
    """The frames of a video; if it breaks off, a last one that says why."""
    number = 0
    try:
        for number, image in enumerate(Reader(source.path), start=1):
            read = partial(images.of_array, image.permute(1, 2, 0), BYTE)
            picture = None if drawn is None else read(drawn)
            yield Frame(source, f"{source.name}/{number:06d}.jpg", read(pixel_format), picture)
    except ValueError as error:
        after = f" after frame {number}" if number else ""
        yield Frame(source, source.name, f"{error}{after}")


def _decode(
    path: str,
    annotated: Size | None,
    pixel_format: PixelFormat,
    drawn: PixelFormat | None,
    side: int,
) -> tuple[Tensor | InFile | str, Tensor | InFile | None]:
    """An image, or a phrase, and what is drawn in its place."""
    try:
        if image := windows.in_file(path, pixel_format, side):
            return image, drawn and windows.in_file(path, drawn, side)
        header = images.inspect(path).header if annotated else None
        only_stored_fits = isinstance(header, images.Header) and (
            header.stored == annotated != header.displayed
        )
        read = partial(images.decode, path, apply_orientation=not only_stored_fits)
        picture = None if drawn is None else read(pixel_format=drawn)
        return read(pixel_format=pixel_format), picture
    except ValueError as error:
        return str(error), None


def _start_worker() -> None:
    """Leave signals to the parent and cores to other workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    torch.set_num_threads(1)
