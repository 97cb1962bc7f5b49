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

import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from fasterrcnn import cli, recipes, runtime
from fasterrcnn.data import formats, loader, shapes
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.sampler import Plan, bucket_of
from fasterrcnn.errors import Diverged, UsageError
from fasterrcnn.models import nms
from fasterrcnn.models.build import FasterRCNN, build
from fasterrcnn.recipes import Recipe, setting
from fasterrcnn.runtime import Runtime
from fasterrcnn.step import Training, make_optimizer, one_step

NUM_CLASSES = 91  # as torchvision's COCO detectors
_LR = 1e-3  # moves the losses of fresh weights without blowing them up


@dataclass(frozen=True)
class Options:
    """What is measured, and for how long."""

    data_path: Path | None = setting(None, "folder of real images (default: synthetic shapes)")
    rounds: int = setting(5, "times the two sides alternate")
    steps: int = setting(4, "training steps of each side in a round")
    quick: bool = setting(False, "2 rounds of 1 step: a first look")
    inference: tuple[int, ...] = setting((1, 16), "batch sizes of inference")
    json: Path | None = setting(None, "write the results to this file too")
    device: str = setting("auto", "where to compute", choices=("auto", "cuda", "cpu"))


@dataclass
class Side:
    """One of the two: how it trains on a batch, how it detects in one."""

    model: nn.Module
    step: Callable[[loader.Batch], torch.Tensor]  # the loss, on the device
    detect: Callable[[loader.Batch], Any]
    losses: list[float] = field(default_factory=list)
    memory_gb: float = 0.0  # largest in the first training step


def main(argv: list[str] | None = None) -> None:
    """The command."""
    recipe, options = cli.parse_recipe_and_options(Options, argv, "Measure speed.")
    recipes.check(recipe)
    if recipe.detector == "fast_rcnn":
        raise UsageError("--detector: fast_rcnn: not measured alone; measure faster_rcnn")
    rt = runtime.start(options.device)
    recipe = recipes.change(recipe, amp=rt.resolve_amp(recipe.amp), weights="none")
    rt.say(rt.describe())
    results = benchmark(recipe, options, rt)
    print(table(results))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def benchmark(recipe: Recipe, options: Options, rt: Runtime) -> dict[str, Any]:
    """Everything that is measured, by name. Raises Diverged for losses that mean nothing."""
    rounds, steps = (2, 1) if options.quick else (options.rounds, options.steps)
    with data_folder(options.data_path) as folder:
        stream = batches(folder, recipe, recipe.schedule.images_per_gpu, rounds * steps + 1)
        training = [stream[1 + r * steps : 1 + (r + 1) * steps] for r in range(rounds)]
        sides = {}
        for name, side in make_sides(recipe, rt):
            side.model.train()
            rt.reset_peak_memory()
            side.losses.append(float(side.step(stream[0])))  # warm-up
            side.memory_gb = rt.peak_memory_gb()
            sides[name] = side
        seconds = alternate(sides, [s.step for s in sides.values()], training, rt)
        for side in sides.values():
            side.losses.append(float(side.step(stream[0])))
        check_losses(sides)
        inference = {}
        for n in options.inference:
            some = batches(folder, recipe, n, rounds)
            for side in sides.values():
                side.model.eval()
                side.detect(some[0])
            inference[n] = speed(
                alternate(sides, [s.detect for s in sides.values()], [[b] for b in some], rt), n
            )
    for side in sides.values():
        side.model.train()
    flops, ours = count_flops(sides["ours"], stream[0]), statistics.median(seconds["ours"])
    peak = matmul_peak(recipe.amp, rt)
    return {
        "train": speed(seconds, recipe.schedule.images_per_gpu),
        "inference": {**inference[max(inference)], "by_batch_size": inference},
        "host_syncs_per_step": {name: count_waits(s, stream[0], rt) for name, s in sides.items()},
        "tflops": flops / ours / 1e12,
        "matmul_tflops": peak,
        "share_of_matmul_peak": flops / ours / 1e12 / peak,
        "seconds_by_part": time_parts(sides["ours"], training[0], rt),
        "train_memory_gb": sides["ours"].memory_gb,
        "losses": {name: [side.losses[0], side.losses[-1]] for name, side in sides.items()},
        "recipe": recipe.name,
        "images_per_gpu": recipe.schedule.images_per_gpu,
        "amp": recipe.amp,
        "data": str(options.data_path or "synthetic shapes"),
        **rt.environment(),
    }


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
    yield "torchvision", torchvisions(stock.to(rt.device), recipe, rt)


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


def batches(folder: Path, recipe: Recipe, images: int, count: int) -> list[loader.Batch]:
    """The first `count` micro-batches of `images` images of training, decoded."""
    data = formats.read(folder, recipe.data.train_split, "auto", (), Problems())
    data = data.select(data.with_boxes())
    bucket = [bucket_of(int(h), int(w), recipe.input) for h, w in data.sizes]
    plan = Plan(data.ids, bucket, seed=0, images_per_gpu=images, micro_batches_per_step=1)
    dataset = loader.Images(data, flip=recipe.input.flip)
    return [dataset[micro_batch] for micro_batch in plan.micro_batches(0, count, 0, 1)]


