"""Store the proposals of selective search, on which Fast R-CNN was first trained.

Uijlings et al., "Selective Search for Object Recognition" (2013), by OpenCV's contributed modules,
which only this command needs: pip install opencv-contrib-python-headless.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import MISSING, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fasterrcnn.cli import flags, shared
from fasterrcnn.data import formats, image_check, images, proposals
from fasterrcnn.data.pixel_values import displayable
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.proposals import ImageProposals
from fasterrcnn.engine import runtime
from fasterrcnn.errors import DataError, ProcessDied, UsageError
from fasterrcnn.pixel_format import DRAWN
from fasterrcnn.processes import die_with_parent
from fasterrcnn.settings import setting


@dataclass(frozen=True)
class Options:
    """The images, the mode, and the file to write."""

    data_path: Path = shared.data_path(MISSING, "")
    proposals: Path = setting(help="file to write")
    dataset: str = shared.dataset()
    split: str = setting("val", "split whose images are searched")
    bad_data: str = shared.bad_data()
    check_images: str | None = shared.check_images()
    max_image_pixels: int = shared.max_image_pixels()
    mode: str = setting("fast", "the paper's fast or quality mode", choices=("fast", "quality"))
    top_n: int = setting(2000, "proposals kept per image", least=1)
    workers: int | None = shared.workers()


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    options = flags.parse(Options, argv, __doc__)
    version = _opencv().__version__
    images.limit_pixels(options.max_image_pixels)
    problems = Problems(skip=options.bad_data == "skip")
    data = formats.read(options.data_path, options.split, options.dataset, (), problems)
    data = image_check.check(data, problems, options.check_images)
    for line in problems.summary():
        print(line)
    source = {
        "method": f"selective search, {options.mode}, OpenCV {version}",
        "top_n": options.top_n,
        "images": data.digest(),
    }
    if proposals.is_there(options.proposals, source):
        print(f"{options.proposals}: there already, of these images")
        return
    rt = runtime.start("cpu")
    workers = rt.loader_workers(options.workers)
    files = [(data.path(i), bool(data.rotate[i])) for i in range(len(data))]
    # OpenCV's threads do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    made = []
    try:
        limit = (options.max_image_pixels,)
        with ProcessPoolExecutor(max(1, workers), spawn, _start_worker, limit) as pool:
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


def search(mode: str, top_n: int, file: tuple[str, bool]) -> tuple[ImageProposals, float]:
    """The proposals in px of the image, best first, and the seconds they took.

    Selective search has no scores: those stored only give the order.
    """
    path, rotate = file
    try:
        image = displayable(images.decode(path, apply_orientation=rotate, pixel_format=DRAWN))
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
    return ImageProposals(
        np.hstack([x, y, x + w, y + h]), scores, (image.shape[1], image.shape[2])
    ), seconds


def _start_worker(max_image_pixels: int) -> None:
    """Use one thread, so that times are those of one core; leave Ctrl-C to the parent."""
    images.limit_pixels(max_image_pixels)
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
