"""Checks of a machine with a GPU, each on its own: whether a part works, and how fast it is.

A check takes a `Subject` and returns a `Result`. All of them run on a CPU too, so that they can be
tested there.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fasterrcnn.data import shapes
from fasterrcnn.engine import benchmark_data, gpu, precision, profiling, runtime, trials
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.engine.step import train_step
from fasterrcnn.models import kernels
from fasterrcnn.recipes import Recipe

NUM_CLASSES = 81  # COCO's
_CLOSE = {  # largest differences from float32 on the CPU, of a loss and of the gradient
    "off": (1e-3, 1e-3),
    "fp16": (1e-2, 3e-2),
    "bf16": (1e-2, 1e-1),
}
_KERNELS = 10  # that are listed
_LONGEST = 300  # s that training on all GPUs may take


@dataclass
class Subject:
    """What is checked: a recipe, whose `amp` is resolved, on the device of this process."""

    recipe: Recipe
    rt: Runtime
    data_path: Path | None = None  # images to decode; None: made-up ones


@dataclass
class Result:
    """What a check found: whether all is well, lines for people, values for programs."""

    passed: bool
    lines: list[str]
    values: dict[str, Any] = field(default_factory=dict)


class _Steps:
    """Training steps of one detector, on batches of the largest shape, by the number of images."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.training = trials.make(subject.recipe, NUM_CLASSES, subject.rt)

    def __call__(self, images: int) -> Callable[[], object]:
        recipe, rt = self.subject.recipe, self.subject.rt
        batch = trials.make_batch(
            images, trials.largest_shape(recipe), trials.BOXES, recipe.input.in_channels
        )
        batch = batch.pin_memory() if rt.pin_memory else batch
        return lambda: train_step(self.training, [batch], recipe, 0.0, rt, micro_batches=1)


def check_kernels(subject: Subject) -> Result:
    """Are the Triton kernels used, and if not, why?"""
    device, started = subject.rt.device, time.perf_counter()
    found = {name: kernels.load(module, device) for name, module in kernels.MODULES.items()}
    seconds = time.perf_counter() - started
    refused = {name: why for name, why in found.items() if isinstance(why, str)}
    lines = [kernels.describe(device), f"compiled and tried in {seconds:.1f} s"]
    return Result(not refused, lines, {"refused": refused, "seconds": seconds})


def check_precision(subject: Subject) -> Result:
    """Are losses and gradients those of the CPU in float32, for the same weights and samples?"""
    found = precision.compare(subject.recipe, NUM_CLASSES, subject.rt, (*_CLOSE,))
    result = Result(True, [])
    for amp, difference in found.items():
        good = all(d <= most for d, most in zip(difference, _CLOSE[amp], strict=True))
        result.passed &= good
        numbers = {k: d if math.isfinite(d) else None for k, d in difference._asdict().items()}
        result.values[amp] = {**numbers, "passed": good}
        result.lines.append(
            f"{'float32' if amp == 'off' else amp}: losses within {difference.loss:.0e}, gradient "
            f"within {difference.gradient:.0e}"
            + ("" if good else "; expected within {:.0e} and {:.0e}".format(*_CLOSE[amp]))
        )
    return result


def check_waits(subject: Subject) -> Result:
    """Does a training step make the host wait for the device?"""
    step = _Steps(subject)(subject.recipe.schedule.images_per_gpu)
    step()
    count = profiling.count_synchronizations(step, subject.rt.device)
    lines = [f"host synchronizations in a training step: {count}"]
    try:
        with gpu.waits_forbidden(subject.rt.device):
            step()
    except RuntimeError as error:
        lines.append(f"it waits: {_first_line(error)}")
    return Result(count == 0 and len(lines) == 1, lines, {"count": count})


def check_profile(subject: Subject) -> Result:
    """What takes how long: host and device, kernels, and parts of the detector."""
    schedule, result = subject.recipe.schedule, Result(True, [])
    step_of = _Steps(subject)
    for images in sorted({schedule.images_per_gpu, schedule.images_per_step}):
        try:
            found = _profile(step_of(images), subject.rt)
        except RuntimeError as error:
            if not trials.is_out_of_memory(error):
                raise
            break
        result.values[str(images)] = found
        result.lines.append(
            f"{images} images in a step: {found['launches']} launches; host "
            f"{found['host_s'] * 1e3:.1f} ms, device {found['device_s'] * 1e3:.1f} ms"
        )
        result.lines += [
            f"{seconds * 1e3:8.2f} ms  {name[:80]}" for name, seconds in found["kernels"].items()
        ]
    model = step_of.training.detector
    parts = profiling.time_parts(model, [step_of(schedule.images_per_gpu)] * 3, subject.rt)
    result.values["seconds_by_part"] = parts
    result.lines.append(
        f"by part, {schedule.images_per_gpu} images: "
        + ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in parts.items())
    )
    return result


