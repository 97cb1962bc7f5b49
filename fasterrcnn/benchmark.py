"""Our training and inference against torchvision's: ``python -m fasterrcnn.benchmark``.

Both sides alternate on the same images in one process, with the same weights, frozen stages,
threads and precision: ours by `step.one_step`, torchvision's `fasterrcnn_resnet50_fpn` by the loop
of its reference scripts. Medians over rounds; only with losses that are finite and moved. Networks
that torchvision does not have are measured alone.

Memory and inference are what the published tables call Mem and fps: the largest memory of the GPU's
allocator in training (of the process on a CPU), and images per second at batch 1 from decoded
images to final boxes, NMS included, reading and decoding files excluded.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from fasterrcnn import cli, profiling, recipes, runtime
from fasterrcnn.data import formats, loader, shapes
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.sampler import MicroBatch, Plan, bucket_of
from fasterrcnn.errors import Diverged, UsageError
from fasterrcnn.metrics import coco
from fasterrcnn.models.build import build
from fasterrcnn.models.compiled import compile_learning
from fasterrcnn.recipes import Recipe, setting
from fasterrcnn.runtime import Runtime
from fasterrcnn.step import Training, make_optimizer, one_step

NUM_CLASSES = 91  # as torchvision's COCO detectors
_VAL2017 = 5000  # images
_DECODED = 100  # images that each worker decodes
_LR = 1e-3  # moves the losses of fresh weights without blowing them up


@dataclass(frozen=True)
class Options:
    """What is measured, and for how long."""

    data_path: Path | None = setting(None, "folder of real images (default: synthetic shapes)")
    rounds: int = setting(5, "times the two sides alternate")
    steps: int = setting(4, "training steps of each side in a round")
    quick: bool = setting(False, "2 rounds of 1 step: a first look")
    inference: tuple[int, ...] = setting((1, 16), "batch sizes of inference")
    compile: bool = setting(False, "ours compiled, as train.py")
    json: Path | None = setting(None, "write the results to this file too")
    device: str = setting("auto", "where to compute", choices=("auto", "cuda", "cpu"))
    deterministic: bool = setting(False, "the same bits every time on a GPU, as train.py")


@dataclass
class Side:
    """One of the two: how it trains on a batch, how it detects in one."""

    model: nn.Module
    step: Callable[[loader.Batch], torch.Tensor]  # the loss, on the device
    detect: Callable[[loader.Batch], Any]
    losses: list[float] = field(default_factory=list)
    memory_gb: float = 0.0  # largest in the first training step; only the first side's is its own


def main(argv: list[str] | None = None) -> None:
    """The command."""
    recipe, options = cli.parse_recipe_and_options(Options, argv, "Measure speed.")
    recipes.check(recipe)
    if recipe.detector == "fast_rcnn":
        raise UsageError("--detector: fast_rcnn: not measured alone; measure faster_rcnn")
    rt = runtime.start(options.device, deterministic=options.deterministic)
    recipe = recipes.change(recipe, amp=rt.resolve_amp(recipe.amp), weights="none")
    rt.say(rt.describe())
    with runtime.expected_failures():
        results = benchmark(recipe, options, rt)
    print(table(results))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def benchmark(recipe: Recipe, options: Options, rt: Runtime) -> dict[str, Any]:
    """Everything that is measured, by name. Raises Diverged for losses that mean nothing."""
    rounds, steps = (2, 1) if options.quick else (options.rounds, options.steps)
    with data_folder(options.data_path) as folder:
        data = read(folder, recipe)
        stream = batches(data, recipe, recipe.schedule.images_per_gpu, rounds * steps + 1)
        training = [stream[1 + r * steps : 1 + (r + 1) * steps] for r in range(rounds)]
        sides = {}
        for name, side in make_sides(recipe, rt):
            if name == "ours" and options.compile:
                compile_learning(side.model)
            rt.say(f"warming up: {name}")
            warm_up(side, stream, rt)
            sides[name] = side
        seconds = alternate(sides, "step", training, rt)
        for side in sides.values():
            side.losses.append(float(side.step(stream[0])))
        check_losses(sides)
        inference = {}
        for n in options.inference:
            some = batches(data, recipe, n, rounds)
            for side in sides.values():
                side.model.eval()
                for batch in some:
                    side.detect(batch)
            inference[n] = speed(alternate(sides, "detect", [[b] for b in some], rt), n)
        decoding = decoding_speed(data, recipe.schedule.images_per_gpu, rt)
    for side in sides.values():
        side.model.train()
    first = {name: partial(side.step, stream[0]) for name, side in sides.items()}
    flops, ours = profiling.count_flops(first["ours"]), statistics.median(seconds["ours"])
    peak = profiling.matmul_peak(recipe.amp, rt)
    return {
        "train": speed(seconds, recipe.schedule.images_per_gpu),
        "inference": {**inference[max(inference)], "by_batch_size": inference},
        "host_syncs_per_step": {
            name: profiling.count_waits(step, rt.device) for name, step in first.items()
        },
        "tflops": flops / ours / 1e12,
        "matmul_tflops": peak,
        "share_of_matmul_peak": flops / ours / 1e12 / peak,
        "seconds_by_part": profiling.time_parts(
            sides["ours"].model, [partial(sides["ours"].step, b) for b in training[0]], rt
        ),
        "peak_memory_gb": sides["ours"].memory_gb,
        "decoding": decoding,
        "coco_evaluation_s": evaluation_seconds(data),
        "losses": {name: [side.losses[0], side.losses[-1]] for name, side in sides.items()},
        "recipe": recipe.name,
        "images_per_gpu": recipe.schedule.images_per_gpu,
        "amp": recipe.amp,
        "compiled": options.compile,
        "data": str(options.data_path or "synthetic shapes"),
        **rt.environment(),
    }


def warm_up(side: Side, stream: list[loader.Batch], rt: Runtime) -> None:
    """Every batch once, as on a GPU each padded shape may need kernels of its own; on a CPU the
    first. Memory is the first's."""
    side.model.train()
    rt.reset_peak_memory()
    for i, batch in enumerate(stream[: 1 if rt.device.type == "cpu" else None]):
        side.losses.append(float(side.step(batch)))
        if i == 0:
            side.memory_gb = rt.peak_memory_gb()


