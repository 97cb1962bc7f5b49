"""Options that several commands share, each declared once."""

from __future__ import annotations

import os
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from fasterrcnn.data import formats, image_check, images
from fasterrcnn.errors import StorageError, UsageError
from fasterrcnn.settings import setting

_CHECKOUT = Path(__file__).resolve().parents[2]
# Where data and runs are by default: the checkout, or for an installed package the current folder.
PROJECT = _CHECKOUT if (_CHECKOUT / "start_scripts").is_dir() else Path.cwd()
_FORMATS = ("auto", *formats.READERS)


def check_outputs(files: dict[str, Path | None]) -> None:
    """Raise StorageError for a file, by its flag, that could not be written in the end."""
    for flag, file in files.items():
        if file is None:
            continue
        if not file.parent.is_dir():
            raise StorageError(f"{flag}: {file.parent}: no such folder; make it, or give another")
        if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            raise StorageError(f"{flag}: {file}: cannot be written; give another file")


def output_root() -> Path:
    """The folder of run folders: $OUTPUT_DIR, else output/ of the project."""
    return Path(os.environ.get("OUTPUT_DIR") or PROJECT / "output")


def checkpoint(default: Any = MISSING) -> Any:
    """--checkpoint: a trained detector."""
    return setting(
        default, "run folder (its newest checkpoint), RUN/best, or RUN/checkpoints/step-*"
    )


def detector(default: Any = MISSING) -> Any:
    """--checkpoint of what takes any detector."""
    return setting(
        default,
        "run folder (its newest checkpoint), RUN/best, RUN/checkpoints/step-*, exported file, "
        "file of another framework, name of a published one (mmdet:NAME), folder for the Hub or "
        "its name there (hf:ORG/NAME)",
    )


def data_path(default: Any = None, shown: str = " (default: the run's)") -> Any:
    """--data-path: the folder of a data set."""
    return setting(default, f"folder of the data set{shown}")


def dataset(default: str | None = "auto") -> Any:
    """--dataset: the data set's format; None: that of the run."""
    shown = "" if default else " (default: the run's; auto for another folder)"
    help = f"data set format; voc: PASCAL VOC's own boxes{shown}"
    return setting(default, help, choices=_FORMATS)


def bad_data() -> Any:
    """--bad-data: what happens to boxes and images that cannot be used."""
    return setting(
        "stop",
        "what to do with unusable boxes and images: stop and list them, or skip them",
        choices=("stop", "skip"),
    )


def check_images() -> Any:
    """--check-images: how closely image files are looked at before they are used."""
    return setting(
        None,
        "images decoded once before they are used: all, or with headers those that lack the end "
        "mark of their format (default: all with --bad-data skip and in splits of up to "
        f"{image_check.MANY} images, else headers)",
        choices=image_check.LEVELS,
    )


def max_image_pixels() -> Any:
    """--max-image-pixels: for `images.limit_pixels`."""
    return setting(images.MAX_PIXELS, "largest image that is read (pixels)", least=1)


def display_bands() -> Any:
    """--display-bands: for `channels.drawn`, after `check_display_bands`."""
    return setting(
        (),
        "bands of the files, from 1, that pictures show: three as red, green and blue, or one "
        "(default: the first three channels of the run)",
        least=1,
    )


def check_display_bands(given: tuple[int, ...]) -> None:
    """Raise UsageError for a number of bands that is no picture."""
    if len(given) not in (0, 1, 3):
        text = ",".join(map(str, given))
        raise UsageError(f"--display-bands: {text}: must be three bands, or one")


def max_dets(default: int | None, shown: str = "") -> Any:
    """--max-dets: for `evaluation.detector_metrics`."""
    return setting(
        default,
        f"detections per image and class that COCO's metrics count{shown}; LVIS's count 300",
        least=1,
    )


def workers() -> Any:
    """--workers: loader processes."""
    return setting(None, "loader processes per GPU (default: number of cores, at most 8)", least=0)


def device() -> Any:
    """--device: where the network runs."""
    return setting("auto", "device to compute on", choices=("auto", "cuda", "cpu"))


def deterministic() -> Any:
    """--deterministic: bit-reproducible results on a GPU."""
    return setting(False, "bit-reproducible on a GPU too; a CPU always is")


def compile() -> Any:
    """--compile: torch.compile of the training step."""
    return setting(
        False, "compile forward and backward with torch.compile: minutes per padded shape"
    )


def amp() -> Any:
    """--amp of a command that runs a trained detector."""
    return setting(None, "precision (default: the run's)", choices=("auto", "fp16", "bf16", "off"))


def images_per_gpu() -> Any:
    """--images-per-gpu of a command that runs a trained detector."""
    return setting(2, "images of equal padded size per batch", least=1)