def _profile(step: Callable[[], object], rt: Runtime) -> dict[str, Any]:
    """Launches, seconds of host and device of a step, and the kernels that take longest."""
    for _ in range(3):  # in which cudnn tries out algorithms
        step()
    rt.synchronize()
    started = time.perf_counter()
    step()
    host = time.perf_counter() - started
    rt.synchronize()
    with torch.profiler.profile(acc_events=True) as profiler:
        step()
        rt.synchronize()
    seconds: dict[str, float] = defaultdict(float)
    launches = 0
    for event in profiler.events() or ():
        if event.device_type.name != "CPU":
            seconds[event.name] += event.time_range.elapsed_us() / 1e6
            launches += 1
    longest = sorted(seconds.items(), key=lambda kernel: -kernel[1])[:_KERNELS]
    return {
        "launches": launches, "host_s": host, "device_s": sum(seconds.values()),
        "kernels": dict(longest),
    }  # fmt: skip


def check_speed(subject: Subject) -> Result:
    """How fast is training, and how much memory does it take, by the size of a micro-batch?"""
    recipe, rt = subject.recipe, subject.rt
    training = trials.make(recipe, NUM_CLASSES, rt)
    sizes = trials.candidates(recipe.schedule.images_per_step, 1)
    found = [*trials.measure(sizes, lambda images: trials.try_out(training, recipe, rt, images))]
    lines = [
        f"{t.images:3} images a micro-batch: {t.images_per_s:7.1f} img/s, {t.memory_gb:5.1f} GiB"
        for t in found
    ]
    if len(found) < len(sizes):
        lines.append(f"{sizes[len(found)]:3} images a micro-batch: do not fit into the memory")
    values = {"trials": [asdict(t) for t in found], "amp": recipe.amp}
    return Result(bool(found), lines, values)


def check_collectives(subject: Subject) -> Result:
    """Do the GPUs of this machine exchange gradients: one alone, and all in a short training?"""
    device = subject.rt.device
    backend = "gloo" if device.type == "cpu" else "NCCL"
    works = gpu.collectives_work(device)
    line = f"{backend} alone: {'works' if works else 'a wrong sum'}"
    result = Result(works, [line], {"alone": works})
    count = len(runtime.devices()) - 1
    if count > 1:
        code, seconds, error = train_on_all(count, device.type)
        result.passed &= code == 0
        result.lines.append(
            f"training on {count} GPUs: "
            + (f"works, {seconds:.0f} s" if code == 0 else f"exit code {code}: {error}")
        )
        result.values |= {"gpus": count, "exit_code": code}
    return result


def train_on_all(processes: int, device: str) -> tuple[int, float, str]:
    """Three steps of a small detector in so many processes: exit code, seconds, last error line."""
    with tempfile.TemporaryDirectory() as folder:
        shapes.write(Path(folder) / "data", train=4 * processes, val=0)
        command = [
            sys.executable, "-m", "fasterrcnn", "torchrun", f"--nproc-per-node={processes}",
            "--standalone", "-m", "fasterrcnn", "train", "--recipe", "fasterrcnn_r10_fpn_shapes",
            "--device", device, "--data-path", f"{folder}/data", "--val-split", "none",
            "--output-dir", f"{folder}/run", "--steps", "3", "--workers", "0", "--keep", "1",
            "--images-per-step", str(2 * processes), "--images-per-gpu", "2",
        ]  # fmt: skip
        own = Path(__file__).resolve().parents[2]
        path = os.pathsep.join(filter(None, [str(own), os.environ.get("PYTHONPATH")]))
        started = time.perf_counter()
        try:
            done = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
                timeout=_LONGEST, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 8, _LONGEST, f"no end after {_LONGEST} s"
        error = (done.stderr.strip().splitlines() or [""])[-1]
        return done.returncode, time.perf_counter() - started, error