def in_torchvision(recipe: Recipe) -> bool:
    """Does torchvision have this network, with these conventions?"""
    stock = recipes.get("fasterrcnn_r50_fpn_1x")
    same = replace(recipe.input, min_size=stock.input.min_size, max_size=stock.input.max_size)
    return (recipe.detector, same, recipe.backbone, recipe.rpn, recipe.roi_heads) == (
        stock.detector, stock.input, stock.backbone, stock.rpn, stock.roi_heads
    )  # fmt: skip


def make_sides(recipe: Recipe, rt: Runtime) -> Iterator[tuple[str, Side]]:
    """Ours and, where it has the network, torchvision's, with the same deterministic weights."""
    torch.manual_seed(0)
    detector = build(recipe, NUM_CLASSES)  # residual branches start small: nothing blows up
    weights = {name: value.clone() for name, value in detector.state_dict().items()}
    yield "ours", ours(rt.place(detector), recipe, rt)
    if not in_torchvision(recipe):
        return
    stock = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES,
        min_size=recipe.input.min_size,
        max_size=recipe.input.max_size,
    )
    # Without pretrained weights torchvision takes norms that are trained; its COCO models' are not.
    for name, module in list(stock.backbone.body.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            frozen = detector.backbone.body.get_submodule(name)
            parent, _, leaf = name.rpartition(".")
            fixed = type(frozen)(module.num_features, eps=frozen.eps)
            setattr(stock.backbone.body.get_submodule(parent), leaf, fixed)
    stock.load_state_dict(weights, strict=True)
    for mine, yours in zip(detector.parameters(), stock.parameters(), strict=True):
        yours.requires_grad_(mine.requires_grad)
    measured = {"torchvision": recipe}
    if recipe.amp != "off":
        measured["torchvision in fp32"] = recipes.change(recipe, amp="off")
    for name, own in measured.items():
        yield name, torchvisions(copy.deepcopy(stock).to(rt.device), own, rt)


def ours(detector: nn.Module, recipe: Recipe, rt: Runtime) -> Side:
    """The step of every run."""
    optimizer = make_optimizer(detector, recipe.schedule)
    training = Training(detector, detector, optimizer, rt.scaler(recipe.amp), None)

    def step(batch: loader.Batch) -> torch.Tensor:
        (scalars,), _ = one_step(training, [batch], recipe, _LR, rt)
        return sum(v for name, v in scalars.items() if name.startswith("loss"))

    @torch.no_grad()
    def detect(batch: loader.Batch) -> Any:
        with rt.autocast(recipe.amp):
            return detector(batch.to(rt.device).images())

    return Side(detector, step, detect)


def torchvisions(model: nn.Module, recipe: Recipe, rt: Runtime) -> Side:
    """The step of pytorch/vision references/detection/engine.py, train_one_epoch."""
    schedule = recipe.schedule
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=_LR,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
    )
    scaler = rt.scaler(recipe.amp)

    def step(batch: loader.Batch) -> torch.Tensor:
        batch = batch.to(rt.device)
        with rt.autocast(recipe.amp):
            losses = model([i / 255 for i in batch.images()], batch.targets())
            total = sum(losses.values())
        if not math.isfinite(total.item()):
            raise Diverged(f"torchvision: loss {total.item()}")
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        return total.detach()

    @torch.no_grad()
    def detect(batch: loader.Batch) -> Any:
        with rt.autocast(recipe.amp):
            return model([i / 255 for i in batch.to(rt.device).images()])

    return Side(model, step, detect)


