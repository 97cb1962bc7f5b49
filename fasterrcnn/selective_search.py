"""Store the proposals of selective search: ``python -m fasterrcnn.selective_search``.

Uijlings et al., "Selective Search for Object Recognition" (2013), by OpenCV's contributed modules,
which this command alone needs: ``pip install opencv-contrib-python-headless``. Fast R-CNN trained
on such proposals before there were region proposal networks.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fasterrcnn import cli, runtime
from fasterrcnn.data import formats, images, proposals
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.proposals import OfImage
from fasterrcnn.errors import DataError, ProcessDied, UsageError
from fasterrcnn.processes import die_with_parent
from fasterrcnn.recipes import setting


@dataclass(frozen=True)
class Options:
    """Of which images, how, and where to."""

    data_path: Path = setting(help="folder of the data set")
    proposals: Path = setting(help="file to store them in")
    dataset: str = setting("auto", "its format", choices=("auto", *formats.READERS))
    split: str = setting("val", "the split")
    bad_data: str = setting("stop", "bad boxes and images", choices=("stop", "skip"))
    mode: str = setting("fast", "the paper's fast or quality mode", choices=("fast", "quality"))
    top_n: int = setting(2000, "proposals kept per image")
    workers: int | None = setting(None, "processes (default: cores, at most 8)")


def main(argv: list[str] | None = None) -> None:
    """The command."""
    options = cli.parse_options(Options, argv, "Store the proposals of selective search.")
    version = _opencv().__version__
    problems = Problems(skip=options.bad_data == "skip")
    data = formats.read(options.data_path, options.split, options.dataset, (), problems)
    source = {
        "method": f"selective search, {options.mode}, OpenCV {version}",
        "top_n": options.top_n,
        "images": data.digest(),
    }
    if proposals.is_there(options.proposals, source):
        print(f"{options.proposals}: there already, of these images")
        return
    rt = runtime.start("cpu")
    workers = rt.default_workers() if options.workers is None else options.workers
    files = [(data.path(i), bool(data.rotate[i])) for i in range(len(data))]
    # OpenCV's threads do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    made = []
    try:
        with ProcessPoolExecutor(max(1, workers), spawn, _start_worker) as pool:
            for found in pool.map(partial(search, options.mode, options.top_n), files):
                made.append(found)
                if len(made) % 100 == 0:
                    print(f"{len(made)} of {len(files)} images", flush=True)
    except BrokenProcessPool:
        raise ProcessDied("selective search: a process was killed; lower --workers") from None
    seconds = float(np.mean([second for _, second in made]))
    about = {"source": source, "made_by": source["method"], "seconds_per_image": seconds}
    proposals.write(options.proposals, data.ids, [found for found, _ in made], about)
    count = sum(len(found.scores) for found, _ in made)
    print(f"{count} proposals in {len(data)} images, {seconds:.3f} s an image: {options.proposals}")


def search(mode: str, top_n: int, file: tuple[str, bool]) -> tuple[OfImage, float]:
    """The proposals in pixels of the image, best first, and the seconds it took.

    Its scores only say the order: selective search has none.
    """
    path, rotate = file
    try:
        image = images.decode(path, apply_orientation=rotate)
    except ValueError as error:
        raise DataError(f"{path}: {error}; replace the file") from None
    method = _opencv().ximgproc.segmentation.createSelectiveSearchSegmentation()
    ctypes.CDLL(None).srand(0)  # OpenCV ranks regions by C's random numbers
    started = time.monotonic()
    method.setBaseImage(np.ascontiguousarray(image.permute(1, 2, 0).flip(2).numpy()))
    if mode == "fast":
        method.switchToSelectiveSearchFast()
    else:
        method.switchToSelectiveSearchQuality()
    x, y, w, h = np.split(method.process()[:top_n].astype(np.float32), 4, axis=1)
    seconds = time.monotonic() - started
    scores = np.linspace(1, 0, len(x), endpoint=False, dtype=np.float32)
    return OfImage(np.hstack([x, y, x + w, y + h]), scores, tuple(image.shape[1:])), seconds


def _start_worker() -> None:
    """One thread each, so that the time of an image is that of one core; Ctrl-C is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    _opencv().setNumThreads(1)


def _opencv() -> Any:
    try:
        import cv2

        _ = cv2.ximgproc.segmentation
    except (ImportError, AttributeError):
        raise UsageError(
            "selective search: needs OpenCV's contributed modules; pip install "
            "opencv-contrib-python-headless"
        ) from None
    return cv2


if __name__ == "__main__":
    cli.run(main)
