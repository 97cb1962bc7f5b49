"""Check that this environment works: packages, devices, an operator of torchvision."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from fasterrcnn.cli import flags

REQUIRED = (
    "numpy",
    "PIL",
    "pycocotools",
    "hotcoco",
    "safetensors",
    "tqdm",
    "matplotlib",
    "yaml",
    "jinja2",
    "msgspec",
)


@dataclass(frozen=True)
class Options:
    """None."""


def main(argv: list[str] | None = None) -> None:
    """Print versions and devices in one line; or what does not work, and exit with code 1."""
    flags.parse(Options, argv, __doc__)
    for name in ("torch", "torchvision", *REQUIRED):
        try:
            __import__(name)
        except ImportError as error:
            sys.exit(
                f"error: {name}: cannot be imported ({error}); install it, or run init_torch.sh"
            )
    import torch
    import torchvision

    from fasterrcnn.engine import runtime

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    devices = runtime.devices()
    for device in devices:
        kept = torchvision.ops.nms(boxes.to(device), torch.tensor([0.9, 0.8, 0.7]).to(device), 0.5)
        if kept.tolist() != [0, 2]:
            sys.exit(f"error: torchvision.ops.nms: wrong result on {device}; reinstall torchvision")
    gpus = [device for device in devices if device.type != "cpu"]
    names = ", ".join(runtime.gpu_name(device) or "" for device in gpus)
    where = (
        f"{len(gpus)} GPU ({names})" if gpus else f"CPU ({torch.get_num_threads()} threads), no GPU"
    )
    print(
        f"ready: Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, {where}"
    )
