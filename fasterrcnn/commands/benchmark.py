"""Measure the speed of training and inference, side by side with torchvision's own.

The two alternate on the same images in one process, with the same weights, frozen stages, threads
and precision: ours by the step of every run, torchvision's fasterrcnn_resnet50_fpn by the loop of
its reference scripts. Medians over rounds; rejected unless losses are finite and change. Networks
that torchvision does not have are measured alone.

Memory and inference are what the published tables call Mem and fps: the largest memory of the GPU's
allocator in training (of the process on a CPU), and images per second at batch 1 from decoded
images to final boxes, NMS included, reading and decoding files excluded.

With --count nothing is measured: what a training step does on a GPU is counted, without one.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fasterrcnn import recipes
from fasterrcnn.cli import flags, shared
from fasterrcnn.data import loader
from fasterrcnn.data.annotations import Annotations
from fasterrcnn.engine import (
    benchmark_data,
    benchmark_sides,
    counting,
    profiling,
    runtime,
    trials,
)
from fasterrcnn.engine.benchmark_sides import NUM_CLASSES, Side, make_sides
from fasterrcnn.engine.fake_gpu import FakeGpu
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.errors import Diverged, UsageError
from fasterrcnn.export import onnx_file
from fasterrcnn.metrics import coco
from fasterrcnn.models.build import Detector
from fasterrcnn.recipes import Recipe
from fasterrcnn.settings import setting

_VAL2017 = 5000  # images
_IMAGE = (480, 640)  # H, W of the images of a step that is counted (px)


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long."""

    data_path: Path | None = setting(None, "folder of real images (default: synthetic shapes)")
    rounds: int = setting(5, "rounds in which the two sides alternate", least=1)
    steps: int = setting(4, "training steps per side and round", least=1)
    count: bool = setting(
        False,
        "count operators, bytes and FLOPs of a training step on a GPU instead of measuring; needs "
        "no GPU",
    )
    quick: bool = setting(False, "2 rounds of 1 step, for a first impression")
    inference: tuple[int, ...] = setting((1, 16), "batch sizes for inference", least=1, filled=True)
    onnx: bool = setting(False, "measure inference of the exported ONNX file too; in float32")
    compile: bool = shared.compile()
    json: Path | None = setting(None, "also write the results to this file")
    device: str = shared.device()
    deterministic: bool = shared.deterministic()


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises Failure."""
    recipe, options = flags.parse_with_recipe(Options, argv, __doc__)
    recipes.check(recipe)
    if recipe.input.in_channels != 3:
        raise UsageError("--input.channels: torchvision, which is compared with, has 3")
    if recipe.detector == "fast_rcnn":
        raise UsageError("--detector: fast_rcnn: not measured alone; measure faster_rcnn")
    if options.count:
        report(count(recipe), count_table, options.json)
        return
    if options.onnx:
        onnx_file.need()
    rt = runtime.start(options.device, deterministic=options.deterministic)
    if options.onnx and rt.device.type != "cpu":
        raise UsageError("--onnx: is measured on the CPU; say --device cpu")
    recipe = recipes.change(recipe, amp=rt.resolve_amp(recipe.amp), weights="none")
    rt.say(rt.describe())
    report(benchmark(recipe, options, rt), table, options.json)


def report(
    results: dict[str, Any], as_text: Callable[[dict[str, Any]], str], file: Path | None
) -> None:
    """Print the results as text, and write them to `file` as json."""
    print(as_text(results))
    if file is not None:
        file.write_text(json.dumps(results, indent=1) + "\n")


def count(recipe: Recipe) -> dict[str, Any]:
    """What a training step does on a GPU, by part: in micro-batches of the recipe's size, and with
    all images of its step in one."""
    recipe = recipes.change(recipe, amp=FakeGpu().resolve_amp(recipe.amp))
    schedule = recipe.schedule
    steps = {}
    for images in sorted({schedule.images_per_gpu, schedule.images_per_step}):
        parts, peak = counting.count_step(recipe, NUM_CLASSES, images, _IMAGE, trials.BOXES)
        total = counting.total(parts)
        found = {name: asdict(cost) for name, cost in (parts | {"all": total}).items()}
        steps[images] = {"parts": found, "peak_bytes": peak}
    return {
        "recipe": recipe.name, "amp": recipe.amp, "image": _IMAGE, "boxes": trials.BOXES,
        "steps": steps, "torch": torch.__version__,
    }  # fmt: skip


def count_table(results: dict[str, Any]) -> str:
    """What was counted, as text for the terminal."""
    (h, w), boxes = results["image"], results["boxes"]
    lines = [
        f"{results['recipe']}, {results['amp']}: a training step on a GPU, counted, not measured; "
        f"images of {w} x {h} px with {boxes} boxes each"
    ]
    for images, step in results["steps"].items():
        lines += ["", f"{f'{images} images':10}  operators  GB read  GB written  TFLOP"]
        lines += [
            f"{name:10}  {c['operators']:9,}  {c['read'] / 1e9:7.2f}  {c['written'] / 1e9:10.2f}  "
            f"{c['flops'] / 1e12:5.2f}"
            for name, c in step["parts"].items()
        ]
        lines.append(f"at most {step['peak_bytes'] / 2**30:.2f} GiB of tensors at a time")
    return "\n".join(lines)


def benchmark(recipe: Recipe, options: Options, rt: Runtime) -> dict[str, Any]:
    """All measurements by name. Raises Diverged for losses that are not finite or do not change."""
    rounds, steps = (2, 1) if options.quick else (options.rounds, options.steps)
    with benchmark_data.data_folder(options.data_path) as folder:
        data = benchmark_data.read(folder, recipe)
        images, pinned = recipe.schedule.images_per_gpu, rt.pin_memory
        stream = benchmark_data.batches(data, recipe, images, rounds * steps + 1, pinned=pinned)
        training = [stream[1 + r * steps : 1 + (r + 1) * steps] for r in range(rounds)]
        sides = {}
        for name, side in make_sides(recipe, rt, compiled=options.compile):
            rt.say(f"warming up: {name}")
            warm_up(side, stream, rt)
            sides[name] = side
        seconds = alternate(sides, "step", training, rt)
        for side in sides.values():
            side.losses.append(float(side.step(stream[0])))
        check_losses(sides)
        detecting, own = dict(sides), sides["ours"].model
        assert isinstance(own, Detector)
        if options.onnx:
            detecting["ONNX"] = benchmark_sides.onnx(own, recipe)
        inference = {}
        for n in options.inference:
            plain = recipes.change(recipe, augment=recipes.Augment())
            some = benchmark_data.batches(data, plain, n, rounds, pinned=pinned)
            for side in detecting.values():
                side.model.eval()
                for batch in some:
                    side.detect(batch)
            inference[n] = speed(alternate(detecting, "detect", [[b] for b in some], rt), n)
        decoding = benchmark_data.decoding_speed(data, recipe, rt)
    for side in sides.values():
        side.model.train()
    first = {name: partial(side.step, stream[0]) for name, side in sides.items()}
    flops, ours = profiling.count_flops(first["ours"]), statistics.median(seconds["ours"])
    peak = profiling.matmul_peak(recipe.amp, rt)
    return {
        "train": speed(seconds, recipe.schedule.images_per_gpu),
        "inference": {**inference[max(inference)], "by_batch_size": inference},
        "host_syncs_per_step": {
            name: profiling.count_synchronizations(step, rt.device) for name, step in first.items()
        },
        "tflops": flops / ours / 1e12,
        "matmul_tflops": peak,
        "share_of_matmul_peak": flops / ours / 1e12 / peak,
        "seconds_by_part": profiling.time_parts(
            own, [partial(sides["ours"].step, b) for b in training[0]], rt
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
    """Train on every batch once, since on a GPU each padded shape may select its own kernels; on a
    CPU on the first one. The first step's peak memory is recorded."""
    side.model.train()
    rt.reset_peak_memory()
    for i, batch in enumerate(stream[: 1 if rt.device.type == "cpu" else None]):
        side.losses.append(float(side.step(batch)))
        if i == 0:
            side.memory_gb = rt.peak_memory_gb()