@contextmanager
def data_folder(path: Path | None) -> Iterator[Path]:
    """The user's, or a temporary one of synthetic shapes."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        shapes.write(Path(folder), train=64, val=0)
        yield Path(folder)


def read(folder: Path, recipe: Recipe) -> Annotations:
    """The training images that have boxes."""
    data = formats.read(folder, recipe.data.train_split, "auto", (), Problems())
    return data.select(data.with_boxes())


def batches(data: Annotations, recipe: Recipe, images: int, count: int) -> list[loader.Batch]:
    """The first `count` micro-batches of `images` images of training, decoded."""
    bucket = [bucket_of(int(h), int(w), recipe.input) for h, w in data.sizes]
    plan = Plan(data.ids, bucket, seed=0, images_per_gpu=images, micro_batches_per_step=1)
    dataset = loader.Images(data, flip=recipe.input.flip)
    return [dataset[micro_batch] for micro_batch in plan.micro_batches(0, count, 0, 1)]


def decoding_speed(data: Annotations, images: int, rt: Runtime) -> dict[str, float]:
    """Images per second of one core, and of the loader's workers in micro-batches of `images`;
    megapixels of an image."""
    dataset, workers = loader.Images(data), rt.default_workers()
    position, per_worker = itertools.cycle(range(len(data))), math.ceil(_DECODED / images)
    every = [
        MicroBatch(0, 0, 0, tuple(itertools.islice(position, images)))
        for _ in range(per_worker * (workers + 1))
    ]
    started = time.perf_counter()
    alone = sum(len(dataset[one].names) for one in every[:per_worker])
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


def evaluation_seconds(data: Annotations) -> float:
    """COCO's metrics of as many images as val2017 has, the data's over and over, with a hundred
    detections each: its own boxes, moved."""
    random = np.random.default_rng(0)
    many = data.take(np.arange(_VAL2017) % len(data))
    image = np.repeat(np.arange(len(many)), 100)
    counts = np.diff(many.first)[image]
    box = many.first[image] + (random.random(len(image)) * counts).astype(int)
    moved = many.xywh[box] * random.normal(1.0, 0.1, (len(image), 4))
    detections = np.column_stack([image, moved, random.random(len(image)), many.labels[box]])
    started = time.perf_counter()
    coco.evaluate(many, detections)
    return time.perf_counter() - started


def alternate(
    sides: dict[str, Side], what: str, rounds: list[list[loader.Batch]], rt: Runtime
) -> dict[str, list[float]]:
    """Seconds per batch in which each side does `what`, "step" or "detect", in each round; who goes
    first changes every round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i, some in enumerate(rounds):
        for name, side in [*sides.items()][:: 1 if i % 2 == 0 else -1]:
            rt.synchronize()
            started = time.perf_counter()
            outputs = [getattr(side, what)(batch) for batch in some]
            rt.synchronize()
            seconds[name].append((time.perf_counter() - started) / len(some))
            if what == "step":
                side.losses += [float(loss) for loss in outputs]
        latest = ", ".join(f"{name} {values[-1]:.3f} s" for name, values in seconds.items())
        rt.say(f"{what}, round {i + 1} of {len(rounds)}: {latest} a batch")
    return seconds


