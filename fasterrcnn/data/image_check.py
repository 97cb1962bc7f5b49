"""Looks at the image files of a split before the first step: headers always, pixels once.

Every verdict goes to `image_cache` as it comes, so nothing is looked at twice unless it changes,
and a check that is interrupted goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from fasterrcnn.data import image_cache, images, windows
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.bands import Unsettled
from fasterrcnn.data.image_cache import ImageCache, key_of
from fasterrcnn.data.images import Seen, Verdict
from fasterrcnn.data.problems import Problems
from fasterrcnn.errors import DataError
from fasterrcnn.pixel_format import AS_STORED
from fasterrcnn.progress import Progress

LEVELS = ("all", "headers")
MANY = 20_000  # images; of more than these, only headers and end marks are looked at by default
_CHUNK = 2048  # files between two queries of the cache
_PART, _LARGE_PART = 16, 256  # files that a thread takes at once: to read, and to ask about

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_headers(paths: Iterable[Path | str], problems: Problems | None = None) -> list[Verdict]:
    """The verdict on each image file, which rests on its header at least.

    Of files in ``problems.kept`` the header is the one kept there, whatever has become of the file.
    """
    files = [str(path) for path in paths]
    verdicts = _verdicts(files, len(files), Seen.HEADER, images.inspect, "image headers", problems)
    verdicts = [_within_limit(verdict) for verdict in verdicts]
    if problems is not None and problems.kept:
        names = (os.path.abspath(file) for file in files)  # noqa: PTH100 # keeps symbolic links
        for k, name in enumerate(names):
            if name in problems.kept:
                verdicts[k] = Verdict(problems.kept[name], Seen.NOTHING)
    return verdicts


def check(annotations: Annotations, problems: Problems, level: str | None) -> Annotations:
    """The images that `find_damaged` finds nothing wrong with; the others become faults.

    Raises DataError for faults, and if no image is left.
    """
    damaged = find_damaged(annotations, problems, level)
    for i, phrase in damaged.items():
        problems.fault(*place_of(annotations, i), phrase)
    problems.stop_if_any()
    if len(damaged) == len(annotations):
        raise DataError(f"{annotations.folder}: none of {len(annotations)} images can be decoded")
    usable = np.ones(len(annotations), bool)
    usable[[*damaged]] = False
    return annotations.select(usable) if damaged else annotations


def place_of(annotations: Annotations, i: int) -> tuple[str, str, str]:
    """File, field and value of a problem with the file of image i."""
    return annotations.path(i), f"image {annotations.ids[i]}", annotations.files[i]


def find_damaged(annotations: Annotations, problems: Problems, level: str | None) -> dict[int, str]:
    """What is wrong with the images that cannot be decoded, by position.

    `level` "all" decodes every image; "headers" only those that lack the end mark of their format.
    None is "all" if bad data is skipped or there are at most `MANY` images, else "headers".
    """
    every = level == "all" or (level is None and (problems.skip or len(annotations) <= MANY))
    wanted, look = (Seen.PIXELS, _decode) if every else (Seen.END, _decode_if_cut)
    asked = np.flatnonzero(annotations.seen < wanted).tolist()
    paths = (annotations.path(i) for i in asked)
    verdicts = _verdicts(paths, len(asked), wanted, look, "checking images", problems)
    return {i: verdict.fault for i, verdict in zip(asked, verdicts, strict=True) if verdict.fault}


def look_again(path: str) -> None:
    """Keep what is true of a file that was taken for a good one and could not be used."""
    key, verdict = key_of(path), _decode(path)
    if key is None or verdict.seen == Seen.NOTHING:
        image_cache.forget(path)
    else:
        cache = ImageCache()
        cache.add(key, verdict)
        cache.close()


def _within_limit(verdict: Verdict) -> Verdict:
    header = images.within_limit(verdict.header)
    return verdict if header is verdict.header else Verdict(header, verdict.seen)


def _decode(path: str) -> Verdict:
    """The verdict on a file after all its pixels were decoded."""
    verdict = images.inspect(path)
    if isinstance(verdict.header, str):
        return verdict
    try:
        if not windows.check(path):
            images.decode(path, apply_orientation=False, pixel_format=AS_STORED)
    except Unsettled as error:
        return Verdict(verdict.header, Seen.NOTHING, str(error))
    except ValueError as error:
        return Verdict(verdict.header, Seen.PIXELS, str(error))
    return Verdict(verdict.header, Seen.PIXELS)


def _decode_if_cut(path: str) -> Verdict:
    verdict = images.inspect(path)
    return _decode(path) if verdict.seen == Seen.HEADER else verdict


def _verdicts(
    paths: Iterable[str],
    total: int,
    wanted: Seen,
    look: Callable[[str], Verdict],
    title: str,
    problems: Problems | None,
) -> list[Verdict]:
    """Verdicts on files that rest on at least `wanted`: cached, or else what `look` says."""
    verdicts: list[Verdict] = []
    same: dict[Verdict, Verdict] = {}  # equal ones are one object: there can be millions
    remaining = iter(paths)
    cache, pool = ImageCache(problems), ThreadPoolExecutor()  # decoders release Python's lock
    shown = Progress(total, "images", title)
    try:
        while chunk := list(islice(remaining, _CHUNK)):
            keys = list(_in_threads(pool, key_of, chunk, _LARGE_PART))
            cached = cache.find(keys)
            settled = [verdict is not None and verdict.seen >= wanted for verdict in cached]
            todo = [path for path, done in zip(chunk, settled, strict=True) if not done]
            fresh = _in_threads(pool, look, todo, _PART)
            shown.step(len(chunk) - len(todo))
            for key, verdict in zip(keys, cached, strict=True):
                if verdict is None or verdict.seen < wanted:
                    verdict = next(fresh)
                    verdict = same.setdefault(verdict, verdict)
                    if key is not None and verdict.seen > Seen.NOTHING:
                        cache.add(key, verdict)
                    shown.step()
                verdicts.append(verdict)
    finally:
        shown.close()
        pool.shutdown(cancel_futures=True)
        cache.close()
    return verdicts


def _in_threads(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Sequence[Item], size: int
) -> Iterator[Result]:
    """`work` of each item, in their order; a thread takes `size` items at once."""
    parts = (items[k : k + size] for k in range(0, len(items), size))
    for results in pool.map(lambda part: [work(item) for item in part], parts):
        yield from results