def check_decoding(subject: Subject) -> Result:
    """How many images does this machine decode and augment in a second?"""
    with tempfile.TemporaryDirectory() as folder:
        path = subject.data_path
        if path is None:
            path = Path(folder)
            write_photos(path, 32)
        data = benchmark_data.read(path, subject.recipe)
        found = benchmark_data.decoding_speed(data, subject.recipe, subject.rt)
    line = (
        f"{found['images_per_s']:.0f} img/s by {found['workers']} loader processes, "
        f"{found['images_per_s_per_core']:.0f} by one; {found['megapixels']:.2f} megapixels each, "
        + (f"of {path}" if subject.data_path else "made up; --data-path takes your own")
    )
    return Result(True, [line], {**found, "data": str(subject.data_path or "made up")})


def write_photos(root: Path, count: int) -> None:
    """A data set of made-up JPEG files of 640 x 480 px, which take about as many bytes as photos:
    smooth colors and noise, with one box each."""
    random = np.random.default_rng(0)
    for folder in ("train", "annotations"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        colors = Image.fromarray(random.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        smooth = np.asarray(colors.resize((640, 480), Image.Resampling.BICUBIC), dtype=float)
        noisy = (smooth + random.normal(0, 12, (480, 640, 1))).clip(0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(root / "train" / f"{i}.jpg", quality=90)
    ids = range(count)
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640} for i in ids],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [9, 9, 99, 99], "area": 9801,
             "iscrowd": 0}
            for i in ids
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }  # fmt: skip
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))


CHECKS: dict[str, Callable[[Subject], Result]] = {
    "kernels": check_kernels,
    "precision": check_precision,
    "waiting": check_waits,
    "profile": check_profile,
    "training speed": check_speed,
    "collectives": check_collectives,
    "decoding": check_decoding,
}


def run(check: Callable[[Subject], Result], subject: Subject) -> Result:
    """The result of a check; whatever it raises is a result too, so that the others still run."""
    try:
        return check(subject)
    except Exception as error:
        gpu.free_memory(subject.rt.device)
        return Result(False, [f"{type(error).__name__}: {_first_line(error)}"])


def verdict(results: dict[str, Result], recipe: Recipe, gpus: int) -> tuple[list[str], list[str]]:
    """What works, what limits the speed and which flags to use, a line each; and the flags."""
    failed = [name for name, result in results.items() if not result.passed]
    works = [name for name in results if name not in failed]
    lines = [f"works: {', '.join(works) or 'nothing'}"]
    if failed:
        lines.append(f"does not work as it should: {', '.join(failed)} (see above)")
    flags = ["--amp", _best_amp(results["precision"])]
    tried = [trials.Trial(**t) for t in results["training speed"].values.get("trials", [])]
    most = recipe.schedule.images_per_step // gpus
    if usable := [trial for trial in tried if trial.images <= most]:
        best = trials.fastest(usable)
        flags += ["--images-per-gpu", str(best.images)]
        lines.append(_limit(best, usable, recipe, gpus, results["decoding"].values))
    lines.append(f"flags for training: {' '.join(flags)}")
    return lines, flags


def _best_amp(checked: Result) -> str:
    """The precision to train in: the first of fp16 and bf16 that is close enough."""
    good = (amp for amp in ("fp16", "bf16") if checked.values.get(amp, {}).get("passed"))
    return next(good, "off")


def _limit(
    best: trials.Trial, tried: list[trials.Trial], recipe: Recipe, gpus: int, decoding: dict
) -> str:
    """What limits the speed of training."""
    need, rate = best.images_per_s * gpus, decoding.get("images_per_s", math.inf)
    wanted = f"{gpus} GPU{'s' if gpus > 1 else ''} at {best.images} images a micro-batch: "
    wanted += f"{need:.0f} img/s"
    if rate < need:
        return (
            f"the CPU limits the speed: it decodes {rate:.0f} img/s, of {wanted}; more cores, or "
            "smaller image files"
        )
    own = [trial for trial in tried if trial.images == recipe.schedule.images_per_gpu]
    if own and own[0].images_per_s < 0.9 * best.images_per_s:
        return (
            f"the size of micro-batches limits the speed: {own[0].images_per_s:.0f} img/s a GPU "
            f"with the recipe's {own[0].images} images, of {wanted}"
        )
    return f"the GPU limits the speed: {wanted}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
