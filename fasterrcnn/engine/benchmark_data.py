"""What speed is measured on: images, micro-batches of training, and how fast they are decoded."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fasterrcnn.data import augment, channels, formats, loader, shapes
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.sampler import MicroBatch, Plan
from fasterrcnn.engine import run_data
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.recipes import Recipe

DECODED = 100  # images that each worker decodes


@contextmanager
def data_folder(path: Path | None) -> Iterator[Path]:
    """The user's folder, or a temporary one with synthetic shapes."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        shapes.write(Path(folder), train=64, val=0)
        yield Path(folder)


def read(folder: Path, recipe: Recipe) -> Annotations:
    """The training images with boxes."""
    data = formats.read(folder, recipe.data.train_split, "auto", (), Problems())
    config, _ = channels.resolve([data], recipe.input)
    return channels.of_run(data.select(data.with_boxes()), config)


def batches(
    data: Annotations, recipe: Recipe, images: int, count: int, *, pinned: bool
) -> list[loader.Batch]:
    """The first `count` micro-batches of `images` images of training, decoded and augmented."""
    bucket = run_data.buckets(data, recipe)
    plan = Plan(data.ids, bucket, seed=0, images_per_gpu=images, micro_batches_per_step=1)
    dataset, chosen = (
        loader.Images(data, flip=recipe.input.flip, augment=augment.of(recipe)),
        plan.micro_batches(0, count, 0, 1),
    )
    return list(loader.load(dataset, chosen, workers=0, pin_memory=pinned))


def decoding_speed(data: Annotations, recipe: Recipe, rt: Runtime) -> dict[str, float]:
    """Images decoded and augmented per second by one core and by all loader workers, in the
    recipe's micro-batches; megapixels per image."""
    dataset = loader.Images(data, augment=augment.of(recipe))
    images, workers = recipe.schedule.images_per_gpu, rt.loader_workers(None)
    position, per_worker = itertools.cycle(range(len(data))), math.ceil(DECODED / images)
    every = [
        MicroBatch(0, 0, 0, tuple(itertools.islice(position, images)))
        for _ in range(per_worker * (workers + 1))
    ]
    started = time.perf_counter()
    own = loader.load(dataset, every[:per_worker], workers=0, pin_memory=False)
    alone = sum(len(batch.names) for batch in own)
    rate = alone / (time.perf_counter() - started)
    stream = loader.load(dataset, every, workers=workers, pin_memory=rt.pin_memory)
    next(stream)  # when the workers have started
    started = time.perf_counter()
    count = sum(len(batch.names) for batch in stream)
    return {
        "images_per_s_per_core": rate,
        "images_per_s": count / (time.perf_counter() - started),
        "workers": workers,
        "megapixels": float(data.sizes.astype(float).prod(axis=1).mean()) / 1e6,
    }