def check_losses(sides: dict[str, Side]) -> None:
    """Raise Diverged unless losses are finite and the last, of the first batch again, moved."""
    for name, side in sides.items():
        if not all(map(math.isfinite, side.losses)) or side.losses[-1] == side.losses[0]:
            raise Diverged(f"{name}: losses {side.losses}: no throughput is worth these")


def speed(seconds: dict[str, list[float]], images: int) -> dict[str, Any]:
    """Images per second of the medians, and how many times torchvision's ours is."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    result = {"images_per_s": images / median.pop("ours"), "seconds": seconds}
    for name, value in median.items():
        result[f"{name.replace(' ', '_')}_images_per_s"] = images / value
    if "torchvision" in median:
        result["ratio"] = result["images_per_s"] / result["torchvision_images_per_s"]
    return result


def table(results: dict[str, Any]) -> str:
    """What a person wants to see."""
    rows = [("training", results["train"], results["images_per_gpu"])]
    rows += [("inference", s, n) for n, s in results["inference"]["by_batch_size"].items()]
    lines = [f"{results['amp']}, images: {results['data']}"]
    lines += [
        f"{what:9} batch {n:2}: {s['images_per_s']:8.2f} img/s" + _against(s) for what, s, n in rows
    ]
    waits, decoding = results["host_syncs_per_step"], results["decoding"]
    parts = results["seconds_by_part"].items()
    return "\n".join([
        *lines,
        f"host waits per step: {', '.join(f'{name} {count}' for name, count in waits.items())}",
        f"{results['tflops']:.2f} TFLOP/s, "
        f"{results['share_of_matmul_peak']:.0%} of a large matrix product's",
        "seconds per step: " + ", ".join(f"{name} {value:.4f}" for name, value in parts),
        f"memory in training {results['peak_memory_gb']:.1f} GiB",
        f"decoding: {decoding['images_per_s_per_core']:.0f} img/s of "
        f"{decoding['megapixels']:.2f} megapixels a core, {decoding['images_per_s']:.0f} with "
        f"{decoding['workers']} workers; COCO metrics of {_VAL2017} images: "
        f"{results['coco_evaluation_s']:.2f} s",
    ])  # fmt: skip


def _against(measured: dict[str, Any]) -> str:
    if "ratio" not in measured:
        return " (torchvision has no such network)"
    text = f", torchvision {measured['torchvision_images_per_s']:8.2f}: {measured['ratio']:.2f} x"
    in_fp32 = measured.get("torchvision_in_fp32_images_per_s")
    return text + (f" (in fp32 {in_fp32:.2f})" if in_fp32 else "")


if __name__ == "__main__":
    cli.run(main)
