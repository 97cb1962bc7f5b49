"""Check a machine with a GPU: what works, what limits the speed, which flags to use.

Kernels, losses and gradients against the CPU's, waiting, launches, seconds by part, images per
second and memory by the size of a micro-batch, several GPUs, decoding. It ends after some minutes
with a verdict and the flags to train with. A check that fails does not stop the others.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fasterrcnn import recipes
from fasterrcnn.cli import flags, shared
from fasterrcnn.engine import gpu, gpu_checks, runtime
from fasterrcnn.errors import UsageError
from fasterrcnn.settings import setting


@dataclass(frozen=True)
class Options:
    """What is checked besides the recipe."""

    data_path: Path | None = setting(None, "folder of images to decode (default: made-up ones)")
    json: Path | None = setting(None, "also write the results to this file")


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises UsageError without a GPU."""
    recipe, options = flags.parse_with_recipe(Options, argv, __doc__)
    recipes.check(recipe)
    if recipe.detector == "fast_rcnn":
        raise UsageError("--detector: fast_rcnn: needs stored proposals; check faster_rcnn")
    if why := gpu.why_none():
        raise UsageError(f"check-gpu: no GPU found: {why}")
    shared.check_outputs({"--json": options.json})
    rt = runtime.start("cuda")
    recipe = recipes.change(recipe, amp=rt.resolve_amp(recipe.amp), weights="none")
    rt.say(f"{rt.describe()}; {recipe.name}, {recipe.amp}")
    subject = gpu_checks.Subject(recipe, rt, options.data_path)
    check_all(subject, len(runtime.devices()) - 1, options.json)


def check_all(subject: gpu_checks.Subject, gpus: int, file: Path | None) -> None:
    """Run all checks, print what they find as they do, and the verdict; write `file`."""
    results = {}
    for name, check in gpu_checks.CHECKS.items():
        started = time.perf_counter()
        result = results[name] = gpu_checks.run(check, subject)
        seconds = time.perf_counter() - started
        print(f"\n{name}: {'ok' if result.passed else 'NOT OK'} ({seconds:.0f} s)", flush=True)
        print("\n".join(f"  {line}" for line in result.lines), flush=True)
    lines, flags_to_use = gpu_checks.verdict(results, subject.recipe, gpus)
    print("\nverdict\n" + "\n".join(f"  {line}" for line in lines))
    if file is not None:
        found = {name: asdict(result) for name, result in results.items()}
        content = {"checks": found, "verdict": lines, "flags": flags_to_use, "gpus": gpus}
        content |= {"recipe": subject.recipe.name, **subject.rt.environment()}
        file.write_text(json.dumps(content, indent=1) + "\n")
