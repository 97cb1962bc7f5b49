"""Trial steps on made-up images: how fast training is, and how much memory it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from fasterrcnn import recipes
from fasterrcnn.data.loader import Batch
from fasterrcnn.data.sampler import MicroBatch
from fasterrcnn.engine import gpu
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.engine.step import Training, make_training, train_step
from fasterrcnn.errors import ProcessDied, UsageError
from fasterrcnn.image_sizes import buckets, training_sizes
from fasterrcnn.models.build import build
from fasterrcnn.models.checkpointing import checkpoint_activations
from fasterrcnn.recipes import Recipe

BOXES = 32  # of each made-up image
_WARM_UP, _STEPS = 3, 5  # in the first steps cudnn tries out algorithms
_MOST = 0.9  # of the memory of a GPU: other shapes need some that is not theirs


@dataclass(frozen=True)
class Trial:
    """What training with so many images in a micro-batch was measured to be."""

    images: int
    images_per_s: float
    memory_gb: float


def make_batch(images: int, size: tuple[int, int], boxes: int, channels: int = 3) -> Batch:
    """A batch of `images` of noise of one `size` (H, W; px) with so many random boxes each."""
    height, width = size
    ends = torch.tensor([width, height, width, height], dtype=torch.float32)
    place = torch.rand(images * boxes, 4) * 0.5
    place[:, 2:] += place[:, :2]
    place[:, 2:] += 1 / 64
    return Batch(
        MicroBatch(0, 0, 0, tuple(range(images))),
        names=[""] * images,
        sizes=[size] * images,
        counts=[boxes] * images,
        pixels=torch.randint(256, (images * height * width * channels,), dtype=torch.uint8),
        boxes=place * ends,
        labels=torch.ones(images * boxes, dtype=torch.int64),
        channels=channels,
    )


def largest_shape(recipe: Recipe) -> tuple[int, int]:
    """The padded shape of training with the most pixels (H, W; px)."""
    return max(buckets(training_sizes(recipe)), key=math.prod)


def make(recipe: Recipe, num_classes: int, rt: Runtime, *, checkpointed: bool = False) -> Training:
    """A training with fresh weights on the device of `rt`; `checkpointed` as of ``train
    --checkpoint-activations``."""
    training = make_training(rt.place(build(recipe, num_classes)), recipe, rt)
    if checkpointed:
        checkpoint_activations(training.detector.backbone)
    return training


def try_out(training: Training, recipe: Recipe, rt: Runtime, images: int) -> Trial | None:
    """Train with micro-batches of so many `images` of the largest shape; None: they do not fit."""
    try:
        batch = make_batch(images, largest_shape(recipe), BOXES, recipe.input.in_channels)
        batch = batch.pin_memory() if rt.pin_memory else batch
        rt.reset_peak_memory()
        for step in range(_WARM_UP + _STEPS):
            if step == _WARM_UP:
                rt.synchronize()
                started = time.perf_counter()
            train_step(training, [batch], recipe, 0.0, rt, micro_batches=1)
        rt.synchronize()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        training.optimizer.zero_grad()
        gpu.free_memory(rt.device)
        return None
    seconds = time.perf_counter() - started
    trial = Trial(images, images * _STEPS / seconds, rt.peak_memory_gb())
    return trial if trial.memory_gb <= _MOST * gpu.memory_gb(rt.device) else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory did not suffice."""
    return type(error).__name__ == "OutOfMemoryError"


def candidates(images_per_step: int, ranks: int) -> list[int]:
    """Sizes of micro-batches that divide a step and give every rank at least one, small to large.

    Raises UsageError if there are more ranks than images.
    """
    if ranks > images_per_step:
        raise UsageError(
            f"NGPU: {ranks}: more processes than images in a step; use NGPU=1 to {images_per_step}"
        )
    return [n for n in range(1, images_per_step // ranks + 1) if images_per_step % n == 0]


def choose(
    recipe: Recipe,
    num_classes: int,
    saved: Recipe | None,
    rt: Runtime,
    *,
    checkpointed: bool = False,
) -> tuple[int, str]:
    """The number of images that ``--images-per-gpu auto`` stands for, and a log line. For rank 0.

    `saved`: the recipe of the run if it is continued, which keeps its number, since that decides
    which images are trained on together. `checkpointed` as of `make`. Raises UsageError for more
    ranks than images in a step, ProcessDied if not one image fits into the GPU's memory.
    """
    if saved is not None:
        number = saved.schedule.images_per_gpu
        return number, f"--images-per-gpu auto: {number}, as when this run began"
    sizes = candidates(recipe.schedule.images_per_step, rt.ranks)
    if rt.device.type == "cpu":
        own = recipes.get(recipe.name).schedule.images_per_gpu
        number = max(n for n in sizes if n <= own)
        return number, f"--images-per-gpu auto: {number}; on a CPU nothing is tried out"
    if recipe.detector == "fast_rcnn":
        raise UsageError("--images-per-gpu: auto: not with stored proposals; give a number")
    found = [*measure(sizes, _trial(recipe, num_classes, rt.device, checkpointed))]
    gpu.free_memory(rt.device)
    if not found:
        raise ProcessDied("GPU memory: one image does not fit; lower --input.max-size")
    number = fastest(found).images
    shown = ", ".join(f"{t.images}: {t.images_per_s:.0f}" for t in found)
    most = recipe.schedule.images_per_step // number
    processes = f"1 to {most} processes" if most > 1 else "1 process"
    return number, (
        f"--images-per-gpu auto: {number} (images/s on one GPU by size: {shown}); recorded, so "
        f"that this run continues with it, on {processes}"
    )


def _trial(
    recipe: Recipe, num_classes: int, device: torch.device, checkpointed: bool
) -> Callable[[int], Trial | None]:
    """Trials of one detector on `device`, in this process alone; without ``--compile``, which would
    take minutes for each size."""
    alone = Runtime(device)
    training = make(recipe, num_classes, alone, checkpointed=checkpointed)
    return lambda images: try_out(training, recipe, alone, images)


def measure(sizes: list[int], trial: Callable[[int], Trial | None]) -> Iterator[Trial]:
    """A trial of each size, small to large, up to the first that does not fit."""
    for size in sizes:
        found = trial(size)
        if found is None:
            return
        yield found


def fastest(trials: list[Trial]) -> Trial:
    """The smallest of those that are within 3 % of the fastest."""
    most = max(trial.images_per_s for trial in trials)
    return next(trial for trial in trials if trial.images_per_s >= 0.97 * most)