def alternate(
    sides: dict[str, Side], work: list[Callable], rounds: list[list[loader.Batch]], rt: Runtime
) -> dict[str, list[float]]:
    """Seconds per batch of each side in each round; who goes first changes every round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    pairs = list(zip(sides, work, strict=True))
    for i, some in enumerate(rounds):
        for name, run in pairs if i % 2 == 0 else pairs[::-1]:
            rt.synchronize()
            started = time.perf_counter()
            outputs = [run(batch) for batch in some]
            rt.synchronize()
            seconds[name].append((time.perf_counter() - started) / len(some))
            if isinstance(outputs[0], torch.Tensor):
                sides[name].losses += [float(loss) for loss in outputs]
    return seconds


def check_losses(sides: dict[str, Side]) -> None:
    """Raise Diverged unless losses are finite and the last, of the first batch again, moved."""
    for name, side in sides.items():
        if not all(map(math.isfinite, side.losses)) or side.losses[-1] == side.losses[0]:
            raise Diverged(f"{name}: losses {side.losses}: no throughput is worth these")


def speed(seconds: dict[str, list[float]], images: int) -> dict[str, Any]:
    """Images per second of the medians, and how many times torchvision's ours is."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    result = {"images_per_s": images / median["ours"], "seconds": seconds}
    if "torchvision" in median:
        result["torchvision_images_per_s"] = images / median["torchvision"]
        result["ratio"] = median["torchvision"] / median["ours"]
    return result


class _Waits(TorchDispatchMode):
    """Counts operators that make the host wait for a GPU because it needs their values."""

    count = 0

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.names = {
            "_local_scalar_dense",
            "nonzero",
            "masked_select",
            "equal",
            "torchvision::nms",
        }
        if nms.kernels(device) is None:
            self.names.add("fasterrcnn::nms")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put_") else ()
        by_mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
        self.count += name in self.names or by_mask
        return func(*args, **(kwargs or {}))


def count_waits(side: Side, batch: loader.Batch, rt: Runtime) -> int:
    """Operators of a training step that a GPU's host would wait for, by name, on any device."""
    with _Waits(rt.device) as waits:
        side.step(batch)
    return waits.count


def count_flops(side: Side, batch: loader.Batch) -> int:
    """Floating-point operations of convolutions and matrix products of a training step."""
    with FlopCounterMode(display=False) as counter:
        side.step(batch)
    return counter.get_total_flops()


def matmul_peak(amp: str, rt: Runtime) -> float:
    """TFLOP/s of a large square matrix product in the precision of the step."""
    n = 8192 if rt.device.type != "cpu" else 2048
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(amp, torch.float32)
    a = torch.ones(n, n, dtype=dtype, device=rt.device)
    seconds = []
    for _ in range(5):
        rt.synchronize()
        started = time.perf_counter()
        a @ a
        rt.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * n**3 / min(seconds) / 1e12


def time_parts(side: Side, some: list[loader.Batch], rt: Runtime) -> dict[str, float]:
    """Seconds per step of the parts of our step, waiting for the device between them."""
    spent: dict[str, float] = defaultdict(float)
    model = side.model
    parts = {
        "transform": (model.transform, "forward"),
        "backbone": (model.backbone, "forward" if isinstance(model, FasterRCNN) else "pyramid"),
        "rpn losses": (model.rpn, "losses"),
    }
    if isinstance(model, FasterRCNN):
        parts["proposals"] = (model.rpn, "proposals")
        parts["roi heads"] = (model.roi_heads, "losses")
    with timed(parts, spent, rt):
        started = time.perf_counter()
        for batch in some:
            side.step(batch)
            rt.synchronize()
        total = time.perf_counter() - started
    spent["backward and optimizer"] = total - sum(spent.values())
    return {name: seconds / len(some) for name, seconds in spent.items()}


@contextmanager
def timed(
    parts: dict[str, tuple[nn.Module, str]], spent: dict[str, float], rt: Runtime
) -> Iterator[None]:
    """Inside, calls of these methods add their seconds to `spent`."""

    def watch(name: str, method: Callable) -> Callable:
        def run(*arguments, **named):
            rt.synchronize()
            started = time.perf_counter()
            result = method(*arguments, **named)
            rt.synchronize()
            spent[name] += time.perf_counter() - started
            return result

        return run

    for name, (module, method) in parts.items():
        setattr(module, method, watch(name, getattr(module, method)))
    try:
        yield
    finally:
        for module, method in parts.values():
            delattr(module, method)


def table(results: dict[str, Any]) -> str:
    """What a person wants to see."""
    rows = [("training", results["train"], results["images_per_gpu"])]
    rows += [("inference", s, n) for n, s in results["inference"]["by_batch_size"].items()]
    lines = [f"{results['amp']}, images: {results['data']}"]
    lines += [
        f"{what:9} batch {n:2}: {s['images_per_s']:8.2f} img/s" + _against(s) for what, s, n in rows
    ]
    waits = results["host_syncs_per_step"]
    parts = results["seconds_by_part"].items()
    return "\n".join([
        *lines,
        f"host waits per step: {', '.join(f'{name} {count}' for name, count in waits.items())}",
        f"{results['tflops']:.2f} TFLOP/s, "
        f"{results['share_of_matmul_peak']:.0%} of a large matrix product's",
        "seconds per step: " + ", ".join(f"{name} {value:.4f}" for name, value in parts),
        f"memory in training {results['train_memory_gb']:.1f} GiB",
    ])  # fmt: skip


def _against(measured: dict[str, Any]) -> str:
    if "ratio" not in measured:
        return " (torchvision has no such network)"
    other, ratio = measured["torchvision_images_per_s"], measured["ratio"]
    return f", torchvision {other:8.2f}: {ratio:.2f} x"


if __name__ == "__main__":
    cli.run(main)