def evaluation_seconds(data: Annotations) -> float:
    """Seconds that COCO's metrics take for a split of val2017's size with 100 detections per image.

    The images are the data's, repeated; the detections are its boxes, perturbed.
    """
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
    """Seconds per batch of `what`, "step" or "detect", by side and round; the side that goes first
    alternates."""
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
    """Raise Diverged unless all losses are finite and that of the first batch has changed."""
    for name, side in sides.items():
        if not all(map(math.isfinite, side.losses)) or side.losses[-1] == side.losses[0]:
            raise Diverged(
                f"{name}: losses {side.losses}: not finite, or unchanged: no speed is reported"
            )


def speed(seconds: dict[str, list[float]], images: int) -> dict[str, Any]:
    """Images per second by the median of rounds, and the ratio of ours to torchvision's."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    result: dict[str, Any] = {"images_per_s": images / median.pop("ours"), "seconds": seconds}
    for name, value in median.items():
        result[f"{name.replace(' ', '_')}_images_per_s"] = images / value
    if "torchvision" in median:
        result["ratio"] = result["images_per_s"] / result["torchvision_images_per_s"]
    return result


def table(results: dict[str, Any]) -> str:
    """The results as text for the terminal."""
    rows = [("training", results["train"], results["images_per_gpu"])]
    rows += [("inference", s, n) for n, s in results["inference"]["by_batch_size"].items()]
    lines = [f"{results['amp']}, images: {results['data']}"]
    lines += [
        f"{what:9} batch {n:2}: {s['images_per_s']:8.2f} img/s" + _against(s) for what, s, n in rows
    ]
    synchronizations, decoding = results["host_syncs_per_step"], results["decoding"]
    parts = results["seconds_by_part"].items()
    return "\n".join([
        *lines,
        "host synchronizations per step: "
        + ", ".join(f"{name} {count}" for name, count in synchronizations.items()),
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
    in_onnx = measured.get("ONNX_images_per_s")
    exported = f", ONNX {in_onnx:.2f}" if in_onnx else ""
    if "ratio" not in measured:
        return exported + " (torchvision has no such network)"
    text = f", torchvision {measured['torchvision_images_per_s']:8.2f}: {measured['ratio']:.2f} x"
    in_fp32 = measured.get("torchvision_in_fp32_images_per_s")
    return text + (f" (in fp32 {in_fp32:.2f})" if in_fp32 else "") + exported
